"""Layers, each of use without the rest."""

from lirdrec_pyg.nn.conv import BipartiteConv, BipartiteLGConv, ItemGraphConv, adjacency, bipartite_norm
from lirdrec_pyg.nn.dct import MultimodalDCT, dct
from lirdrec_pyg.nn.encoder import ModalityEncoder
from lirdrec_pyg.nn.fusion import ProgressiveWeightCopying
from lirdrec_pyg.nn.loss import BPRLoss
from lirdrec_pyg.nn.normalize import unit_vectors
from lirdrec_pyg.nn.ranking import SeenItems, TopK, top_k
from lirdrec_pyg.nn.sparse import SparseOperator

__all__ = [
    "BPRLoss",
    "BipartiteConv",
    "BipartiteLGConv",
    "ItemGraphConv",
    "ModalityEncoder",
    "MultimodalDCT",
    "ProgressiveWeightCopying",
    "SeenItems",
    "SparseOperator",
    "TopK",
    "adjacency",
    "bipartite_norm",
    "dct",
    "top_k",
    "unit_vectors",
]
