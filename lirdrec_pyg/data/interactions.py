"""Interaction tables: reading, merging duplicates, k-core filtering and splitting.

Tables are polars frames with the columns ``user``, ``item`` and, where there are any, ``label``
(0 training, 1 validation, 2 test) and ``time``. IDs keep the type they have in the file.
"""

import re
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec_pyg.config import ColumnConfig, SplitStrategy
from lirdrec_pyg.data.tables import (
    USUAL_NAMES,
    canonical_ids,
    find_column,
    first_line,
    listed,
    missing_ids,
    read_table,
    shortened,
    shown,
    table_suffix,
)
from lirdrec_pyg.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".inter")

TRAIN, VAL, TEST = 0, 1, 2

# Tables whose first line holds no names.
_NO_TEXT = (".parquet", ".jsonl", ".json")
_NUMBER = re.compile(r"-?\d+(\.\d+)?$")

# What a split needs beside users and items.
_NEEDS = {"labels": "label", "leave-last-out": "time", "time": "time"}
_LABELS = {"0": TRAIN, "1": VAL, "2": TEST, "0.0": TRAIN, "1.0": VAL, "2.0": TEST}
_LABELS |= {"train": TRAIN, "valid": VAL, "val": VAL, "validation": VAL, "test": TEST}


def is_table(path: Path) -> bool:
    """Whether ``path`` has the ending of an interaction table (``.gz`` may follow it)."""
    return table_suffix(path) in TABLE_SUFFIXES


def read_interactions(path: Path, columns: ColumnConfig | None = None, split: SplitStrategy = "auto") -> pl.DataFrame:
    """Reads a table of interactions.

    Args:
        path: CSV, TSV, MMRec's ``.inter``, JSON Lines (these may be gzipped) or Parquet.
        columns: names of the columns and the separator; what it leaves open is found out.
        split: how the interactions will be split. A column of labels or times that was only guessed by its name,
            and that the split can do without, is left out if it holds anything else.

    Returns:
        A frame with ``user`` and ``item`` (int64 if all IDs are canonical integers, else strings) and,
        where the table has them, ``label`` (int8) and ``time`` (int64, float64 or datetime).

    Raises:
        DataError: naming the file and the column or row that is wrong.
    """
    columns = columns or ColumnConfig()
    frame = read_table(path, columns.separator)
    found = {role: _find_column(frame, role, columns, path) for role in USUAL_NAMES}
    series = {role: column for role, column in found.items() if column is not None}
    if series["user"].name == series["item"].name:
        raise DataError(
            f"Column {series['user'].name!r} of {path} can't hold both users and items: "
            "name the right ones with --user-column and --item-column."
        )
    if frame.is_empty():
        raise DataError(f"{path} holds no interactions.")
    parsed = {}
    for role, column in series.items():
        try:
            parsed[role] = _parse(role, column, path)
        except DataError as error:
            if _is_needed(role, column.name, path, columns, split):
                raise
            if role == "label" and split == "auto":
                # Labels would have decided the split: a typing error among them must not go unseen.
                warnings.warn(f"{error} The column is not used.", stacklevel=2)
    return pl.DataFrame(parsed)


def _find_column(frame: pl.DataFrame, role: str, columns: ColumnConfig, path: Path) -> pl.Series | None:
    name = getattr(columns, f"{role}_column")
    if name is None:
        name = find_column(role, frame.columns)
        if name is None and role in ("label", "time"):
            return None
    if name is None or name not in frame.columns:
        raise DataError(
            f"{path} has no column {name or USUAL_NAMES[role][0]!r} for the {role}: its columns are "
            f"{listed(frame.columns)}; {_way_to_column(role, frame.columns, path)}."
        )
    return frame[name]


def _way_to_column(role: str, columns: list[str], path: Path) -> str:
    """What to do if there is no such column, for the end of a sentence."""
    by_name = f"name the right one with --{role}-column"
    if table_suffix(path) in _NO_TEXT:
        return by_name
    if any("\r" in name for name in columns):
        return "end its lines as usual, with a line feed"
    if len(columns) == 1:
        return "name the sign between the columns with --separator"
    if any(_NUMBER.match(name) for name in columns):
        return f"give it a first line with names, if that holds data, or {by_name}"
    return by_name


def _is_needed(role: str, name: str, path: Path, columns: ColumnConfig, split: SplitStrategy) -> bool:
    """Whether a column that can't be read is an error; one that was only guessed by its name can be left out."""
    guessed = role in ("label", "time") and getattr(columns, f"{role}_column") is None
    of_layout = table_suffix(path) == ".inter" and name == "x_label"
    return not guessed or of_layout or _NEEDS.get(split) == role


