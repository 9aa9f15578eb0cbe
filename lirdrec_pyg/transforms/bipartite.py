import math
from typing import Literal, get_args

import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import degree

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS
from lirdrec_pyg.edge_index import plain
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.nn import SeenItems, SparseOperator, bipartite_norm

SparseBackend = Literal["torch", "torch-sparse"]


class NormalizeBipartite(BaseTransform):
    """Add ``edge_weight`` to the interactions in both directions, see :func:`~lirdrec_pyg.nn.bipartite_norm`."""

    def forward(self, data: HeteroData) -> HeteroData:
        for edge_type in (INTERACTS, INTERACTED_BY):
            source, _, target = edge_type
            data[edge_type].edge_weight = bipartite_norm(
                data[edge_type].edge_index, data[source].num_nodes, data[target].num_nodes
            )
            # A cached adjacency contains the old weights.
            data[edge_type].pop("adj_t", None)
        return data


class KeepHistory(BaseTransform):
    """Add the items of each user as ``history``, :class:`~lirdrec_pyg.nn.SeenItems`, which :class:`DropEdges` keeps."""

    def forward(self, data: HeteroData) -> HeteroData:
        data["user"].history = SeenItems.of(data[INTERACTS].edge_index, data["user"].num_nodes)
        return data


class DropEdges(BaseTransform):
    r"""Drop interactions at random, with a larger probability for nodes of high degree (LIRDRec paper, section 5).

    Keeps :math:`\lfloor |R| (1 - p) \rfloor` interactions in both directions, drawn without replacement with
    probability proportional to :math:`1 / \sqrt{\deg(u) \deg(i)}`. Removes edge weights and cached adjacencies of
    the interactions, so apply :class:`NormalizeBipartite` afterwards.

    Args:
        p: dropout probability, in :math:`[0, 1)`; 0 in the paper.
        generator: random number generator on the device of the graph; by default torch's global one.
    """

    def __init__(self, p: float, generator: torch.Generator | None = None) -> None:
        if not 0 <= p < 1:
            raise ConfigError(f"`edge_dropout` is {p}. It must be at least 0 and below 1.")
        self.p = p
        self.generator = generator

    def forward(self, data: HeteroData) -> HeteroData:
        if self.p == 0:
            return data
        edge_index = data[INTERACTS].edge_index
        user, item = edge_index
        # Rounded first: 10 * (1 - 0.9) is 0.9999999999999998.
        num_kept = math.floor(round(edge_index.size(1) * (1 - self.p), 6))
        log_degree = degree(user, data["user"].num_nodes)[user].log() + degree(item, data["item"].num_nodes)[item].log()
        # Gumbel top-k trick: the largest values of log(p) + noise are a sample without replacement.
        noise = torch.empty_like(log_degree).exponential_(generator=self.generator).log().neg()
        kept = (noise - 0.5 * log_degree).topk(num_kept).indices.sort().values
        edge_index = edge_index[:, kept]
        for edge_type, index in ((INTERACTS, edge_index), (INTERACTED_BY, edge_index.flip([0]))):
            data[edge_type].edge_index = index
            for key in ("edge_weight", "adj_t"):
                data[edge_type].pop(key, None)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"


class CacheAdjacency(BaseTransform):
    """Add ``adj_t``, a sparse matrix of targets x sources, to every edge type that does not have one.

    Args:
        backend: ``"torch"`` creates a :class:`~lirdrec_pyg.nn.SparseOperator`, which uses the CSR kernels of torch;
            ``"torch-sparse"`` creates a ``torch_sparse.SparseTensor``.

    Raises:
        ConfigError: if the backend is unknown or not installed.
    """

    def __init__(self, backend: SparseBackend = "torch") -> None:
        if backend not in (known := get_args(SparseBackend)):
            raise ConfigError(f"`sparse_backend` is {backend!r}. Choose one of {', '.join(known)}.")
        if backend == "torch-sparse" and not WITH_TORCH_SPARSE:
            raise ConfigError(
                "`sparse_backend='torch-sparse'` needs torch-sparse, which is not installed. Run pip install "
                "'lirdrec-pyg[sparse]' or pass `sparse_backend='torch'`."
            )
        self.backend = backend

    def forward(self, data: HeteroData) -> HeteroData:
        if "adj_t" not in data[INTERACTS]:
            # The reverse interactions are the transpose, which shares memory.
            data[INTERACTS].adj_t = self._adjacency(data, INTERACTS)
            data[INTERACTED_BY].adj_t = data[INTERACTS].adj_t.t()
        for edge_type in data.edge_types:
            if edge_type not in (INTERACTS, INTERACTED_BY) and "adj_t" not in data[edge_type]:
                data[edge_type].adj_t = self._adjacency(data, edge_type)
        return data

    def _adjacency(self, data: HeteroData, edge_type: tuple[str, str, str]) -> SparseOperator | SparseTensor:
        store, (source, _, target) = data[edge_type], edge_type
        index = plain(store.edge_index).flip([0])
        size = data[target].num_nodes, data[source].num_nodes
        if self.backend == "torch":
            return SparseOperator(index, store.edge_weight, size)
        return SparseTensor(row=index[0], col=index[1], value=store.edge_weight, sparse_sizes=size).fill_cache_()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(backend={self.backend!r})"
