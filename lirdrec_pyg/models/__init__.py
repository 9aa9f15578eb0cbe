"""Recommenders."""

from lirdrec_pyg.models.attribution import Attribution, Parts
from lirdrec_pyg.models.base import Model, ModelConfig, eval_mode
from lirdrec_pyg.models.bm3 import BM3, BM3Config
from lirdrec_pyg.models.bpr_mf import BPRMF, BPRMFConfig
from lirdrec_pyg.models.closed_form import ClosedFormModel, ItemToItemModel
from lirdrec_pyg.models.content_knn import ContentKNN, ContentKNNConfig
from lirdrec_pyg.models.ease import EASE, EASEConfig
from lirdrec_pyg.models.freedom import FREEDOM, FREEDOMConfig
from lirdrec_pyg.models.item_knn import ItemKNN, ItemKNNConfig
from lirdrec_pyg.models.layerwise import layerwise_vectors
from lirdrec_pyg.models.lightgcn import LightGCN, LightGCNConfig
from lirdrec_pyg.models.linear import LinearItems
from lirdrec_pyg.models.lirdrec import LIRDRec, LIRDRecConfig, branch_names, used_modalities
from lirdrec_pyg.models.mgcn import MGCN, MGCNConfig
from lirdrec_pyg.models.mm_gf import MMGF, MMGFConfig
from lirdrec_pyg.models.mmhcl import MMHCL, MMHCLConfig
from lirdrec_pyg.models.new_nodes import (
    ItemRegression,
    attach_items,
    attach_unclicked,
    attribution_of_history,
    continue_from,
    fold_in_users,
    model_vectors,
    scale_new_items,
)
from lirdrec_pyg.models.popularity import Popularity, PopularityConfig
from lirdrec_pyg.models.registry import MODEL_CONFIGS, MODELS, model_class
from lirdrec_pyg.models.vbpr import VBPR, VBPRConfig
from lirdrec_pyg.models.vectors import Vectors

__all__ = [
    "BM3",
    "BPRMF",
    "EASE",
    "FREEDOM",
    "MGCN",
    "MMGF",
    "MMHCL",
    "MODELS",
    "MODEL_CONFIGS",
    "VBPR",
    "Attribution",
    "BM3Config",
    "BPRMFConfig",
    "ClosedFormModel",
    "ContentKNN",
    "ContentKNNConfig",
    "EASEConfig",
    "FREEDOMConfig",
    "ItemKNN",
    "ItemKNNConfig",
    "ItemRegression",
    "ItemToItemModel",
    "LIRDRec",
    "LIRDRecConfig",
    "LightGCN",
    "LightGCNConfig",
    "LinearItems",
    "MGCNConfig",
    "MMGFConfig",
    "MMHCLConfig",
    "Model",
    "ModelConfig",
    "Parts",
    "Popularity",
    "PopularityConfig",
    "VBPRConfig",
    "Vectors",
    "attach_items",
    "attach_unclicked",
    "attribution_of_history",
    "branch_names",
    "continue_from",
    "eval_mode",
    "fold_in_users",
    "layerwise_vectors",
    "model_class",
    "model_vectors",
    "scale_new_items",
    "used_modalities",
]
