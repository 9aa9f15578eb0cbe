from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.data import training_interactions
from lirdrec_pyg.models.base import ModelConfig
from lirdrec_pyg.models.closed_form import ClosedFormModel
from lirdrec_pyg.models.vectors import Vectors


@dataclass(frozen=True)
class PopularityConfig(ModelConfig):
    """Configuration of the popularity ranking; it has no hyperparameters."""

    model: ClassVar[str] = "popularity"
    is_closed_form: ClassVar[bool] = True


class Popularity(ClosedFormModel):
    r"""Recommends the items with the most training interactions, :math:`x_{ui} = |U_i|`; the weakest baseline.

    Args:
        num_users: number of users.
        num_items: number of items.
    """

    count: Tensor

    config_class = PopularityConfig

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.num_users = num_users
        self.register_buffer("count", torch.zeros(num_items))

    def fit(self, data: HeteroData, progress: bool = False) -> None:
        self.count = degree(training_interactions(data)[1], len(self.count))

    def vectors(self, data: HeteroData) -> Vectors:
        """Return vectors of width 1: 1 for each user, the number of interactions for each item."""
        return Vectors.of(self.count.new_ones(self.num_users, 1), self.count.unsqueeze(1))

    def extra_repr(self) -> str:
        return f"num_users={self.num_users}, num_items={len(self.count)}"
