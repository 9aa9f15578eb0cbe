from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree
from tqdm import tqdm

from lirdrec_pyg.config import field
from lirdrec_pyg.data import training_interactions
from lirdrec_pyg.models.base import ModelConfig
from lirdrec_pyg.models.closed_form import NeighborModel
from lirdrec_pyg.nn import SeenItems, SparseOperator

_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ItemKNNConfig(ModelConfig):
    """Hyperparameters of item-based collaborative filtering."""

    model: ClassVar[str] = "item-knn"
    is_closed_form: ClassVar[bool] = True
    has_vectors: ClassVar[bool] = False
    supports_explanations: ClassVar[bool] = True

    num_neighbors: int = field(100, "Neighbors of each item by common users.", min=1)
    user_power: float = field(
        1.0,
        "Exponent p of a user's weight, (number of their items)^-p: weakens users with very many items. 0 weights all "
        "users equally.",
        min=0,
        max=4,
    )
    item_power: float = field(
        0.25, "Exponent p of a neighbor's weight, (number of its users)^-p: weakens popular items.", min=0, max=4
    )


class ItemKNN(NeighborModel):
    r"""Item-based collaborative filtering by conditional probabilities from `"Item-based Top-N Recommendation
    Algorithms" <https://doi.org/10.1145/963770.963776>`_ (Deshpande and Karypis, 2004).

    .. math::
        x_{ui} = \sum_{j \in H_u : \, i \in N(j)} s_{ji}, \qquad
        s_{ji} = \frac{p_{ji}}{\sum_{i' \in N(j)} p_{ji'}}, \qquad
        p_{ji} = \frac{1}{|U_i|^{\alpha}} \sum_{u \in U_i \cap U_j} \frac{1}{|H_u|^{\gamma}}

    with :math:`N(j)` the :math:`k` other items with the largest :math:`p_{ji}`. A user with many items contributes less
    to the similarity of two of them. With :math:`\gamma = 1/2` the rows of the interaction matrix are unit vectors, as
    in that paper. With :math:`\gamma = 1` it is a random walk from item to user to item that weakens popular items by
    :math:`\alpha` (:math:`RP^3_\beta`, `Paudel et al., 2017 <https://doi.org/10.1145/2955101>`_). With
    :math:`\gamma = 0`, as in a plain cosine, a few users with hundreds of items make all of these neighbors.

    Args:
        num_items: number of items.
        k: number of neighbors per item.
        user_power: :math:`\gamma`.
        item_power: :math:`\alpha`.
    """

    config_class = ItemKNNConfig

    def __init__(self, num_items: int, k: int = 100, user_power: float = 1.0, item_power: float = 0.25) -> None:
        super().__init__(num_items, k)
        self.user_power = user_power
        self.item_power = item_power

    @classmethod
    def sizes(cls, config: ItemKNNConfig, data: HeteroData) -> dict[str, Any]:
        return {**super().sizes(config, data), "k": config.num_neighbors}

    def operator(self) -> SparseOperator:
        r"""Return :math:`\mathbf{S}^\top`: neighbors are those of the items in the user's history."""
        return super().operator().t()

    def pair_weights(self, past: Tensor, item: Tensor) -> Tensor:
        return super().pair_weights(item, past)

    def fit(self, data: HeteroData, progress: bool = False) -> None:
        user, item = training_interactions(data)
        num_users, num_items = data["user"].num_nodes, self.num_items
        popularity = degree(item, num_items).clamp_min(1).pow(self.item_power)
        weight = degree(user, num_users)[user].pow(-self.user_power)
        takes = torch.sparse_coo_tensor(torch.stack([user, item]), weight, (num_users, num_items)).coalesce()
        takers = SeenItems.of(torch.stack([item, user]), num_items)  # the other way round: users of each item
        neighbors, similarities = [], []
        block = max(1, _BLOCK_BYTES // (4 * num_items))
        for rows in tqdm(
            torch.arange(num_items, device=user.device).split(block),
            desc="Neighbors by common users",
            unit=" blocks",
            disable=not progress or num_items < 20_000,
        ):
            index = torch.stack(takers.pairs(rows))
            part = torch.sparse_coo_tensor(index, weight.new_ones(index.size(1)), (len(rows), num_users))
            bond = torch.sparse.mm(part, takes).to_dense() / popularity
            bond[torch.arange(len(rows), device=user.device), rows] = -1  # the item itself
            best = bond.topk(self.k, dim=1)
            neighbors.append(best.indices)
            # An item that shares no user with any other has no neighbors.
            total = best.values.sum(dim=1, keepdim=True)
            similarities.append(best.values / total.where(total > 0, 1.0))
        self.neighbor, self.similarity = torch.cat(neighbors), torch.cat(similarities)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, user_power={self.user_power}, item_power={self.item_power}"
