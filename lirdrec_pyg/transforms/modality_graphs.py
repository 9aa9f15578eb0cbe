import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.data import SIMILAR, feature_mask, item_features, modalities
from lirdrec_pyg.nn import unit_vectors
from lirdrec_pyg.transforms.knn_search import NeighborSearch, check_search, knn_edges

_BLOCK_BYTES = 256 * 2**20


def similar_by(modality: str) -> tuple[str, str, str]:
    """Return the edge type of the item graph of one modality."""
    source, relation, target = SIMILAR
    return source, f"{relation}_{modality}", target


class AddModalityKNN(BaseTransform):
    r"""Add an item graph ``data["item", "similar_<modality>", "item"]`` per modality.

    .. math::
        S_m[i, j] = \frac{c_{ij}}{\sqrt{\sum_k c_{ik}} \sqrt{\sum_k c_{jk}}}, \qquad
        c_{ij} = \max(0, \cos(\mathbf{x}_i, \mathbf{x}_j)) \text{ if } j \text{ is among the } k
        \text{ most similar to } i

    where the :math:`k` neighbors include the item itself. An edge points from a neighbor :math:`j` to the item
    :math:`i`. An item whose features are missing in a modality has only itself as a neighbor there.

    Args:
        k: number of neighbors per item, itself included; at most the number of items is used.
        search: search strategy, see :func:`~lirdrec_pyg.transforms.knn_edges`.
        progress: whether to show a progress bar for large catalogs.
    """

    def __init__(self, k: int = 10, search: NeighborSearch = "auto", progress: bool = False) -> None:
        check_search(search)
        self.k = k
        self.search = search
        self.progress = progress

    def forward(self, data: HeteroData) -> HeteroData:
        for modality in modalities(data):
            x = item_features(data, modality)
            edge_index = knn_edges(x, self.k, feature_mask(data, modality), self.search, modality, self.progress)
            cosine = edge_cosines(x, edge_index)
            source, target = edge_index
            # Items with missing features have only a self-loop, whose cosine must be 1 for any filled-in row.
            cosine = cosine.where(source != target, 1.0).clamp_min(0)
            scale = torch.bincount(target, cosine, minlength=len(x)).to(cosine.dtype).rsqrt()
            store = data[similar_by(modality)]
            store.edge_index, store.edge_weight = edge_index, scale[target] * cosine * scale[source]
            store.pop("adj_t", None)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, search={self.search!r})"


@torch.no_grad()
def edge_cosines(x: Tensor, edge_index: Tensor) -> Tensor:
    """Compute the cosine similarity of the ends of each edge, float32, shape ``(num_edges,)``, in blocks of edges."""
    unit = unit_vectors(x.float())
    block = max(1, _BLOCK_BYTES // (8 * unit.size(1)))
    return torch.cat([(unit[source] * unit[target]).sum(dim=1) for source, target in edge_index.split(block, dim=1)])
