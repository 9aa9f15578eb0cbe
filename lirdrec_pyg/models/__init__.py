"""Recommenders."""

from lirdrec_pyg.models.inductive import Neighbourhood, attach_items, check_inductive, fold_in_users, model_vectors
from lirdrec_pyg.models.layerwise import layerwise_vectors
from lirdrec_pyg.models.lirdrec import LIRDRec
from lirdrec_pyg.models.vectors import Vectors

__all__ = [
    "LIRDRec",
    "Neighbourhood",
    "Vectors",
    "attach_items",
    "check_inductive",
    "fold_in_users",
    "layerwise_vectors",
    "model_vectors",
]
