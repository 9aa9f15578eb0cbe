"""Exports for other programs: tables, vectors and encoders as files; databases."""

from lirdrec_pyg.recommender.export.files import ExportFormat, export_vectors
from lirdrec_pyg.recommender.export.lance import export_lance
from lirdrec_pyg.recommender.export.postgres import check_postgres, export_postgres
from lirdrec_pyg.recommender.export.tables import check_table_path, write_table

__all__ = [
    "ExportFormat",
    "check_postgres",
    "check_table_path",
    "export_lance",
    "export_postgres",
    "export_vectors",
    "write_table",
]
