"""IDs of users and items as files hold them: their types, missing and repeated ones, and lists of IDs."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from lirdrec_pyg.errors import DataError, first_line, shortened, shown

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"

# A device such as /dev/zero has no end.
_MAX_LIST_BYTES = 2**29


def as_series(name: str, values: Any, source: str) -> pl.Series:
    """Convert a column, array, tensor or list; missing objects become null.

    Raises:
        DataError: if ``values`` is not a list of values of one type.
    """
    try:
        if isinstance(values, pl.Series) or type(values).__module__.startswith("pyarrow."):
            return pl.Series(name, values)
        if isinstance(values, Tensor):
            values = values.numpy(force=True)
        if np.ma.isMaskedArray(values):
            values = values.tolist()  # with None where it is masked
        # As objects, since NumPy would turn the NaN in a list of texts into the text "nan".
        array = np.asarray(values, dtype=object if isinstance(values, (list, tuple)) else None)
        if array.ndim == 0:
            raise TypeError(f"it is a {type(values).__name__}")
        if array.dtype.kind in "mM" and np.datetime_data(array.dtype)[0] not in ("ms", "us", "ns"):
            array = array.astype(f"{array.dtype.kind}8[us]")  # polars has only these units
        return pl.Series(name, [None if _is_missing(x) else x for x in array] if array.dtype == object else array)
    except (Exception, pl.exceptions.PanicException) as error:  # values of odd types raise nearly anything
        raise DataError(f"Cannot read {source} ({first_line(error)}). Convert its values to one type.") from error


def _is_missing(value: Any) -> bool:
    # Pandas has its own missing values, but need not be installed.
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return missing or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))


def canonical_ids(ids: pl.Series, source: str) -> pl.Series:
    """Return integer IDs as int64 if all of ``ids`` are canonical integers, else strings.

    Raises:
        DataError: if ``ids`` are neither integers nor text.
    """
    if ids.dtype.is_integer():
        integers = ids.cast(pl.Int64, strict=False)
        return integers if integers.null_count() == ids.null_count() else ids.cast(pl.String)
    if ids.dtype == pl.Categorical or isinstance(ids.dtype, pl.Enum):
        ids = ids.cast(pl.String)
    if ids.dtype != pl.String:
        raise DataError(f"{source} has type {shortened(str(ids.dtype))}. IDs must be integers or text: cast them.")
    return ids.cast(pl.Int64) if is_integer(ids).all() else ids


def same_type(lists: list[pl.Series]) -> list[pl.Series]:
    """Return ``lists`` of IDs, all as text unless they have one type."""
    return [ids.cast(pl.String) for ids in lists] if len({ids.dtype for ids in lists}) > 1 else lists


def is_integer(ids: pl.Series) -> pl.Series:
    """Return which of the texts ``ids`` are canonical integers, such as ``7``, but not ``007`` or ``7.0``."""
    return ids.str.contains(_INTEGER)


def missing_ids(ids: pl.Series) -> pl.Series:
    """Return which of ``ids`` are null or the empty text."""
    return ids.is_null() | (ids == "").fill_null(True) if ids.dtype == pl.String else ids.is_null()


def check_ids(ids: pl.Series, source: str) -> None:
    """Raise :class:`DataError` if an ID is missing or occurs twice."""
    if (missing := missing_ids(ids)).any():
        raise DataError(f"{source} has no ID in row {missing.arg_max()} (rows count from 0).")
    if ids.n_unique() != len(ids):
        repeated = ids.filter(ids.is_duplicated())[0]
        raise DataError(f"{source} holds the ID {shown(repeated)} more than once. Keep one row of it.")


def read_ids(path: str | Path, name: str) -> pl.Series:
    """Read a text file with one ID per line.

    Args:
        path: the file.
        name: parameter that the user passed it as, for messages.

    Raises:
        DataError: if it cannot be read, or an ID is missing.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_LIST_BYTES + 1)
        if len(content) > _MAX_LIST_BYTES:
            raise ValueError("it is too large for a list of IDs")
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:  # another encoding, or a name with a null character
        raise DataError(f"`{name}` is {path}, which is not a readable text file ({error}).") from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(f"{path} has no ID in line {lines.index('') + 1}.")
    return canonical_ids(pl.Series("id", lines, dtype=pl.String), source=str(path))


def read_unique_ids(path: str | Path, name: str) -> pl.Series:
    """Read a list of IDs as :func:`read_ids` does, and raise :class:`DataError` if one occurs twice."""
    ids = read_ids(path, name)
    check_ids(ids, source=str(path))
    return ids
