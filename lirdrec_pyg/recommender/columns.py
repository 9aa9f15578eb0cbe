"""Columns of the item catalog in tables of results."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.recommender.rules import check_columns

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender


def checked_columns(recommender: "Recommender", columns: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return the columns of the catalog to add to a table that has the columns ``taken``, each once.

    Raises:
        ConfigError: if the catalog has no such column, or there is no catalog.
    """
    columns = [columns] if isinstance(columns, str) else list(dict.fromkeys(columns))
    check_columns(recommender, columns, "columns")
    if clash := [name for name in columns if name in taken]:
        raise ConfigError(f"`columns` has {clash[0]!r}, which every result has. Rename it in the item catalog.")
    return columns


def with_columns(recommender: "Recommender", frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Return ``frame`` with columns of the catalog for the items in its column ``item``."""
    catalog = recommender.dataset.catalog
    return frame if catalog is None or not columns else frame.hstack(catalog.rows(frame["item"]).select(columns))
