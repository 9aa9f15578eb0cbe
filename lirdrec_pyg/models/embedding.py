"""Functions that several models share."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS
from lirdrec_pyg.nn import BipartiteConv, adjacency


def bipartite_edges(data: HeteroData) -> tuple[Any, Any, Any, Any]:
    """Return the edges in both directions and their weights, as arguments of :class:`~lirdrec_pyg.nn.BipartiteConv`."""
    (edge_index, edge_weight), (rev_edge_index, rev_edge_weight) = (
        adjacency(data[edge_type]) for edge_type in (INTERACTS, INTERACTED_BY)
    )
    return edge_index, rev_edge_index, edge_weight, rev_edge_weight


def mean_of_layers(conv: BipartiteConv, user: Tensor, item: Tensor, data: HeteroData) -> tuple[Tensor, Tensor]:
    r"""Return LightGCN's propagation, :math:`\frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{E}^{(l)}`."""
    out_user, out_item = conv(user, item, *bipartite_edges(data))
    return out_user / (conv.num_layers + 1), out_item / (conv.num_layers + 1)


def gathered(vectors: tuple[Tensor, Tensor], triples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gather the vectors of users, positive items and negative items of a batch, each of shape ``(N, F)``."""
    user, item = vectors
    # Not user[u]: the order in which its gradient is summed is not deterministic.
    positive, negative = F.embedding(triples[1:], item)
    return F.embedding(triples[0], user), positive, negative


def bpr(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    r"""Return :math:`-\frac{1}{N} \sum \log \sigma(\mathbf{u}^\top \mathbf{v}_i - \mathbf{u}^\top \mathbf{v}_j)`."""
    return -F.logsigmoid((user * positive).sum(dim=-1) - (user * negative).sum(dim=-1)).mean()


def squared_norms(*rows: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{2N} \sum_{x} \lVert \mathbf{x} \rVert^2` over all ``rows``, each of shape ``(N, F)``."""
    return sum((x.square().sum() for x in rows), rows[0].new_zeros(())) / (2 * len(rows[0]))
