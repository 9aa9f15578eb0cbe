"""Recommenders."""

from lirdrec_pyg.models.lirdrec import LIRDRec
from lirdrec_pyg.models.ranking import TopK, top_k

__all__ = ["LIRDRec", "TopK", "top_k"]
