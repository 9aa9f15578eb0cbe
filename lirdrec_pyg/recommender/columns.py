"""Columns of the item catalog, in tables of results and as values of the items."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.data import ItemCatalog
from lirdrec_pyg.errors import ConfigError, listed, shown

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender


def catalog_for(recommender: "Recommender", name: str) -> ItemCatalog:
    """Return the item catalog, which the parameter ``name`` needs, or raise :class:`ConfigError`."""
    catalog = recommender.dataset.catalog
    if catalog is None:
        raise ConfigError(
            f"`{name}` needs an item catalog, but the run has none. Pass a table as `items`, for example to `fit`."
        )
    return catalog


def check_columns(recommender: "Recommender", columns: Sequence[str], name: str) -> None:
    """Raise :class:`ConfigError` unless the catalog has ``columns``, which the parameter ``name`` asks for."""
    if not columns:
        return
    known = catalog_for(recommender, name).frame.columns
    if missing := [column for column in columns if column not in known]:
        raise ConfigError(f"`{name}` has {shown(missing[0])}, but the item catalog has the columns {listed(known)}.")


def title_column(recommender: "Recommender") -> list[str]:
    """Return the column of the titles, if there is one."""
    catalog = recommender.dataset.catalog
    return [] if catalog is None or catalog.title in (None, "id") else [catalog.title]


def names_of(recommender: "Recommender", items: pl.Series) -> pl.Series:
    """Return the titles of some items as text, or their IDs where there is none."""
    catalog, ids = recommender.dataset.catalog, items.cast(pl.String)
    return ids if catalog is None else catalog.titles(items).fill_null(ids)


def numbered(recommender: "Recommender", columns: Sequence[str], name: str) -> Tensor:
    """Number the values of some columns for each item, shape ``(C, |I|)``; each null has a number of its own.

    Raises:
        ConfigError: naming the parameter ``name``, if the catalog has no such column, or one holds lists.
    """
    check_columns(recommender, columns, name)
    rows = recommender.catalog_rows.select(columns)
    if nested := [column for column, dtype in rows.schema.items() if dtype.is_nested()]:
        raise ConfigError(f"`{name}` has {shown(nested[0])}, whose values are lists. Choose a column of single values.")
    own = pl.int_range(pl.len()) + pl.len()
    numbers = rows.select(pl.col(column).rank("dense").cast(pl.Int64).fill_null(own) for column in columns)
    return torch.from_numpy(numbers.to_numpy().T.copy())


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


def columns_of(recommender: "Recommender", items: pl.Series, columns: list[str]) -> list[pl.Series]:
    """Return columns of the catalog for some items."""
    return catalog_for(recommender, "columns").rows(items).select(columns).get_columns() if columns else []


def with_columns(recommender: "Recommender", frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Return ``frame`` with columns of the catalog for the items in its column ``item``."""
    return frame.hstack(columns_of(recommender, frame["item"], columns))
