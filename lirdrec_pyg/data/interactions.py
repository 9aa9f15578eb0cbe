"""Interaction tables: reading, merging duplicates and k-core filtering.

Tables are polars frames with the columns ``user``, ``item`` and, if present, ``label``
(0 training, 1 validation, 2 test) and ``time``. IDs keep the type they have in the file.
"""

import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lirdrec_pyg.config import Config, field
from lirdrec_pyg.data.ids import canonical_ids, missing_ids
from lirdrec_pyg.data.splits import TEST, TRAIN, VAL, SplitStrategy
from lirdrec_pyg.data.tables import USUAL_NAMES, find_column, read_table, table_suffix
from lirdrec_pyg.errors import DataError, first_line, listed, shortened, shown

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".inter")

# Tables without a header line.
_NO_HEADER = (".parquet", ".jsonl", ".json")
_NUMBER = re.compile(r"-?\d+(\.\d+)?$")

# The column that a split needs in addition to users and items.
_NEEDS = {"labels": "label", "leave-last-out": "time", "time": "time"}
_LABELS = {"0": TRAIN, "1": VAL, "2": TEST, "0.0": TRAIN, "1.0": VAL, "2.0": TEST}
_LABELS |= {"train": TRAIN, "valid": VAL, "val": VAL, "validation": VAL, "test": TEST}


@dataclass(frozen=True)
class ColumnConfig(Config):
    """Names of the columns of a table."""

    user_column: str | None = field(
        None, "Column of user IDs; by default one with a usual name, such as user_id or userID."
    )
    item_column: str | None = field(
        None, "Column of item IDs; by default one with a usual name, such as item_id or itemID."
    )
    label_column: str | None = field(None, "Column of split labels (0/1/2 or train/valid/test), if there is one.")
    time_column: str | None = field(None, "Column of times, a number or a date, if there is one.")
    separator: str | None = field(None, "Separator of a text table; by default a comma in .csv, else a tab.")


def is_table(path: Path) -> bool:
    """Return whether ``path`` has the suffix of an interaction table (``.gz`` may follow it)."""
    return table_suffix(path) in TABLE_SUFFIXES


def read_interactions(path: Path, columns: ColumnConfig | None = None, split: SplitStrategy = "auto") -> pl.DataFrame:
    """Read a table of interactions.

    Args:
        path: CSV, TSV, MMRec's ``.inter``, JSON Lines (each may be gzipped) or Parquet.
        columns: names of the columns, and the separator.
        split: see :func:`parse_interactions`.

    Returns:
        A frame as of :func:`parse_interactions`.

    Raises:
        DataError: naming the file and the column or row that is wrong.
    """
    columns = columns or ColumnConfig()
    return parse_interactions(read_table(path, columns.separator), columns, split, path)


def parse_interactions(
    frame: pl.DataFrame,
    columns: ColumnConfig,
    split: SplitStrategy = "auto",
    source: str | Path = "The table of interactions",
) -> pl.DataFrame:
    """Find the columns of users, items, labels and times, and convert them.

    Args:
        frame: one row per interaction, with columns of any name and order.
        columns: names of the columns; those that are ``None`` are recognized by their usual names.
        split: how the interactions will be split. A column of labels or times that was only recognized by its name,
            and that the split does not need, is ignored if it holds anything else.
        source: file that the frame was read from, or its name in messages.

    Returns:
        A frame with ``user`` and ``item`` (int64 if all IDs are canonical integers, else strings) and,
        if the table has them, ``label`` (int8) and ``time`` (int64, float64 or datetime).

    Raises:
        DataError: naming the column or row that is wrong.
    """
    found = {role: _find_column(frame, role, columns, source) for role in USUAL_NAMES}
    series = {role: column for role, column in found.items() if column is not None}
    if series["user"].name == series["item"].name:
        raise DataError(
            f"Column {series['user'].name!r} of {source} cannot hold both users and items. "
            "Pass `user_column` and `item_column`."
        )
    if frame.is_empty():
        raise DataError(f"{source} holds no interactions.")
    parsed = {}
    for role, column in series.items():
        try:
            parsed[role] = _parse(role, column, source)
        except DataError as error:
            if _is_needed(role, column.name, source, columns, split):
                raise
            if role == "label" and split == "auto":
                # Labels would have decided the split: a typing error in them must not go unnoticed.
                warnings.warn(f"{error} The column is not used.", stacklevel=2)
    return pl.DataFrame(parsed)


def _find_column(frame: pl.DataFrame, role: str, columns: ColumnConfig, source: str | Path) -> pl.Series | None:
    name = getattr(columns, f"{role}_column")
    if name is None:
        name = find_column(role, frame.columns)
        if name is None and role in ("label", "time"):
            return None
    if name is None or name not in frame.columns:
        raise DataError(
            f"No column {name or USUAL_NAMES[role][0]!r} for the {role}s in {source} (columns: "
            f"{listed(frame.columns)}). {_column_advice(role, frame.columns, source)}."
        )
    return frame[name]


