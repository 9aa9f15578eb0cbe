"""PyG transforms that prepare a graph for the layers."""

from lirdrec_pyg.transforms.bipartite import CacheAdjacency, DropEdges, NormalizeBipartite
from lirdrec_pyg.transforms.dct import AddDCT
from lirdrec_pyg.transforms.features import KeepModality, LoadFeatures, kept_modalities
from lirdrec_pyg.transforms.item_knn import AddItemKNN, modality_weights
from lirdrec_pyg.transforms.modality_knn import AddModalityKNN, edge_cosines, similar_by
from lirdrec_pyg.transforms.neighbours import check_search, knn_edges

__all__ = [
    "AddDCT",
    "AddItemKNN",
    "AddModalityKNN",
    "CacheAdjacency",
    "DropEdges",
    "KeepModality",
    "LoadFeatures",
    "NormalizeBipartite",
    "check_search",
    "edge_cosines",
    "kept_modalities",
    "knn_edges",
    "modality_weights",
    "similar_by",
]
