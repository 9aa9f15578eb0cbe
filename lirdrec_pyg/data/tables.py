"""What all readers of tables share: reading Parquet, and checking columns of IDs."""

from pathlib import Path

import polars as pl

from lirdrec_pyg.errors import DataError

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


def first_line(error: BaseException) -> str:
    """What ``error`` says, without the context that libraries print below it."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def read_parquet(path: Path) -> pl.DataFrame:
    """Reads one Parquet file.

    Raises:
        DataError: if it is missing or damaged.
    """
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({first_line(error)}).") from error


def canonical_ids(ids: pl.Series, source: str) -> pl.Series:
    """Integer IDs as int64 where all of ``ids`` are canonical integers, else strings.

    Raises:
        DataError: if ``ids`` are neither integers nor text.
    """
    if ids.dtype.is_integer():
        integers = ids.cast(pl.Int64, strict=False)
        return integers if integers.null_count() == ids.null_count() else ids.cast(pl.String)
    if ids.dtype == pl.Categorical or isinstance(ids.dtype, pl.Enum):
        ids = ids.cast(pl.String)
    if ids.dtype != pl.String:
        raise DataError(f"{source} holds {ids.dtype}: IDs have to be integers or text.")
    if ids.str.contains(_INTEGER).all():
        return ids.cast(pl.Int64)
    return ids


def missing_ids(ids: pl.Series) -> pl.Series:
    """Which of ``ids`` are null or the empty text."""
    return ids.is_null() | (ids == "").fill_null(True) if ids.dtype == pl.String else ids.is_null()


def check_ids(ids: pl.Series, source: str) -> None:
    """Raises :class:`DataError` if an ID is missing or occurs twice."""
    if (missing := missing_ids(ids)).any():
        raise DataError(f"{source} has no ID in row {missing.arg_max()} (rows count from 0).")
    if ids.n_unique() != len(ids):
        twice = ids.filter(ids.is_duplicated())[0]
        raise DataError(f"{source} holds the ID {twice!r} more than once: keep one row of it.")
