"""IDs of users and items as files hold them: their types, missing, repeated and damaged ones, and lists of IDs."""

import csv
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from lirdrec_pyg.data.column_names import find_column
from lirdrec_pyg.errors import DataError, first_line, shortened, shown

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"

# White space, with the invisible characters that Unicode does not count as such.
_SPACE = "[\\s\u200b\ufeff]"
_BLANK = rf"^{_SPACE}*$"
# Words of pandas, R, SQL, JavaScript, spreadsheets and Google Analytics for a missing value.
_WORDS = r"-?nan|nat|na|n/a|#n/a|<na>|null|\(null\)|#null!|\\n|none|\(none\)|nil|undefined|\(not set\)|''|\"\""
MISSING = rf"(?i)^{_SPACE}*({_WORDS})?{_SPACE}*$"

# Words that a spreadsheet or a table of floats makes of IDs.
_MONTH = "(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_DAMAGED = (
    "(?i)^("
    + "|".join(
        [
            r"-?[0-9]([.,][0-9]+)?e\+[0-9]+|-?[0-9][.,][0-9]+e[0-9]+",  # 4.00638E+12
            r"-?[0-9]{1,3}([.,'’\s][0-9]{3})+([.,]0+)?",  # 4,006,381 and 4.006.381
            r"-?[0-9]+[.,]0+",  # 5.0
            rf"[0-9]{{1,2}}-{_MONTH}|{_MONTH}-[0-9]{{2}}",  # 12-Mar
            r"#+|#[a-z/0]+[!?]",  # #### and #REF!
        ]
    )
    + ")$"
)
_DAMAGE = "A spreadsheet or a table of floats may have merged different ones. Export the IDs as text."

# Names of a column of IDs: product_id, movieId, items, sku.
_HEADER = re.compile(r"(?i:(.+[ _-])?ids?|(user|item|product|customer|article|sku)s?)|[a-z]+I[Dd]s?")

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
    ids = as_text(ids)
    if ids.dtype != pl.String:
        fix = "pass one per row, such as by explode()" if ids.dtype.is_nested() else "cast them"
        raise DataError(f"{source} has type {shortened(str(ids.dtype))}. IDs must be integers or text: {fix}.")
    return ids.cast(pl.Int64) if is_integer(ids).all() else ids


def as_text(ids: pl.Series) -> pl.Series:
    """Return categories as text, and others as they are."""
    return ids.cast(pl.String) if ids.dtype == pl.Categorical or isinstance(ids.dtype, pl.Enum) else ids


def same_type(lists: list[pl.Series]) -> list[pl.Series]:
    """Return ``lists`` of IDs, all as text unless they have one type."""
    return [ids.cast(pl.String) for ids in lists] if len({ids.dtype for ids in lists}) > 1 else lists


def is_integer(ids: pl.Series) -> pl.Series:
    """Return which of the texts ``ids`` are canonical integers, such as ``7``, but not ``007`` or ``7.0``."""
    return ids.str.contains(_INTEGER)


def missing_ids(ids: pl.Series, words: bool = False) -> pl.Series:
    """Return which of ``ids`` are null, NaN or blank, or optionally ``words`` for these, such as ``NULL``."""
    if ids.dtype == pl.String:
        return ids.str.contains(MISSING if words else _BLANK).fill_null(True)
    return ids.is_null() | ids.is_nan().fill_null(True) if ids.dtype.is_float() else ids.is_null()


def check_no_header(ids: pl.Series, column: str, source: str) -> None:
    """Raise :class:`DataError` if an ID is the name of its own ``column``, as where files were joined."""
    if ids.dtype == pl.String and (again := (ids == column).fill_null(False)).any():
        raise DataError(
            f"{source} repeats its header in row {again.arg_max()} (rows count from 0, without the first line), where "
            f"the ID is {shown(column)}. Delete such lines."
        )


def warn_of_missing_ids(ids: pl.Series, source: str) -> None:
    """Warn if some of ``ids`` are words for a missing one."""
    if len(words := ids.filter(missing_ids(ids, words=True))):
        warnings.warn(
            f"{source} has {len(words)} IDs such as {shown(words[0])}. Remove the rows if IDs are missing there.",
            stacklevel=3,
        )


def check_ids(ids: pl.Series, source: str) -> None:
    """Raise :class:`DataError` if an ID is missing or occurs twice."""
    if (missing := missing_ids(ids)).any():
        raise DataError(f"{source} has no ID in row {missing.arg_max()} (rows count from 0).")
    if ids.n_unique() != len(ids):
        repeated = ids.filter(ids.is_duplicated())
        advice = _DAMAGE if damaged_ids(repeated)[0] else "Keep one row of it."
        raise DataError(f"{source} holds the ID {shown(repeated[0])} more than once. {advice}")


