"""What the peers have in common that are trained by steps and score by products of vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose

from lirdrec_pyg.config import ModelConfig, SparseBackend
from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, item_features, modalities
from lirdrec_pyg.models.mode import eval_mode
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import BipartiteConv, DotProducts, adjacency
from lirdrec_pyg.transforms import CacheAdjacency, LoadFeatures, NormalizeBipartite


class EmbeddingModel(nn.Module):
    """A recommender whose score is the dot product of a user's and an item's vector.

    A subclass has ``from_config``, ``forward`` and ``loss``, see
    :class:`~lirdrec_pyg.training.Trainable`.
    """

    @staticmethod
    def graph_transform(config: ModelConfig, progress: bool = False) -> BaseTransform:
        """What the model adds to a graph of :func:`~lirdrec_pyg.data.build_graph` for good: nothing."""
        return Compose([])

    @staticmethod
    def input_transform(config: ModelConfig, backend: SparseBackend = "torch") -> BaseTransform:
        """What can be made ready once for all calls of :meth:`forward`, on the device of the graph."""
        return Compose([LoadFeatures(), NormalizeBipartite(), CacheAdjacency(backend)])

    def start_epoch(self) -> None:
        """Does nothing: no epoch is different from the others."""

    @torch.no_grad()
    def vectors(self, data: HeteroData) -> Vectors:
        """All that is needed to rank, from one pass in eval mode."""
        with eval_mode(self):
            return Vectors.of(*self(data))

    def ranker(self, data: HeteroData) -> DotProducts:
        """What ranks by the model as it is."""
        vectors = self.vectors(data)
        return DotProducts(vectors.user, vectors.item)


def feature_widths(data: HeteroData) -> dict[str, int]:
    """Feature width of each modality."""
    return {modality: item_features(data, modality).size(1) for modality in modalities(data)}


def mean_of_layers(conv: BipartiteConv, user: Tensor, item: Tensor, data: HeteroData) -> tuple[Tensor, Tensor]:
    r"""LightGCN's propagation, :math:`\frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{E}^{(l)}`."""
    edge_index, edge_weight = adjacency(data[INTERACTS])
    rev_edge_index, rev_edge_weight = adjacency(data[INTERACTED_BY])
    out = conv(user, item, edge_index, rev_edge_index, edge_weight, rev_edge_weight)
    return out[0] / (conv.num_layers + 1), out[1] / (conv.num_layers + 1)


def gathered(vectors: tuple[Tensor, Tensor], triples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the users, the positive and the negative items of a batch, shape ``(N, F)`` each, from the
    vectors of all users and all items."""
    user, item = vectors
    # Not user[u]: its gradient is summed in an order that changes from call to call.
    positive, negative = F.embedding(triples[1:], item)
    return F.embedding(triples[0], user), positive, negative


def bpr(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    r""":math:`-\frac{1}{N} \sum \log \sigma(\mathbf{u}^\top \mathbf{v}_i - \mathbf{u}^\top \mathbf{v}_j)`."""
    return -F.logsigmoid((user * positive).sum(dim=-1) - (user * negative).sum(dim=-1)).mean()


def squared_norms(*rows: Tensor) -> Tensor:
    r"""The regulariser of a batch, :math:`\frac{1}{2N} \sum_{x} \lVert \mathbf{x} \rVert^2` over all ``rows``,
    each of shape ``(N, F)``."""
    return sum((x.square().sum() for x in rows), rows[0].new_zeros(())) / (2 * len(rows[0]))
