"""What all readers of tables share: names of columns, reading Parquet, and checking columns of IDs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from lirdrec_pyg.errors import DataError

# Names under which the columns are looked for when the user gives none, most common first.
USUAL_NAMES = {
    "user": ("user_id", "userID", "userId", "user", "uid"),
    "item": ("item_id", "itemID", "itemId", "item", "iid", "asin"),
    "label": ("x_label", "split"),
    "time": ("timestamp", "time", "date", "datetime"),
}

# To how much a small packed file may unpack, and how many times its size a large one.
_UNPACKED_BYTES, _UNPACKED_RATIO = 2**30, 100

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


def first_line(error: BaseException) -> str:
    """What ``error`` says, without the context that libraries print below it."""
    return shortened(str(error).strip().split("\n", 1)[0]) or type(error).__name__


def shortened(text: str, length: int = 200) -> str:
    """``text`` without what is beyond ``length``: an entry of a file may be of any length."""
    return text if len(text) <= length else f"{text[:length]}..."


def shown(value: object) -> str:
    """How an entry of a file looks in a message."""
    return shortened(repr(value), 80)


def listed(names: Iterable[str]) -> str:
    """The first of ``names``, as they look in a message."""
    names = list(names)
    return ", ".join(map(shown, names[:10])) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")


def is_file(path: Path) -> bool:
    """Whether there is such a file; unlike ``Path.is_file``, also of a name that is too long."""
    return os.path.isfile(path)


def check_unpacked(
    path: Path, size: int, advice: str, bound: int = _UNPACKED_BYTES, ratio: int = _UNPACKED_RATIO
) -> None:
    """Raises :class:`DataError` if a packed file unpacks to more than real data do.

    Args:
        path: the file.
        size: in bytes, of what it unpacks to.
        advice: what to do with a file of real data.
        bound: to what every file may unpack.
        ratio: times the size of the file that it may unpack to.
    """
    packed = path.stat().st_size
    if size > max(bound, ratio * packed):
        raise DataError(f"{path} has {packed} bytes, but unpacks to {size} or more: {advice}.")


def read_parquet(path: Path) -> pl.DataFrame:
    """Reads one Parquet file.

    Raises:
        DataError: if it is missing or damaged.
    """
    with _names_damage(path):
        frame = pl.scan_parquet(path, glob=False)
        width, height = len(frame.collect_schema()), int(frame.select(pl.len()).collect().item())
        # A column of one value takes no room, however many rows it claims.
        check_unpacked(path, 8 * width * height, "if it is real, leave out columns of one value, or write it unpacked")
        return pl.read_parquet(path, glob=False)


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a Parquet file, of which only the schema is read.

    Raises:
        DataError: if it is missing or damaged.
    """
    # An open file, since a path would be taken for a pattern.
    with _names_damage(path), path.open("rb") as file:
        return list(pl.read_parquet_schema(file))


@contextmanager
def _names_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({first_line(error)}).") from error


def find_column(role: str, columns: Iterable[str]) -> str | None:
    """The first of the usual names for ``role`` that is among ``columns``."""
    columns = set(columns)
    return next((name for name in USUAL_NAMES[role] if name in columns), None)


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
        raise DataError(f"{source} holds the ID {shown(twice)} more than once: keep one row of it.")
