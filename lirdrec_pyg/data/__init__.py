"""Interactions and item features: files, IDs, splits and the graph."""

from lirdrec_pyg.data.features import FeatureTable, read_features
from lirdrec_pyg.data.graph import (
    INTERACTED_BY,
    INTERACTS,
    SIMILAR,
    build_graph,
    check_graph,
    feature_mask,
    held_out_edges,
    item_features,
    load_graph,
    modalities,
    save_graph,
)
from lirdrec_pyg.data.interactions import k_core, merge_duplicates, read_interactions, split_interactions
from lirdrec_pyg.data.readers import RecommendationData, read_data
from lirdrec_pyg.data.vocabulary import Vocabulary

__all__ = [
    "INTERACTED_BY",
    "INTERACTS",
    "SIMILAR",
    "FeatureTable",
    "RecommendationData",
    "Vocabulary",
    "build_graph",
    "check_graph",
    "feature_mask",
    "held_out_edges",
    "item_features",
    "k_core",
    "load_graph",
    "merge_duplicates",
    "modalities",
    "read_data",
    "read_features",
    "read_interactions",
    "save_graph",
    "split_interactions",
]
