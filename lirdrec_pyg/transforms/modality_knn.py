import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.config import NeighbourSearch
from lirdrec_pyg.data import SIMILAR, feature_mask, item_features, modalities
from lirdrec_pyg.nn import unit_vectors
from lirdrec_pyg.transforms.neighbours import check_search, knn_edges

_BLOCK_BYTES = 256 * 2**20


def similar_by(modality: str) -> tuple[str, str, str]:
    """Type of the edges between items that are similar in one modality."""
    source, relation, target = SIMILAR
    return source, f"{relation}_{modality}", target


class AddModalityKNN(BaseTransform):
    r"""Adds an item graph ``data["item", "similar_<modality>", "item"]`` for each modality.

    .. math::
        S_m[i, j] = \frac{c_{ij}}{\sqrt{\sum_k c_{ik}} \sqrt{\sum_k c_{jk}}}, \qquad
        c_{ij} = \max(0, \cos(\mathbf{x}_i, \mathbf{x}_j)) \text{ if } j \text{ is among the } k
        \text{ most similar to } i

    the item itself among the :math:`k`. An edge runs from a neighbour :math:`j` to the item :math:`i`
    that it informs. An item without features of its own in a modality has itself as only neighbour there.

    Args:
        k: neighbours of an item, itself among them; at most the number of items is used.
        search: how they are found, see :func:`~lirdrec_pyg.transforms.knn_edges`.
        progress: shows a bar for catalogues that take seconds.
    """

    def __init__(self, k: int = 10, search: NeighbourSearch = "auto", progress: bool = False) -> None:
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
            # Those without features have an edge to themselves, whatever their rows were filled with.
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
    """Cosine of the two ends of each edge, float32, shape ``(num_edges,)``, in blocks of bounded memory."""
    unit = unit_vectors(x.float())
    block = max(1, _BLOCK_BYTES // (8 * unit.size(1)))
    return torch.cat([_cosines(unit, part) for part in edge_index.split(block, dim=1)])


def _cosines(unit: Tensor, edge_index: Tensor) -> Tensor:
    source, target = edge_index
    return (unit[source] * unit[target]).sum(dim=1)
