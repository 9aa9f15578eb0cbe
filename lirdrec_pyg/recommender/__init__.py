"""From data to a trained recommender: fit, recommend, explain, add items, save, export."""

from lirdrec_pyg.explanation import Explanation
from lirdrec_pyg.recommender.evaluate import Evaluator
from lirdrec_pyg.recommender.export import check_table_path, export_vectors, write_table
from lirdrec_pyg.recommender.fit import fit, resume
from lirdrec_pyg.recommender.recommender import Recommender
from lirdrec_pyg.recommender.rules import Rules
from lirdrec_pyg.recommender.run import Run

__all__ = [
    "Evaluator",
    "Explanation",
    "Recommender",
    "Rules",
    "Run",
    "check_table_path",
    "export_vectors",
    "fit",
    "resume",
    "write_table",
]
