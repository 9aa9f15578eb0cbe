"""Use of a trained run: recommend, explain, similar items, new items, new users, export."""

from lirdrec_pyg.serving.files import check_table_path, export_vectors, write_table
from lirdrec_pyg.serving.recommender import Explanation, Recommender

__all__ = [
    "Explanation",
    "Recommender",
    "check_table_path",
    "export_vectors",
    "write_table",
]
