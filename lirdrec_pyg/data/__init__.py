"""Interactions and item features: files, IDs, splits and the graph."""

from lirdrec_pyg.data.dataset import DataConfig, Dataset
from lirdrec_pyg.data.feature_files import read_features
from lirdrec_pyg.data.features import FeatureTable
from lirdrec_pyg.data.graph import (
    INTERACTED_BY,
    INTERACTS,
    NEW_ITEM,
    SIMILAR,
    append_new_items,
    build_graph,
    check_graph,
    feature_mask,
    feature_widths,
    has_new_items,
    held_out_edges,
    held_out_interactions,
    item_features,
    known_interactions,
    load_graph,
    modalities,
    new_item_edges,
    save_graph,
    set_new_items,
    training_interactions,
    without_new_items,
)
from lirdrec_pyg.data.ids import read_ids
from lirdrec_pyg.data.interactions import ColumnConfig, k_core, merge_duplicates, read_interactions
from lirdrec_pyg.data.item_catalog import ItemCatalog
from lirdrec_pyg.data.layouts import find_features
from lirdrec_pyg.data.new_items import NewItems, read_new_items
from lirdrec_pyg.data.splits import HELD_OUT, Split, split_interactions
from lirdrec_pyg.data.vocabulary import Vocabulary

__all__ = [
    "HELD_OUT",
    "INTERACTED_BY",
    "INTERACTS",
    "NEW_ITEM",
    "SIMILAR",
    "ColumnConfig",
    "DataConfig",
    "Dataset",
    "FeatureTable",
    "ItemCatalog",
    "NewItems",
    "Split",
    "Vocabulary",
    "append_new_items",
    "build_graph",
    "check_graph",
    "feature_mask",
    "feature_widths",
    "find_features",
    "has_new_items",
    "held_out_edges",
    "held_out_interactions",
    "item_features",
    "k_core",
    "known_interactions",
    "load_graph",
    "merge_duplicates",
    "modalities",
    "new_item_edges",
    "read_features",
    "read_ids",
    "read_interactions",
    "read_new_items",
    "save_graph",
    "set_new_items",
    "split_interactions",
    "training_interactions",
    "without_new_items",
]
