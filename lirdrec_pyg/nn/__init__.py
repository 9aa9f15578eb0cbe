"""Layers, each of use without the rest."""

from lirdrec_pyg.nn.conv import (
    BipartiteConv,
    BipartiteLGConv,
    ItemGraphConv,
    adjacency,
    bipartite_norm,
    degree_scale,
)
from lirdrec_pyg.nn.dct import MultimodalDCT, dct, idct
from lirdrec_pyg.nn.encoder import ModalityEncoder
from lirdrec_pyg.nn.fusion import ProgressiveWeightCopying
from lirdrec_pyg.nn.loss import BPRLoss
from lirdrec_pyg.nn.normalize import unit_vectors
from lirdrec_pyg.nn.plain_fusion import AttentionFusion, MeanFusion, StaticFusion
from lirdrec_pyg.nn.rankers import DotProducts, Ranker, Scores
from lirdrec_pyg.nn.ranking import SeenItems, TopK, top_k
from lirdrec_pyg.nn.sparse import SparseOperator, gather_rows

__all__ = [
    "AttentionFusion",
    "BPRLoss",
    "BipartiteConv",
    "BipartiteLGConv",
    "DotProducts",
    "ItemGraphConv",
    "MeanFusion",
    "ModalityEncoder",
    "MultimodalDCT",
    "ProgressiveWeightCopying",
    "Ranker",
    "Scores",
    "SeenItems",
    "SparseOperator",
    "StaticFusion",
    "TopK",
    "adjacency",
    "bipartite_norm",
    "dct",
    "degree_scale",
    "gather_rows",
    "idct",
    "top_k",
    "unit_vectors",
]
