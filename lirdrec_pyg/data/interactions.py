"""Interaction tables: reading, merging duplicates and k-core filtering."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from lirdrec_pyg.config import Config, field
from lirdrec_pyg.data.column_names import USUAL_NAMES, find_column
from lirdrec_pyg.data.ids import as_text, canonical_ids, missing_ids, strip_ids
from lirdrec_pyg.data.splits import TEST, TRAIN, VAL, SplitStrategy
from lirdrec_pyg.data.tables import line_of, read_table, table_suffix
from lirdrec_pyg.data.times import read_times
from lirdrec_pyg.errors import ConfigError, DataError, first_line, listed, shortened, shown

MissingIDs = Literal["error", "drop", "keep"]
Facts = dict[str, Any]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".inter")

# Tables that are not text in columns.
_NOT_TEXT = (".parquet", ".jsonl", ".json")
# Columns of a table without a header: users, items, ratings and times.
_PLACES = {"user": "1", "item": "2", "time": "4"}

# The column that a split needs in addition to users and items.
_NEEDS = {"labels": "label", "leave-last-out": "time", "time": "time"}
_LABELS = {"0": TRAIN, "1": VAL, "2": TEST, "0.0": TRAIN, "1.0": VAL, "2.0": TEST}
_LABELS |= {"train": TRAIN, "valid": VAL, "val": VAL, "validation": VAL, "test": TEST}

_COMMENT = r"^\s*(#|%|//)\s"
_MIN_RATING = re.compile(r"\s*(.+?)\s*(>=|>)\s*(-?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class ColumnConfig(Config):
    """Columns of a table of interactions, and which of its rows count."""

    user_column: str | None = field(
        None, "Column of user IDs; by default one with a usual name, such as user_id or userID."
    )
    item_column: str | None = field(
        None, "Column of item IDs; by default one with a usual name, such as item_id or itemID."
    )
    label_column: str | None = field(None, "Column of split labels (0/1/2 or train/valid/test), if there is one.")
    time_column: str | None = field(None, "Column of times, a number or a date, if there is one.")
    separator: str | None = field(None, "Separator of a text table, also several characters; by default detected.")
    header: bool = field(
        True,
        "Whether the first line of a text table holds the names of its columns. Without them, columns are called 1, 2 "
        "and so on, with users in 1, items in 2 and, if there are four, times in 4.",
    )
    strip_ids: bool = field(False, "Remove spaces around IDs, also those of features and catalogs.")
    missing_ids: MissingIDs = field(
        "error",
        "What a row means whose ID is missing or a word for it, such as nan or NULL: an error, a row to drop, or, for "
        "words, an ID like any other ('keep').",
    )
    min_rating: str | None = field(
        None,
        "Keep only rows with a column at or above a number, such as 'rating>=4', or above it, such as 'quantity>0'.",
    )
    time_format: str | None = field(
        None,
        "Format of dates, such as %d/%m/%Y; by default, numbers and dates of which day and month are clear are read.",
    )


def columns_of_training(trained: ColumnConfig | None, names: Sequence[str]) -> ColumnConfig:
    """Return how to read a later table with columns ``names``: as in the training, by those of its columns it has."""
    trained = trained or ColumnConfig()
    named = {role: getattr(trained, role) for role in ("user_column", "item_column", "time_column")}
    missing: dict[str, Any] = {role: None for role, name in named.items() if name is not None and name not in names}
    if "time_column" in missing:
        missing["time_format"] = None
    return replace(trained, label_column=None, **missing)


def with_trained_columns(columns: ColumnConfig, trained: ColumnConfig | None, names: Sequence[str]) -> ColumnConfig:
    """Return ``columns``, where they are left open with those of the training that a table with ``names`` has."""
    own = columns_of_training(trained, names)
    user, item = columns.user_column or own.user_column, columns.item_column or own.item_column
    return replace(columns, user_column=user, item_column=item)


def read_interactions(
    path: Path, columns: ColumnConfig | None = None, split: SplitStrategy = "auto", facts: Facts | None = None
) -> pl.DataFrame:
    """Read a table of interactions.

    Args:
        path: CSV, TSV, MMRec's ``.inter``, JSON Lines (each may be gzipped) or Parquet.
        columns: names of the columns, the separator, and which rows count.
        split: see :func:`parse_interactions`.
        facts: see :func:`parse_interactions`.

    Returns:
        A frame as of :func:`parse_interactions`.

    Raises:
        DataError: naming the file and the column or row that is wrong.
    """
    columns = columns or ColumnConfig()
    return parse_interactions(read_table(path, columns.separator, columns.header), columns, split, path, facts)


@dataclass(frozen=True)
class _Table:
    """A table as messages name it.

    Attributes:
        source: its file or name.
        columns: its settings.
        rows: positions of the rows that count; ``None`` if all do.
    """

    source: str | Path
    columns: ColumnConfig
    rows: pl.Series | None = None

    @property
    def is_text(self) -> bool:
        return isinstance(self.source, Path) and table_suffix(self.source) not in _NOT_TEXT

    def place(self, wrong: pl.Series) -> str:
        """Return how a user finds the first wrong row: by its line in a file of text."""
        row = int(wrong.arg_max() or 0)
        row = row if self.rows is None else int(self.rows[row])
        line = None
        if isinstance(self.source, Path):
            line = line_of(self.source, row, self.columns.separator, self.columns.header)
        return f"row {row} (rows count from 0)" if line is None else f"line {line}"


def parse_interactions(
    frame: pl.DataFrame,
    columns: ColumnConfig,
    split: SplitStrategy = "auto",
    source: str | Path = "The table of interactions",
    facts: Facts | None = None,
) -> pl.DataFrame:
    """Find the columns of users, items, labels and times, drop rows that do not count, and convert the others.

    Args:
        frame: one row per interaction, with columns of any name and order.
        columns: names of the columns, of which those that are ``None`` are recognized, and which rows count.
        split: how the interactions will be split. A column of labels or times that was only recognized by its name,
            and that the split does not need, is ignored if it holds anything else.
        source: file that the frame was read from, or its name in messages.
        facts: receives the numbers of dropped rows and the names of unused columns.

    Returns:
        A frame with ``user`` and ``item`` (int64 if all IDs are canonical integers, else strings) and,
        if the table has them, ``label`` (int8: 0 training, 1 validation, 2 test) and ``time`` (int64, float64 or
        datetime).

    Raises:
        DataError: naming the column or row that is wrong.
        ConfigError: if a setting is invalid or does not fit the table.
    """
    table, facts = _Table(source, columns), {} if facts is None else facts
    if not table.is_text and (columns.separator is not None or not columns.header):
        raise ConfigError(f"`separator` and `header` are for files of text in columns, unlike {source}.")
    found = {role: _find_column(frame, role, table) for role in USUAL_NAMES}
    if table.is_text and columns.header and _looks_like_data(frame.columns):
        warnings.warn(
            f"The first line of {source} looks like data ({listed(frame.columns)}), but is used as the header. Pass "
            "`header=False` if it is data.",
            stacklevel=2,
        )
    series = {role: column for role, column in found.items() if column is not None}
    if series["user"].name == series["item"].name:
        raise DataError(
            f"Column {series['user'].name!r} of {source} cannot hold both users and items. "
            "Pass `user_column` and `item_column`."
        )
    if columns.time_format is not None and "time" not in series:
        raise ConfigError(f"{source} has no column of times, which `time_format` is for. Pass `time_column`.")
    if frame.is_empty():
        raise DataError(f"{source} holds no interactions.")
    for role in ("user", "item"):
        series[role] = strip_ids(as_text(series[role])) if columns.strip_ids else as_text(series[role])
    _check_repeated_header(series["user"], series["item"], table)
    _warn_of_comments(series["user"], series["item"], table)
    rated = None if columns.min_rating is None else _are_rated(frame, columns.min_rating, table)
    if not (kept := _rows_that_count(series, rated, table, facts)).all():
        series = {role: column.filter(kept) for role, column in series.items()}
        table = replace(table, rows=kept.arg_true())
    parsed = {}
    for role, column in series.items():
        try:
            parsed[role] = _parse(role, column, table)
        except DataError as error:
            if _is_needed(role, column.name, table, split):
                raise
            if role == "label" and split == "auto":
                # Labels would have decided the split: a typing error in them must not go unnoticed.
                warnings.warn(f"{error} The column is not used.", stacklevel=2)
    of_split = "label" if split == "auto" else _NEEDS.get(split)
    used = {series[role].name for role in parsed if role in ("user", "item", of_split)}
    if rated is not None:
        used.add(rated.name)
    # Separators at the ends of lines make columns without entries.
    unused = [column.name for column in frame if column.name not in used and column.null_count() < len(column)]
    if unused:
        facts["columns not used"] = unused
    return pl.DataFrame(parsed)


def _find_column(frame: pl.DataFrame, role: str, table: _Table) -> pl.Series | None:
    columns = table.columns
    name = getattr(columns, f"{role}_column") or find_column(role, frame.columns)
    if name is None and not columns.header and (role != "time" or frame.width == 4):
        name = _PLACES.get(role)
    if name is None and role in ("label", "time"):
        return None
    if name is None or name not in frame.columns:
        raise DataError(
            f"No column {name or USUAL_NAMES[role][0]!r} for the {role}s in {table.source} (columns: "
            f"{listed(frame.columns)}). {_column_advice(role, frame.columns, table)}."
        )
    return frame[name]


def _column_advice(role: str, columns: list[str], table: _Table) -> str:
    """Return what to do about a missing column."""
    if role == "time":
        return "Pass `time_column`, or an empty one for a table without times"
    if not table.is_text:
        return f"Pass `{role}_column`"
    if len(columns) == 1:
        return "Pass `separator`"
    if table.columns.header and _looks_like_data(columns):
        return "Pass `header=False`, since its first line looks like data"
    without = ", or `header=False` if the first line holds data" if table.columns.header else ""
    return f"Pass `{role}_column`{without}"


def _looks_like_data(names: list[str]) -> bool:
    """Return whether names of columns are numbers, and not those that pandas gives to columns without names."""
    counted = [[str(first + n) for n in range(len(names))] for first in (0, 1)]
    return names not in counted and all(re.fullmatch(r"-?\d+(\.\d+)?(_duplicated_\d+)?", name) for name in names)


def _check_repeated_header(user: pl.Series, item: pl.Series, table: _Table) -> None:
    """Raise :class:`DataError` if a row holds names of columns, as where files were joined."""
    if user.dtype != pl.String or item.dtype != pl.String:
        return
    names = {*USUAL_NAMES["user"], *USUAL_NAMES["item"], *(x.name for x in (user, item) if not x.name.isdigit())}
    pattern = rf"(?i)^\W*({'|'.join(map(re.escape, names))})(:token)?\W*$"
    if (again := user.str.contains(pattern) & item.str.contains(pattern)).any():
        first = ", ".join(shown(ids.filter(again)[0]) for ids in (user, item))
        advice = "Leave out `header=False`" if again[0] and not table.columns.header else "Delete such lines"
        raise DataError(
            f"{table.source} repeats its header in {table.place(again)} ({first}; {again.sum()} in total). {advice}."
        )


def _warn_of_comments(user: pl.Series, item: pl.Series, table: _Table) -> None:
    """Warn of a line among the rows of a text that looks like a comment."""
    for ids in (user, item):
        if table.is_text and ids.dtype == pl.String and (found := ids.str.contains(_COMMENT).fill_null(False)).any():
            warnings.warn(
                f"{table.source} has a line that looks like a comment, {table.place(found)} "
                f"({shown(ids.filter(found)[0])}; {found.sum()} in total). Delete such lines if they are comments.",
                stacklevel=3,
            )


def _are_rated(frame: pl.DataFrame, rule: str, table: _Table) -> pl.Series:
    """Return which rows satisfy ``rule``, such as ``rating>=4``; the result has the name of the column."""
    if (found := _MIN_RATING.fullmatch(rule)) is None:
        raise ConfigError(
            f"`min_rating` is {rule!r}. Pass a column and the lowest number, such as 'rating>=3.5' or 'quantity>0'."
        )
    name, sign, number = found.groups()
    if name not in frame.columns:
        raise DataError(
            f"No column {name!r} for `min_rating` in {table.source}. Pass one of these: {listed(frame.columns)}."
        )
    rating = _parse("rating", frame[name], table)
    return rating >= float(number) if sign == ">=" else rating > float(number)


def _rows_that_count(series: dict[str, pl.Series], rated: pl.Series | None, table: _Table, facts: Facts) -> pl.Series:
    """Return the rows with both IDs that are ``rated``, and add the numbers of others to ``facts``."""
    meaning = table.columns.missing_ids
    kept = pl.repeat(True, len(series["user"]), eager=True)
    for role in ("user", "item"):
        missing = missing_ids(series[role], words=meaning != "keep")
        if missing.any() and meaning != "drop":
            raise _no_id(series[role], missing, table)
        kept &= ~missing
    dropped = {"rows without an ID": len(kept) - int(kept.sum())} if meaning == "drop" else {}
    if rated is not None:
        dropped["rows below min_rating"] = int((kept & ~rated).sum())
        kept &= rated
    for name, count in dropped.items():
        facts[name] = int(facts.get(name, 0)) + count
    if not kept.any():
        raise DataError(f"No row of {table.source} is left. Check `missing_ids` and `min_rating`.")
    return kept


def _no_id(ids: pl.Series, missing: pl.Series, table: _Table) -> DataError:
    entry = ids.filter(missing)[:1]
    text = f"{table.source} has no {ids.name!r} in {table.place(missing)}"
    advice = "Fill it in, or pass `missing_ids='drop'` to drop such rows"
    if not missing_ids(entry).any():
        text += f", where it is {shown(entry[0])}"
        advice += f", or `missing_ids='keep'` if {shown(entry[0])} is an ID"
    return DataError(f"{text} ({missing.sum()} in total). {advice}.")


def _is_needed(role: str, name: str, table: _Table, split: SplitStrategy) -> bool:
    """Return whether an unreadable column is an error; one that was only recognized by its name can be ignored."""
    recognized = role in ("label", "time") and getattr(table.columns, f"{role}_column") is None
    of_layout = isinstance(table.source, Path) and table_suffix(table.source) == ".inter" and name == "x_label"
    has_format = role == "time" and table.columns.time_format is not None
    return not recognized or of_layout or has_format or _NEEDS.get(split) == role


def _parse(role: str, column: pl.Series, table: _Table) -> pl.Series:
    """Convert a column to its type: checks of one role belong into its parser."""
    if column.dtype.is_nested():
        raise DataError(
            f"Column {shown(column.name)} of {table.source} has type {shortened(str(column.dtype))}, "
            f"not one {role} per row."
        )
    parsers = {
        "user": _parse_ids,
        "item": _parse_ids,
        "label": _parse_labels,
        "time": _parse_times,
        "rating": _parse_ratings,
    }
    try:
        return parsers[role](column, table)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # some types cannot be cast
        raise DataError(
            f"Column {shown(column.name)} of {table.source} has type {shortened(str(column.dtype))}, "
            f"which cannot be used as {role} ({first_line(error)})."
        ) from error


def _parse_ids(column: pl.Series, table: _Table) -> pl.Series:
    # pandas turns integers among which some are missing into floats.
    if table.columns.missing_ids == "drop" and column.dtype.is_float():
        whole = (column == column.floor()) & (column.abs() < 2**53)
        column = column.cast(pl.Int64) if whole.all() else column
    return canonical_ids(column, source=f"Column {column.name!r} of {table.source}")


def _parse_labels(column: pl.Series, table: _Table) -> pl.Series:
    labels = column.cast(pl.String).replace_strict(_LABELS, default=None, return_dtype=pl.Int8)
    return _complete(labels, column, table, "A split label is one of 0, 1, 2 or train, valid, test.")


def _parse_ratings(column: pl.Series, table: _Table) -> pl.Series:
    """Convert ratings to float64; a missing one is below all others."""
    text = as_text(column)
    numbers = (text.str.strip_chars() if text.dtype == pl.String else text).cast(pl.Float64, strict=False)
    numbers = numbers.set(missing_ids(text, words=True), float("-inf"))
    return _complete(numbers, column, table, "A rating is a number with a decimal point.")


def _parse_times(column: pl.Series, table: _Table) -> pl.Series:
    format = table.columns.time_format
    times = read_times(column, format, f"Column {column.name!r} of {table.source}")
    advice = "Times are numbers, or dates of one form such as 2024-05-31 18:00:00. For others, pass `time_format`."
    return _complete(times, column, table, advice if format is None else f"It does not fit `time_format`, {format!r}.")


def _complete(parsed: pl.Series, column: pl.Series, table: _Table, advice: str) -> pl.Series:
    """Return ``parsed`` if every entry of ``column`` could be parsed."""
    if (wrong := parsed.is_null()).any():
        first = column.filter(wrong)[:1]
        entry, advice = ("nothing", "Fill it in.") if missing_ids(first)[0] else (shown(first[0]), advice)
        raise DataError(f"{table.source} has {entry} in column {column.name!r}, {table.place(wrong)}. {advice}")
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
