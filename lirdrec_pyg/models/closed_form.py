"""Models that are computed in closed form, without training steps."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose
from torch_geometric.utils import cumsum

from lirdrec_pyg.data import INTERACTS, training_interactions
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models.attribution import WeightedItems
from lirdrec_pyg.models.base import Model
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import Scores, SeenItems, SparseOperator
from lirdrec_pyg.transforms import SparseBackend

# A dense item-item matrix takes 1.6 GB in float32 at this size, and fit() needs several.
MAX_ITEMS = 20_000
# Neighbors that are compared in one block.
_COMPARED = 2**20


class ClosedFormModel(Model):
    """Base of recommenders without trainable parameters; ``fit`` fills the buffers."""

    @staticmethod
    def input_transform(config: Any, backend: SparseBackend = "torch") -> BaseTransform:
        """Return a transform that changes nothing."""
        return Compose([])

    def fit(self, data: HeteroData, progress: bool = False) -> None:
        """Compute the model from the training interactions and the features of ``data``.

        Args:
            data: a graph of :func:`~lirdrec_pyg.data.build_graph`.
            progress: whether to log progress or show a progress bar.
        """
        raise NotImplementedError


class ItemToItemModel(ClosedFormModel):
    r"""Base of models that score an item by the training items of the user,
    :math:`x_{ui} = \sum_{j \in H_u} B_{ji}`. Users have no vectors.
    """

    def scores(self, history: SeenItems, user_index: Tensor) -> Tensor:
        """Return the scores of all items, shape ``(N, |I|)``.

        Args:
            history: training items of all users.
            user_index: positions of users, shape ``(N,)``.
        """
        raise NotImplementedError

    def pair_weights(self, past: Tensor, item: Tensor) -> Tensor:
        r"""Return :math:`B_{ji}` for items :math:`j` of a history and items :math:`i`, both of shape ``(P,)``."""
        raise NotImplementedError

    def attribution(self, data: HeteroData, vectors: Vectors) -> WeightedItems:
        history = SeenItems.of(data[INTERACTS].edge_index, data["user"].num_nodes)
        return WeightedItems(history, self.pair_weights)

    def vectors(self, data: HeteroData) -> None:
        """Return ``None``: users have no vectors."""

    def ranker(self, data: HeteroData) -> Scores:
        history = SeenItems.of(data[INTERACTS].edge_index, data["user"].num_nodes)
        return Scores(lambda user_index: self.scores(history, user_index), data["item"].num_nodes)


def item_gram(data: HeteroData, value: Tensor) -> Tensor:
    r"""Return :math:`\mathbf{X}^\top \mathbf{X}`, shape ``(|I|, |I|)``, where :math:`\mathbf{X}` has ``value`` at the
    training interactions."""
    edge_index = training_interactions(data)
    takes = torch.sparse_coo_tensor(edge_index, value, (data["user"].num_nodes, data["item"].num_nodes))
    return torch.sparse.mm(takes.t(), takes).to_dense()


def autoencoder_weights(gram: Tensor) -> Tensor:
    r"""Return EASE's :math:`B_{ij} = -P_{ij} / P_{jj}`, 0 for :math:`i = j`, for the inverse :math:`\mathbf{P}` of
    ``gram``."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return inverse.div_(-inverse.diagonal()).fill_diagonal_(0)


def history_sums(history: SeenItems, weight: Tensor, user_index: Tensor) -> Tensor:
    """Return the sum of the rows of ``weight`` for the items of each user in ``user_index``."""
    count = history.start[user_index + 1] - history.start[user_index]
    _, item = history.pairs(user_index)
    return F.embedding_bag(item, weight, cumsum(count)[:-1], mode="sum")


class DenseItemModel(ItemToItemModel):
    r"""Item-to-item model with a dense matrix :math:`\mathbf{B}`, stored in float32, shape ``(|I|, |I|)``.

    Args:
        num_items: number of items, at most 20,000.

    Raises:
        DataError: if there are more items.
    """

    weight: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        if num_items > MAX_ITEMS:
            raise DataError(
                f"`model={self.config_class.model!r}` needs a dense item-item matrix, which is too large for "
                f"{num_items:,} items (at most {MAX_ITEMS:,}). Pass `k_core` to drop rare items, or `model='item-knn'`."
            )
        self.register_buffer("weight", torch.zeros(num_items, num_items))

    def scores(self, history: SeenItems, user_index: Tensor) -> Tensor:
        return history_sums(history, self.weight, user_index)

    def pair_weights(self, past: Tensor, item: Tensor) -> Tensor:
        return self.weight[past, item]


class NeighborModel(ItemToItemModel):
    r"""Item-to-item model in which each item has a few neighbors,
    :math:`x_{ui} = \sum_{j \in N(i) \cap H_u} s_{ij}`, or :math:`x_{ui} = \sum_{j \in H_u : \, i \in N(j)} s_{ji}`
    by the transposed :meth:`operator`.

    Args:
        num_items: number of items.
        k: number of neighbors per item; missing ones are the item itself with similarity 0.
    """

    neighbor: Tensor
    similarity: Tensor

    def __init__(self, num_items: int, k: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.k = min(k, num_items - 1)
        self.register_buffer("neighbor", torch.arange(num_items).unsqueeze(1).repeat(1, self.k))
        self.register_buffer("similarity", torch.zeros(num_items, self.k))
        self._operator: tuple[Tensor, SparseOperator] | None = None

    def operator(self) -> SparseOperator:
        r"""Return :math:`\mathbf{S}` with one row per item, shape ``(|I|, |I|)``."""
        # Cached for these neighbors.
        if self._operator is None or self._operator[0] is not self.neighbor:
            row = torch.arange(self.num_items, device=self.neighbor.device).repeat_interleave(self.k)
            index = torch.stack([row, self.neighbor.flatten()])
            kept = self.similarity.flatten() != 0
            size = self.num_items, self.num_items
            self._operator = self.neighbor, SparseOperator(index[:, kept], self.similarity.flatten()[kept], size)
        return self._operator[1]

    def scores(self, history: SeenItems, user_index: Tensor) -> Tensor:
        row, item = history.pairs(user_index)
        taken = self.similarity.new_zeros(self.num_items, len(user_index))
        taken[item, row] = 1
        return (self.operator() @ taken).t()

    def pair_weights(self, past: Tensor, item: Tensor) -> Tensor:
        rows = max(1, _COMPARED // max(1, self.k))
        found = [
            (self.similarity[i] * (self.neighbor[i] == j.unsqueeze(1))).sum(dim=1)
            for i, j in zip(item.split(rows), past.split(rows), strict=True)
        ]
        return torch.cat(found)

    def extra_repr(self) -> str:
        return f"num_items={self.num_items}, k={self.k}"