def _column_advice(role: str, columns: list[str], source: str | Path) -> str:
    """Return what to do about a missing column."""
    if _has_header(source):
        if any("\r" in name for name in columns):
            return "Write its line ends as line feeds"
        if len(columns) == 1:
            return "Pass `separator`"
        if any(_NUMBER.match(name) for name in columns):
            return f"Add a header if the first line holds data, or pass `{role}_column`"
    return f"Pass `{role}_column`"


def _is_needed(role: str, name: str, source: str | Path, columns: ColumnConfig, split: SplitStrategy) -> bool:
    """Return whether an unreadable column is an error; one that was only recognized by its name can be ignored."""
    recognized = role in ("label", "time") and getattr(columns, f"{role}_column") is None
    of_layout = isinstance(source, Path) and table_suffix(source) == ".inter" and name == "x_label"
    return not recognized or of_layout or _NEEDS.get(split) == role


def _has_header(source: str | Path) -> bool:
    return isinstance(source, Path) and table_suffix(source) not in _NO_HEADER


def _place(wrong: pl.Series, source: str | Path) -> str:
    """Return how a user finds the first wrong row: text files have lines, and the header is the first."""
    row = int(wrong.arg_max() or 0)
    if isinstance(source, str) or source.suffix.lower() == ".parquet":
        return f"row {row} (rows count from 0)"
    return f"line {row + (2 if _has_header(source) else 1)}"


def _parse(role: str, column: pl.Series, source: str | Path) -> pl.Series:
    """Convert a column to its type: checks of one role belong into its parser."""
    if column.dtype.is_nested():
        raise DataError(
            f"Column {shown(column.name)} of {source} has type {shortened(str(column.dtype))}, not one {role} per row."
        )
    parsers = {"user": _parse_ids, "item": _parse_ids, "label": _parse_labels, "time": _parse_times}
    try:
        return parsers[role](column, source)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # some types cannot be cast
        raise DataError(
            f"Column {shown(column.name)} of {source} has type {shortened(str(column.dtype))}, which cannot be used as "
            f"{role} ({first_line(error)})."
        ) from error


def _parse_ids(column: pl.Series, source: str | Path) -> pl.Series:
    if (missing := missing_ids(column)).any():
        raise DataError(f"{source} has no {column.name!r} in {_place(missing, source)}.")
    return canonical_ids(column, source=f"Column {column.name!r} of {source}")


def _parse_labels(column: pl.Series, source: str | Path) -> pl.Series:
    labels = column.cast(pl.String).replace_strict(_LABELS, default=None, return_dtype=pl.Int8)
    return _complete(labels, column, source, "A split label is one of 0, 1, 2 or train, valid, test.")


def _parse_times(column: pl.Series, source: str | Path) -> pl.Series:
    if column.dtype.is_numeric() or column.dtype.is_temporal():
        times = column
    else:
        text = column.cast(pl.String)
        # Integers first: the nanoseconds of a timestamp do not fit into a float.
        readings = [text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)]
        with suppress(pl.exceptions.ComputeError):  # raised if no entry looks like a date
            readings.append(text.str.to_datetime(strict=False))
        times = min(readings, key=lambda reading: reading.null_count())
    if times.dtype.is_float():
        times = times.fill_nan(None)
    return _complete(times, column, source, "A time is a number or a date such as 2024-05-31 18:00:00.")


def _complete(parsed: pl.Series, column: pl.Series, source: str | Path, advice: str) -> pl.Series:
    """Return ``parsed`` if every entry of ``column`` could be parsed."""
    if (wrong := parsed.is_null()).any():
        entry = shown(column.filter(wrong)[0])
        raise DataError(f"{source} has {entry} in column {column.name!r}, {_place(wrong, source)}. {advice}")
    return parsed


def merge_duplicates(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep one row per (user, item): with its first time, and the earliest split.

    A pair in both training and test is thus for training, and cannot inflate the test metrics.
    """
    others = [pl.col(name).min() for name in ("label", "time") if name in frame.columns]
    return frame.group_by("user", "item", maintain_order=True).agg(others)


def k_core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """Drop users and items with fewer than ``k`` interactions until none is left.

    Raises:
        DataError: if no interaction remains.
    """
    while True:
        kept = frame.filter((pl.len().over("user") >= k) & (pl.len().over("item") >= k))
        if kept.is_empty():
            raise DataError(f"No interaction is left in the {k}-core. Pass a smaller `k_core`.")
        if len(kept) == len(frame):
            return kept
        frame = kept