def _place(row: int, path: Path) -> str:
    """How a user finds ``row``, counted from 0: texts have lines, of which a header is the first."""
    if path.suffix.lower() == ".parquet":
        return f"row {row} (rows count from 0)"
    return f"line {row + (1 if table_suffix(path) in _NO_TEXT else 2)}"


def _first(wrong: pl.Series) -> int:
    return int(wrong.arg_max() or 0)


def _parse(role: str, column: pl.Series, path: Path) -> pl.Series:
    if column.dtype.is_nested():
        raise DataError(
            f"Column {shown(column.name)} of {path} holds {shortened(str(column.dtype))}, not one {role} a row."
        )
    parsers = {"user": _parse_ids, "item": _parse_ids, "label": _parse_labels, "time": _parse_times}
    try:
        return parsers[role](column, path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # some types can't be cast
        raise DataError(
            f"Column {shown(column.name)} of {path} holds {shortened(str(column.dtype))}, which gives no {role} "
            f"({first_line(error)})."
        ) from error


def _parse_ids(column: pl.Series, path: Path) -> pl.Series:
    if (missing := missing_ids(column)).any():
        raise DataError(f"{path} has no {column.name!r} in {_place(_first(missing), path)}.")
    return canonical_ids(column, source=f"Column {column.name!r} of {path}")


def _parse_labels(column: pl.Series, path: Path) -> pl.Series:
    labels = column.cast(pl.String).replace_strict(_LABELS, default=None, return_dtype=pl.Int8)
    if labels.null_count():
        row = _first(labels.is_null())
        raise DataError(
            f"{path} has {shown(column[row])} in column {column.name!r}, {_place(row, path)}: "
            "a split label is one of 0, 1, 2 or train, valid, test."
        )
    return labels


def _parse_times(column: pl.Series, path: Path) -> pl.Series:
    if column.dtype.is_numeric() or column.dtype.is_temporal():
        times = column
    else:
        text = column.cast(pl.String)
        # Integers first: the nanoseconds of a timestamp don't fit into a float.
        readings = [text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)]
        with suppress(pl.exceptions.ComputeError):  # raised where no entry looks like a date
            readings.append(text.str.to_datetime(strict=False))
        times = min(readings, key=lambda reading: reading.null_count())
    if times.dtype.is_float():
        times = times.fill_nan(None)
    if times.null_count():
        row = _first(times.is_null())
        raise DataError(
            f"{path} has {shown(column[row])} in column {column.name!r}, {_place(row, path)}: "
            "a time is a number or a date such as 2024-05-31 18:00:00."
        )
    return times


def merge_duplicates(frame: pl.DataFrame) -> pl.DataFrame:
    """One row for each (user, item): its first time, and the earliest split that names it.

    So a pair that stands in training and in test counts as training, and can't flatter the test.
    """
    others = [pl.col(name).min() for name in ("label", "time") if name in frame.columns]
    return frame.group_by("user", "item", maintain_order=True).agg(others)


def k_core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """Drops users and items with fewer than ``k`` interactions until none is left.

    Raises:
        DataError: if nothing remains.
    """
    while True:
        kept = frame.filter((pl.len().over("user") >= k) & (pl.len().over("item") >= k))
        if kept.is_empty():
            raise DataError(f"No interaction is left in the {k}-core: choose a smaller --k-core.")
        if len(kept) == len(frame):
            return kept
        frame = kept