def strip_ids(ids: pl.Series) -> pl.Series:
    """Remove white space around IDs that are text."""
    return ids.str.replace_all(f"^{_SPACE}+|{_SPACE}+$", "") if ids.dtype == pl.String else ids


def plain_ids(ids: pl.Series) -> pl.Series:
    """Return ``ids`` as text without what is easily overlooked: spaces around them, capitals, the code of accents."""
    return strip_ids(ids.cast(pl.String)).str.to_lowercase().str.normalize("NFC")


def bare_ids(ids: pl.Series) -> pl.Series:
    """Return plain ``ids`` without leading zeros and a trailing ``.0``, which tables of numbers remove and add."""
    return plain_ids(ids).str.replace(r"^(\d+)\.0+$", "$1").str.strip_chars_start("0")


def damaged_ids(ids: pl.Series) -> pl.Series:
    """Return which of ``ids`` look like numbers that a spreadsheet rewrote, such as ``4.00638E+12`` or ``5.0``."""
    return ids.cast(pl.String).str.contains(_DAMAGED)


def warn_of_damaged_ids(ids: pl.Series, kind: str) -> None:
    """Warn if some of the unique ``ids`` look as if a spreadsheet rewrote them."""
    if ids.dtype == pl.String and len(damaged := ids.filter(damaged_ids(ids))):
        warnings.warn(
            f"{len(damaged)} of the {len(ids)} {kind} IDs look rewritten, such as {shown(damaged[0])}. {_DAMAGE}",
            stacklevel=4,
        )


def warn_of_look_alikes(
    ids: pl.Series, among: pl.Series, kind: str, strip: str = "Pass `strip_ids=True` to remove these"
) -> None:
    """Warn if some of the unique ``ids`` differ from others only in spaces around them, capitals or accents."""
    if ids.dtype != pl.String:
        return
    own, others = (pl.DataFrame({"id": x, "plain": plain_ids(x)}) for x in (ids, among.cast(pl.String)))
    pairs = own.join(others, on="plain", maintain_order="left").filter(pl.col("id") != pl.col("id_right"))
    if len(pairs):
        spaced = strip_ids(pairs["id"]) == strip_ids(pairs["id_right"])
        one, _, other = map(shown, pairs.row(int(spaced.arg_max() or 0)))
        difference, advice = (
            ("spaces around them", strip)
            if spaced.any()
            else ("capitals or accents", f"Write them alike if they mean the same {kind}")
        )
        warnings.warn(
            f"{pairs['id'].n_unique()} {kind} IDs differ from others only in {difference}, such as {one} and {other}. "
            f"{advice}.",
            stacklevel=4,
        )


def read_ids(path: str | Path, name: str, column: str | None = None) -> pl.Series:
    """Read a text file with one ID per line.

    A header is left out, with a warning, and so are other columns beside it. Quotes and separators at the end of lines
    are removed.

    Args:
        path: the file.
        name: parameter that the user passed it as, for messages.
        column: name of the column of IDs, beside the usual ones.

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
    while lines and not lines[-1].strip():
        lines.pop()
    ids, header = _first_column(lines, "user" if name.startswith("user") else "item", column)
    if header is not None:
        warnings.warn(f"The first line of {path} is used as a header ({shown(header)}), not as an ID.", stacklevel=2)
    series = pl.Series("id", ids, dtype=pl.String)
    if (missing := missing_ids(series)).any():
        raise DataError(f"{path} has no ID in line {int(missing.arg_max() or 0) + (1 if header is None else 2)}.")
    return canonical_ids(series, source=str(path))


def _first_column(lines: list[str], role: str, column: str | None) -> tuple[list[str], str | None]:
    """Return the IDs in the lines of a list, and the name of their column if the first line is a header."""
    delimiter = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
    try:
        rows = [*csv.reader(lines, delimiter=delimiter)]
    except csv.Error:
        return lines, None
    head = rows[0] if rows else []
    name = column if column in head else find_column(role, head)
    name = name or next((x for x in head if _HEADER.fullmatch(x.strip())), None)
    place = 0 if name is None else head.index(name)
    # IDs without a header may contain the separator and quotes.
    if len(rows) < len(lines) or (name is None and any(any(row[1:]) for row in rows)):
        return lines, None
    ids = [row[place] if place < len(row) else "" for row in rows]
    return (ids, None) if name is None else (ids[1:], name)


def read_unique_ids(path: str | Path, name: str) -> pl.Series:
    """Read a list of IDs as :func:`read_ids` does, and raise :class:`DataError` if one occurs twice."""
    ids = read_ids(path, name)
    check_ids(ids, source=str(path))
    return ids
