from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec_pyg.data.ids import as_series, canonical_ids, missing_ids
from lirdrec_pyg.errors import ConfigError, DataError

IDs = pl.Series | Iterable[int | str]


def as_ids(ids: IDs, kind: str) -> pl.Series:
    """Return ``ids`` as a column of integers or text.

    Raises:
        DataError: if they are not a list of IDs, or one is missing.
    """
    if isinstance(ids, (str, bytes, Mapping)) or is_table(ids) or not isinstance(ids, Iterable):
        raise DataError(f"The {kind} IDs are of type {type(ids).__name__}. Pass a list, an array or a column of IDs.")
    is_listed = hasattr(ids, "__len__") and hasattr(ids, "__getitem__")  # unlike a set or a generator
    series = as_series("id", ids if is_listed else list(ids), f"the {kind} IDs")
    if series.is_empty():
        series = series.cast(pl.String)
    if (missing := missing_ids(series)).any():
        raise DataError(f"The {kind} ID at position {missing.arg_max()} of the list is missing.")
    return canonical_ids(series, f"The list of {kind} IDs")


def is_table(values: Any) -> bool:
    """Return whether ``values`` is a pandas, polars or Arrow table."""
    return hasattr(type(values), "columns")  # of the type, since a lazy table would compute its own


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise :class:`ConfigError` unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(f"`{name}` is {value}. It must be an integer of at least {least}.")
