from collections.abc import Sequence

import polars as pl

from lirdrec_pyg.data.ids import canonical_ids, missing_ids
from lirdrec_pyg.errors import DataError, first_line

IDs = pl.Series | Sequence[int | str]

_SHOWN = 10


def as_ids(ids: IDs, kind: str) -> pl.Series:
    """Return ``ids`` as a column of integers or text.

    Raises:
        DataError: if they are not a list of IDs, or one is missing.
    """
    if isinstance(ids, str):
        raise DataError(f"The {kind} IDs are the text {ids!r}. Pass a list of IDs.")
    try:
        series = pl.Series("id", ids, dtype=pl.String if not len(ids) else None)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"The {kind} IDs are not a list of integers or of text ({first_line(error)}).") from error
    if (missing := missing_ids(series)).any():
        raise DataError(f"The {kind} ID at position {missing.arg_max()} of the list is missing.")
    return canonical_ids(series, f"The list of {kind} IDs")


def first_ids(ids: pl.Series) -> str:
    """Format the first of some IDs for a message."""
    return ", ".join(map(str, ids.head(_SHOWN))) + (", ..." if len(ids) > _SHOWN else "")
