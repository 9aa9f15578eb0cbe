"""PyG transforms that prepare a graph for the layers."""

from lirdrec_pyg.transforms.bipartite import CacheAdjacency, DropEdges, NormalizeBipartite
from lirdrec_pyg.transforms.dct import AddDCT
from lirdrec_pyg.transforms.features import LoadFeatures
from lirdrec_pyg.transforms.item_knn import AddItemKNN, knn_edges, modality_weights

__all__ = [
    "AddDCT",
    "AddItemKNN",
    "CacheAdjacency",
    "DropEdges",
    "LoadFeatures",
    "NormalizeBipartite",
    "knn_edges",
    "modality_weights",
]
