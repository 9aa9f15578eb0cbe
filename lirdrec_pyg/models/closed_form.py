"""What the peers have in common that are computed at once, without training steps."""

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose

from lirdrec_pyg.config import ModelConfig, SparseBackend
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import Ranker, Scores, SeenItems, SparseOperator


class ClosedFormModel(nn.Module):
    """A recommender without parameters; :meth:`fit` fills its buffers.

    A subclass has ``from_config``.
    """

    @staticmethod
    def graph_transform(config: ModelConfig, progress: bool = False) -> BaseTransform:
        """What the model adds to a graph of :func:`~lirdrec_pyg.data.build_graph` for good: nothing."""
        return Compose([])

    @staticmethod
    def input_transform(config: ModelConfig, backend: SparseBackend = "torch") -> BaseTransform:
        """What can be made ready once for all calls: nothing."""
        return Compose([])

    def fit(self, data: HeteroData, progress: bool = False) -> None:
        """Computes the model from the training interactions and the features of ``data``.

        Args:
            data: a graph of :func:`~lirdrec_pyg.data.build_graph`.
            progress: says what it does, or shows a bar, where it takes seconds.
        """
        raise NotImplementedError

    def vectors(self, data: HeteroData) -> Vectors | None:
        """Vectors whose products are the scores, ``None`` if the scores are no such products."""
        return None

    def ranker(self, data: HeteroData) -> Ranker:
        """What ranks by the model, which was fitted to ``data``."""
        raise NotImplementedError


class ItemToItemModel(ClosedFormModel):
    r"""Scores an item by the items that a user has in training,
    :math:`x_{ui} = \sum_{j \in H_u} B_{ji}`.

    Users have no vectors, and no matrix of users x items is ever held.
    """

    def scores(self, history: SeenItems, user_index: Tensor) -> Tensor:
        """Scores of all items, shape ``(N, |I|)``.

        Args:
            history: training items of all users.
            user_index: positions of users, shape ``(N,)``.
        """
        raise NotImplementedError

    def ranker(self, data: HeteroData) -> Scores:
        num_items = data["item"].num_nodes
        history = SeenItems.of(data[INTERACTS].edge_index, data["user"].num_nodes)
        return Scores(lambda user_index: self.scores(history, user_index), num_items)


class NeighbourModel(ItemToItemModel):
    r"""An item-to-item model in which each item has a few neighbours,
    :math:`x_{ui} = \sum_{j \in N(i) \cap H_u} s_{ij}`, or :math:`x_{ui} = \sum_{j \in H_u : \, i \in N(j)} s_{ji}`
    by the transposed :meth:`operator`.

    Args:
        num_items: number of items.
        k: neighbours of an item; fewer than that are followed by the item itself, at a similarity of 0.
    """

    neighbour: Tensor
    similarity: Tensor

    def __init__(self, num_items: int, k: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.k = min(k, num_items - 1)
        self.register_buffer("neighbour", torch.arange(num_items).unsqueeze(1).repeat(1, self.k))
        self.register_buffer("similarity", torch.zeros(num_items, self.k))
        self._operator: tuple[Tensor, SparseOperator] | None = None

    def operator(self) -> SparseOperator:
        r""":math:`\mathbf{S}` with a row for each item, shape ``(|I|, |I|)``."""
        # Made once for these neighbours.
        if self._operator is None or self._operator[0] is not self.neighbour:
            row = torch.arange(self.num_items, device=self.neighbour.device).repeat_interleave(self.k)
            index = torch.stack([row, self.neighbour.flatten()])
            kept = self.similarity.flatten() != 0
            size = self.num_items, self.num_items
            self._operator = self.neighbour, SparseOperator(index[:, kept], self.similarity.flatten()[kept], size)
        return self._operator[1]

    def scores(self, history: SeenItems, user_index: Tensor) -> Tensor:
        row, item = history.pairs(user_index)
        taken = self.similarity.new_zeros(self.num_items, len(user_index))
        taken[item, row] = 1
        return (self.operator() @ taken).t()

    def extra_repr(self) -> str:
        return f"num_items={self.num_items}, k={self.k}"
