"""PyG transforms that prepare a graph for the layers."""

from lirdrec_pyg.transforms.bipartite import CacheAdjacency, DropEdges, NormalizeBipartite
from lirdrec_pyg.transforms.dct import AddDCT
from lirdrec_pyg.transforms.features import LoadFeatures
from lirdrec_pyg.transforms.item_knn import AddItemKNN, modality_weights
from lirdrec_pyg.transforms.neighbours import check_search, knn_edges

__all__ = [
    "AddDCT",
    "AddItemKNN",
    "CacheAdjacency",
    "DropEdges",
    "LoadFeatures",
    "NormalizeBipartite",
    "check_search",
    "knn_edges",
    "modality_weights",
]
