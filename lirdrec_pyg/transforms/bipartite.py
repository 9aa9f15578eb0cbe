import math
from typing import get_args

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import degree

from lirdrec_pyg.config import SparseBackend
from lirdrec_pyg.data import INTERACTED_BY, INTERACTS
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.nn import SparseOperator, bipartite_norm


class NormalizeBipartite(BaseTransform):
    """Adds ``edge_weight`` to the interactions and their reverse, see :func:`~lirdrec_pyg.nn.bipartite_norm`."""

    def forward(self, data: HeteroData) -> HeteroData:
        for edge_type in (INTERACTS, INTERACTED_BY):
            source, _, target = edge_type
            data[edge_type].edge_weight = bipartite_norm(
                data[edge_type].edge_index, data[source].num_nodes, data[target].num_nodes
            )
            # It would be that of the weights before.
            data[edge_type].pop("adj_t", None)
        return data


class DropEdges(BaseTransform):
    r"""Degree-sensitive edge dropout (paper, section 5; :math:`p` is 0 by default there).

    Keeps :math:`\lfloor |R| (1 - p) \rfloor` interactions, drawn without replacement with probability
    proportional to :math:`1 / \sqrt{\deg(u) \deg(i)}`, in both directions. Normalise the kept graph
    afresh with :class:`NormalizeBipartite`.

    Args:
        p: share to drop, in :math:`[0, 1)`.
        generator: of the draw, on the device of the graph; by default torch's own.
    """

    def __init__(self, p: float, generator: torch.Generator | None = None) -> None:
        if not 0 <= p < 1:
            raise ConfigError(f"The edge dropout is {p}: it has to be at least 0 and below 1.")
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
        # The largest of log(p) + Gumbel noise are a draw without replacement, of any number of edges.
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
    """Adds ``adj_t``, a matrix of targets x sources ready for fast products, to every edge type
    that has none yet.

    Args:
        backend: ``"torch"`` makes a :class:`~lirdrec_pyg.nn.SparseOperator`, which works by torch's own
            CSR kernels; ``"torch-sparse"`` makes a ``torch_sparse.SparseTensor``, which works by those
            of torch-sparse.

    Raises:
        ConfigError: if the backend is unknown, or torch-sparse is asked for and not installed.
    """

    def __init__(self, backend: SparseBackend = "torch") -> None:
        if backend not in (known := get_args(SparseBackend)):
            raise ConfigError(f"The sparse backend is {backend!r}: choose one of {', '.join(known)}.")
        if backend == "torch-sparse" and not WITH_TORCH_SPARSE:
            raise ConfigError("torch-sparse is not installed: pip install 'lirdrec-pyg[sparse]', or leave it out.")
        self.backend = backend

    def forward(self, data: HeteroData) -> HeteroData:
        if "adj_t" not in data[INTERACTS]:
            # The reversed interactions are the transpose of the others: both share one memory.
            data[INTERACTS].adj_t = self._adjacency(data, INTERACTS)
            data[INTERACTED_BY].adj_t = data[INTERACTS].adj_t.t()
        for edge_type in data.edge_types:
            if edge_type not in (INTERACTS, INTERACTED_BY) and "adj_t" not in data[edge_type]:
                data[edge_type].adj_t = self._adjacency(data, edge_type)
        return data

    def _adjacency(self, data: HeteroData, edge_type: tuple[str, str, str]) -> SparseOperator | SparseTensor:
        store, (source, _, target) = data[edge_type], edge_type
        index = store.edge_index.as_subclass(Tensor).flip([0])
        size = data[target].num_nodes, data[source].num_nodes
        if self.backend == "torch":
            return SparseOperator(index, store.edge_weight, size)
        return SparseTensor(row=index[0], col=index[1], value=store.edge_weight, sparse_sizes=size).fill_cache_()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(backend={self.backend!r})"
