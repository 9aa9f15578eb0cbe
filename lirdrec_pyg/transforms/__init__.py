"""PyG transforms that prepare a graph for the models."""

from lirdrec_pyg.transforms.add_dct import AddDCT
from lirdrec_pyg.transforms.bipartite import CacheAdjacency, DropEdges, KeepHistory, NormalizeBipartite, SparseBackend
from lirdrec_pyg.transforms.item_graph import AddItemKNN, modality_weights
from lirdrec_pyg.transforms.item_hypergraph import AddItemHypergraph
from lirdrec_pyg.transforms.knn_search import NeighborSearch, check_search, knn_edges
from lirdrec_pyg.transforms.load_features import KeepModality, LoadFeatures, kept_modalities
from lirdrec_pyg.transforms.modality_graphs import AddModalityKNN, edge_cosines, similar_by

__all__ = [
    "AddDCT",
    "AddItemHypergraph",
    "AddItemKNN",
    "AddModalityKNN",
    "CacheAdjacency",
    "DropEdges",
    "KeepHistory",
    "KeepModality",
    "LoadFeatures",
    "NeighborSearch",
    "NormalizeBipartite",
    "SparseBackend",
    "check_search",
    "edge_cosines",
    "kept_modalities",
    "knn_edges",
    "modality_weights",
    "similar_by",
]
