"""Interactions and item features: files, IDs, splits and the graph."""

from lirdrec_pyg.data.features import FeatureTable, read_features
from lirdrec_pyg.data.graph import (
    INTERACTED_BY,
    INTERACTS,
    NEW_ITEM,
    SIMILAR,
    append_new_items,
    build_graph,
    check_graph,
    feature_mask,
    has_new_items,
    held_out_edges,
    item_features,
    load_graph,
    modalities,
    new_item_edges,
    save_graph,
    set_new_items,
    without_new_items,
)
from lirdrec_pyg.data.interactions import k_core, merge_duplicates, read_interactions, split_interactions
from lirdrec_pyg.data.readers import NewItems, RecommendationData, find_features, read_data, read_ids, read_new_items
from lirdrec_pyg.data.vocabulary import Vocabulary

__all__ = [
    "INTERACTED_BY",
    "INTERACTS",
    "NEW_ITEM",
    "SIMILAR",
    "FeatureTable",
    "NewItems",
    "RecommendationData",
    "Vocabulary",
    "append_new_items",
    "build_graph",
    "check_graph",
    "feature_mask",
    "find_features",
    "has_new_items",
    "held_out_edges",
    "item_features",
    "k_core",
    "load_graph",
    "merge_duplicates",
    "modalities",
    "new_item_edges",
    "read_data",
    "read_features",
    "read_ids",
    "read_interactions",
    "read_new_items",
    "save_graph",
    "set_new_items",
    "split_interactions",
    "without_new_items",
]
