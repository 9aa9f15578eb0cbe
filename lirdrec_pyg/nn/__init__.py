"""Layers, each of use without the rest."""

from lirdrec_pyg.nn.conv import BipartiteConv, ItemGraphConv, adjacency, bipartite_norm
from lirdrec_pyg.nn.dct import MultimodalDCT, dct
from lirdrec_pyg.nn.encoder import ModalityEncoder
from lirdrec_pyg.nn.fusion import ProgressiveWeightCopying
from lirdrec_pyg.nn.loss import BPRLoss
from lirdrec_pyg.nn.sparse import SparseOperator

__all__ = [
    "BPRLoss",
    "BipartiteConv",
    "ItemGraphConv",
    "ModalityEncoder",
    "MultimodalDCT",
    "ProgressiveWeightCopying",
    "SparseOperator",
    "adjacency",
    "bipartite_norm",
    "dct",
]
