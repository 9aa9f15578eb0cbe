"""Recommenders."""

from lirdrec_pyg.models.bm3 import BM3
from lirdrec_pyg.models.bpr_mf import BPRMF
from lirdrec_pyg.models.closed_form import ClosedFormModel, ItemToItemModel
from lirdrec_pyg.models.content_knn import ContentKNN
from lirdrec_pyg.models.ease import EASE
from lirdrec_pyg.models.embedding import EmbeddingModel
from lirdrec_pyg.models.freedom import FREEDOM
from lirdrec_pyg.models.inductive import Neighbourhood, attach_items, check_inductive, fold_in_users, model_vectors
from lirdrec_pyg.models.item_knn import ItemKNN
from lirdrec_pyg.models.layerwise import layerwise_vectors
from lirdrec_pyg.models.lightgcn import LightGCN
from lirdrec_pyg.models.lirdrec import LIRDRec, branch_names, used_modalities
from lirdrec_pyg.models.mgcn import MGCN
from lirdrec_pyg.models.popularity import Popularity
from lirdrec_pyg.models.registry import MODELS, model_class
from lirdrec_pyg.models.vbpr import VBPR
from lirdrec_pyg.models.vectors import Vectors

__all__ = [
    "BM3",
    "BPRMF",
    "EASE",
    "FREEDOM",
    "MGCN",
    "MODELS",
    "VBPR",
    "ClosedFormModel",
    "ContentKNN",
    "EmbeddingModel",
    "ItemKNN",
    "ItemToItemModel",
    "LIRDRec",
    "LightGCN",
    "Neighbourhood",
    "Popularity",
    "Vectors",
    "attach_items",
    "branch_names",
    "check_inductive",
    "fold_in_users",
    "layerwise_vectors",
    "model_class",
    "model_vectors",
    "used_modalities",
]
