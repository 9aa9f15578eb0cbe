"""Layers, losses and ranking, independent of the models."""

from lirdrec_pyg.nn.conv import (
    BipartiteConv,
    BipartiteLGConv,
    ItemGraphConv,
    adjacency,
    bipartite_norm,
    degree_scale,
    reverse,
)
from lirdrec_pyg.nn.dct import MultimodalDCT, dct, idct
from lirdrec_pyg.nn.fusion import AttentionFusion, MeanFusion, ProgressiveWeightCopying, StaticFusion
from lirdrec_pyg.nn.loss import BPRLoss, SoftmaxLoss
from lirdrec_pyg.nn.modality_encoder import ModalityEncoder
from lirdrec_pyg.nn.normalize import unit_vectors
from lirdrec_pyg.nn.principal_components import PrincipalComponents
from lirdrec_pyg.nn.ranking import DotProducts, Ranker, Scores, SeenItems, TopK, share_in_lists, top_k
from lirdrec_pyg.nn.row_shards import RowShards, xavier_normal_rows_
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
    "PrincipalComponents",
    "ProgressiveWeightCopying",
    "Ranker",
    "RowShards",
    "Scores",
    "SeenItems",
    "SoftmaxLoss",
    "SparseOperator",
    "StaticFusion",
    "TopK",
    "adjacency",
    "bipartite_norm",
    "dct",
    "degree_scale",
    "gather_rows",
    "idct",
    "reverse",
    "share_in_lists",
    "top_k",
    "unit_vectors",
    "xavier_normal_rows_",
]
