import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree
from tqdm import tqdm

from lirdrec_pyg.config import ItemKNNConfig
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.models.closed_form import NeighbourModel

_BLOCK_BYTES = 64 * 2**20


class ItemKNN(NeighbourModel):
    r"""Item-based collaborative filtering, from `"Item-based Collaborative Filtering Recommendation
    Algorithms" <https://doi.org/10.1145/371920.372071>`_ (Sarwar et al., 2001), for implicit feedback.

    .. math::
        x_{ui} = \sum_{j \in N(i) \cap H_u} s_{ij}, \qquad
        s_{ij} = \frac{|U_i \cap U_j|}{\sqrt{|U_i| |U_j|} + h}

    the cosine of the columns of the interaction matrix, with :math:`N(i)` the :math:`k` other items with
    the largest :math:`s_{ij}`, and a shrinkage :math:`h` (`Ferrari Dacrema et al., 2019
    <https://arxiv.org/abs/1907.06902>`_).

    Args:
        num_items: number of items.
        k: neighbours of an item.
        shrink: :math:`h`.
    """

    def __init__(self, num_items: int, k: int = 100, shrink: float = 0.0) -> None:
        super().__init__(num_items, k)
        self.shrink = shrink

    @classmethod
    def from_config(cls, config: ItemKNNConfig, data: HeteroData) -> "ItemKNN":
        """The model of ``config`` for the items of ``data``."""
        return cls(data["item"].num_nodes, config.num_neighbours, config.shrink)

    def fit(self, data: HeteroData, progress: bool = False) -> None:
        user, item = data[INTERACTS].edge_index.as_subclass(Tensor)
        num_users, num_items = data["user"].num_nodes, self.num_items
        length = degree(item, num_items).sqrt()
        ones = torch.ones(len(user), device=user.device)
        takes = torch.sparse_coo_tensor(torch.stack([user, item]), ones, (num_users, num_items)).coalesce()
        order = item.argsort(stable=True)
        takers, start = user[order], torch.searchsorted(item[order], torch.arange(num_items + 1, device=user.device))
        neighbours, similarities = [], []
        block = max(1, _BLOCK_BYTES // (4 * num_items))
        for rows in tqdm(
            torch.arange(num_items, device=user.device).split(block),
            desc="neighbours by common users",
            unit=" blocks",
            disable=not progress or num_items < 20_000,
        ):
            first, stop = int(start[rows[0]]), int(start[rows[-1] + 1])
            index = torch.stack([item[order[first:stop]] - rows[0], takers[first:stop]])
            part = torch.sparse_coo_tensor(index, ones[: stop - first], (len(rows), num_users))
            common = torch.sparse.mm(part, takes).to_dense()
            similarity = common / (length[rows].unsqueeze(1) * length + self.shrink).clamp_min(1e-12)
            similarity[torch.arange(len(rows), device=user.device), rows] = -1  # the item itself
            best = similarity.topk(self.k, dim=1)
            neighbours.append(best.indices)
            similarities.append(best.values)
        self.neighbour, self.similarity = torch.cat(neighbours), torch.cat(similarities)
