"""Use of a trained run: recommend, explain, similar items, new items, new users, export."""

from lirdrec_pyg.serving.files import ExportFormat, check_table_path, export_vectors, write_table
from lirdrec_pyg.serving.recommender import Explanation, Fallback, Recommender

__all__ = [
    "Explanation",
    "ExportFormat",
    "Fallback",
    "Recommender",
    "check_table_path",
    "export_vectors",
    "write_table",
]