def split_interactions(
    frame: pl.DataFrame, strategy: SplitStrategy, seed: int, cold_fraction: float = 0.2
) -> pl.DataFrame:
    """Gives every interaction a ``label``: 0 training, 1 validation, 2 test.

    Args:
        frame: interactions, each (user, item) once.
        strategy:

            * ``labels``: those of the file.
            * ``random``: 8:1:1 for each user. A user with n >= 3 interactions gives
              max(1, round(n / 10)) to validation and as many to test, others give none.
            * ``leave-last-out``: the last interaction of a user is for test, the one before for
              validation, if the user has three or more.
            * ``time``: the first 80 % of all interactions in time train, the next 10 % validate, the
              last 10 % test. Interactions at one moment are never parted.
            * ``cold-items``: ``cold_fraction`` of the items are drawn, and all interactions with them held
              out: those with one half of these items validate, those with the other half test, so that
              no item is in both. The interactions with the other items are split as ``random`` does. The
              result has a column ``cold`` that says which is which.
            * ``auto``: ``labels`` if the file has them, else ``random``.
        seed: of the random split.
        cold_fraction: share of the items that ``cold-items`` holds out.

    Raises:
        DataError: if the strategy needs a column that is missing, or a split comes out empty.
    """
    if strategy == "auto":
        strategy = resolve_split(frame)
    if strategy == "labels":
        if "label" not in frame.columns:
            raise DataError("--split labels needs a column of labels: name it with --label-column.")
        labels = frame["label"].to_numpy()
    elif strategy == "random":
        labels = _random_labels(frame, np.random.default_rng(seed))
    elif strategy == "cold-items":
        rng = np.random.default_rng(seed)
        cold_labels = _cold_labels(frame, cold_fraction, rng)
        cold = cold_labels != TRAIN
        frame = frame.with_columns(pl.Series("cold", cold))
        labels = cold_labels
        labels[~cold] = _random_labels(frame.filter(~pl.col("cold")), rng)
    else:
        if "time" not in frame.columns:
            raise DataError(f"--split {strategy} needs a column of times: name it with --time-column.")
        labels = _last_out_labels(frame) if strategy == "leave-last-out" else _time_labels(frame)
    for label, name in ((TRAIN, "training"), (VAL, "validation"), (TEST, "test")):
        kept = labels == label if strategy != "cold-items" else (labels == label) & ~frame["cold"].to_numpy()
        if not kept.any():
            rule = ", of users with three or more" if strategy in ("random", "leave-last-out") else ""
            raise DataError(
                f"The {name} split is empty (--split {strategy}{rule}, {len(frame)} interactions): "
                "give more data or choose another --split."
            )
    return frame.with_columns(pl.Series("label", labels, dtype=pl.Int8))


def resolve_split(frame: pl.DataFrame) -> SplitStrategy:
    """The strategy that ``auto`` stands for."""
    return "labels" if "label" in frame.columns else "random"


def _ranks(user: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each interaction within its user, and the user's count; ``order`` sorts by user first."""
    _, start, inverse, count = np.unique(user[order], return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(user), dtype=np.int64)
    size = np.empty(len(user), dtype=np.int64)
    rank[order] = np.arange(len(user)) - start[inverse]
    size[order] = count[inverse]
    return rank, size


def _user_codes(frame: pl.DataFrame) -> np.ndarray:
    return frame["user"].rank("dense").to_numpy()


def _random_labels(frame: pl.DataFrame, rng: np.random.Generator) -> np.ndarray:
    user = _user_codes(frame)
    rank, size = _ranks(user, np.lexsort((rng.random(len(user)), user)))
    held_out = np.where(size >= 3, np.maximum(1, np.rint(size / 10)), 0)
    return np.where(rank < held_out, TEST, np.where(rank < 2 * held_out, VAL, TRAIN))


def _cold_labels(frame: pl.DataFrame, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """0 for an interaction with a warm item, 1 or 2 with a cold one of that split."""
    # Sorted, so that the draw depends on the items alone and not on the order of the table.
    _, item = np.unique(frame["item"].to_numpy(), return_inverse=True)
    num_items = int(item.max()) + 1
    num_cold = round(fraction * num_items)
    if not 2 <= num_cold <= num_items - 2:
        raise DataError(
            f"--cold-fraction {fraction:g} of {num_items} items is {num_cold}: at least two items have to be cold, "
            "and two others warm."
        )
    label_of_item = np.full(num_items, TRAIN)
    drawn = rng.permutation(num_items)[:num_cold]
    label_of_item[drawn[: num_cold // 2]], label_of_item[drawn[num_cold // 2 :]] = VAL, TEST
    return label_of_item[item]


def _last_out_labels(frame: pl.DataFrame) -> np.ndarray:
    user = _user_codes(frame)
    time = frame["time"].rank("dense").to_numpy()
    rank, size = _ranks(user, np.lexsort((time, user)))
    from_end = size - rank
    return np.where(size < 3, TRAIN, np.select([from_end == 1, from_end == 2], [TEST, VAL], TRAIN))


def _time_labels(frame: pl.DataFrame) -> np.ndarray:
    time = frame["time"].rank("dense").to_numpy()
    ordered = np.sort(time)
    val_from, test_from = ordered[int(0.8 * len(time))], ordered[int(0.9 * len(time))]
    return np.where(time >= test_from, TEST, np.where(time >= val_from, VAL, TRAIN))
