from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import field
from lirdrec_pyg.models.base import PEER_TRAINING, Model, ModelConfig, embedding_dim_field
from lirdrec_pyg.models.embedding import bpr, gathered, squared_norms


@dataclass(frozen=True)
class BPRMFConfig(ModelConfig):
    """Hyperparameters of BPR matrix factorization."""

    model: ClassVar[str] = "bpr-mf"
    training_defaults: ClassVar[Mapping[str, Any]] = PEER_TRAINING

    embedding_dim: int = embedding_dim_field()
    reg_weight: float = field(1e-3, "Weight of the squared norms of a batch's vectors.", min=0)


class BPRMF(Model):
    r"""Matrix factorization trained by Bayesian personalized ranking from `"BPR: Bayesian Personalized Ranking from
    Implicit Feedback" <https://arxiv.org/abs/1205.2618>`_ (Rendle et al., 2009).

    .. math::
        x_{ui} = \mathbf{p}_u^\top \mathbf{q}_i, \qquad
        \mathcal{L} = -\frac{1}{N} \sum_{(u,i,j)} \log \sigma(x_{ui} - x_{uj})
        + \frac{\lambda}{2N} \sum_{(u,i,j)}
        \left( \lVert \mathbf{p}_u \rVert^2 + \lVert \mathbf{q}_i \rVert^2 + \lVert \mathbf{q}_j \rVert^2 \right)

    The paper has one regularization weight for each of the three and uses SGD on single triples. Here they share one
    weight, and Adam optimizes batches, as for all models.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: width :math:`d` of the vectors.
        reg_weight: :math:`\lambda`.
    """

    config_class = BPRMFConfig

    def __init__(self, num_users: int, num_items: int, embedding_dim: int = 64, reg_weight: float = 1e-3) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.reg_weight = reg_weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.user)
        nn.init.xavier_normal_(self.item)

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        return self.user, self.item

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        rows = gathered((self.user, self.item), triples)
        return weight * (bpr(*rows) + self.reg_weight * squared_norms(*rows))
