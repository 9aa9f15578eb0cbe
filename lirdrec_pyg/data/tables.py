"""What all readers of tables share: names of columns, reading the file, and checking columns of IDs."""

import codecs
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import polars as pl

from lirdrec_pyg.errors import DataError

# Names, in small letters, under which the columns are looked for when the user gives none, most common first.
USUAL_NAMES = {
    "user": ("user_id", "userid", "user", "uid", "reviewerid"),
    "item": ("item_id", "itemid", "item", "iid", "parent_asin", "asin"),
    "label": ("x_label", "split"),
    "time": ("timestamp", "time", "date", "datetime", "unixreviewtime"),
}
# RecBole's atomic files have the type after the name.
_TYPE = re.compile(":(token|float)$")

# To how much a small packed file may unpack, and how many times its size a large one.
_UNPACKED_BYTES, _UNPACKED_RATIO = 2**30, 100

# A frame takes about ten times the memory of its text, so text is unpacked with more care than matrices are.
_TEXT_BYTES, _TEXT_RATIO = 2**27, 30
_MAX_COLUMNS, _MAX_HEADER = 10_000, 2**20
_MAX_SHOWN = 200
_GZIP = b"\x1f\x8b"
# What polars would unpack as well, without a bound: zstd and zlib.
_OTHER_PACKERS = (b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

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


def table_suffix(path: Path) -> str:
    """The ending of ``path`` in small letters, without ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_table(path: Path, separator: str | None = None) -> pl.DataFrame:
    """Reads a table as it is: CSV, TSV, JSON Lines (these may be gzipped) or Parquet.

    Args:
        path: the file; ``.parquet``, ``.jsonl`` and ``.json`` (an object a line, too) are read as what they say, all
            else as text.
        separator: of a text table; by default a comma in ``.csv``, else a tab.

    Returns:
        A frame in which every column of a text table is a text, and an empty entry is missing.

    Raises:
        DataError: if it is missing, damaged, or unpacks to more than a table would.
    """
    if not is_file(path):
        raise DataError(f"There is no file {path}.")
    if path.suffix.lower() == ".parquet":
        return read_parquet(path)
    suffix = table_suffix(path)
    if separator is None:
        separator = "," if suffix == ".csv" else "\t"
    elif separator == "\\t":
        separator = "\t"  # what a shell makes of --separator '\t'
    if len(separator.encode()) != 1:
        raise DataError(f"--separator is {separator!r}: it has to be one ASCII character.")
    try:
        source, head = _unpacked(path)
        if suffix in (".jsonl", ".json"):
            return _read_json_lines(path, source, head)
        _check_header(path, head, separator)
        frame = _read_text(source, separator)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, zlib.error) as error:
        if "more fields" in str(error) and (line := _too_long_line(source, separator)):
            raise DataError(
                f"Line {line} of {path} has more entries than the first line has names of columns: put a text with "
                f"{separator!r} into quotes."
            ) from error
        raise DataError(f"{path} is not a readable table ({first_line(error)}){_advice(str(error))}.") from error
    return _without_blank_end(frame)


def _advice(error: str) -> str:
    """What to do about an error of polars, for the end of a sentence."""
    if "utf-8" in error:
        return ": save it as UTF-8"
    if '"' in error:
        return ": put a text with quotes into quotes, and double its own"
    return ""


def _too_long_line(source: Path | bytes, separator: str) -> int | None:
    """The first line with more entries than there are names of columns, if it can be told."""
    text = _content(source).decode(errors="replace")
    with suppress(csv.Error, StopIteration):
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        width = len(next(rows))
        return next(rows.line_num for row in rows if len(row) > width)
    return None


def _read_text(source: Path | bytes, separator: str) -> pl.DataFrame:
    # Everything is read as text: guessing types would turn the ID "007" into 7.
    read = partial(pl.read_csv, source, separator=separator, infer_schema=False, encoding="utf8", glob=False)
    try:
        return read()
    except pl.exceptions.ComputeError:
        if separator != "\t":
            raise
        # Many programs write tab-separated texts as they are, so that a quote may stand anywhere.
        return read(quote_char=None)


def _read_json_lines(path: Path, source: Path | bytes, head: bytes) -> pl.DataFrame:
    if head.startswith(codecs.BOM_UTF8):
        source = _content(source)[len(codecs.BOM_UTF8) :]
    try:
        return pl.read_ndjson(source, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        for number, line in enumerate(_content(source).splitlines(), 1):
            try:
                good = not line.strip() or isinstance(json.loads(line), dict)
            except (ValueError, RecursionError):
                good = False
            if not good:
                raise DataError(
                    f'Line {number} of {path} is not an object of JSON, such as {{"id": 7, "title": "Chair"}}: '
                    f"{shown(line[:_MAX_SHOWN].decode(errors='replace'))}."
                ) from None
        raise


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _unpacked(path: Path) -> tuple[Path | bytes, bytes]:
    """A text table, or what is in it if it is packed, and the beginning of it.

    Raises:
        DataError: if it unpacks to more than a table would.
    """
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER)
        file.seek(0)
        if head.startswith(_OTHER_PACKERS):
            raise DataError(f"{path} is packed in another way than by gzip: unpack it first.")
        if head.startswith(_UTF16):
            raise DataError(f"{path} is a text in UTF-16: save it as UTF-8.")
        if not head.startswith(_GZIP):
            return path, head
        limit = max(_TEXT_BYTES, _TEXT_RATIO * path.stat().st_size)
        with gzip.GzipFile(fileobj=file) as unpacked:
            content = unpacked.read(limit + 1)
        check_unpacked(path, len(content), "if it is a table, unpack it first", _TEXT_BYTES, _TEXT_RATIO)
        return content, content[:_MAX_HEADER]


def _check_header(path: Path, head: bytes, separator: str) -> None:
    """Raises :class:`DataError` if the first line of a text table is no header."""
    header, end, _ = head.partition(b"\n")
    # Each column takes time and memory, and one bad line end makes a column of every entry.
    if header.count(separator.encode()) >= _MAX_COLUMNS or (not end and len(head) == _MAX_HEADER):
        raise DataError(
            f"{path} has {header.count(separator.encode()) + 1} or more columns in its first line, of at least "
            f"{len(header)} bytes, where names of columns should be: check its line ends and --separator."
        )


def _without_blank_end(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` without the empty rows at its end; those before are left, as their lines are to be named."""
    filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series().arg_true()
    return frame.head(filled[-1] + 1 if len(filled) else 0)


def find_column(role: str, columns: Iterable[str]) -> str | None:
    """The one of ``columns`` with the first of the usual names for ``role``: their case plays no part."""
    found = {_TYPE.sub("", name.strip().lower()): name for name in reversed([*columns])}
    return next((found[name] for name in USUAL_NAMES[role] if name in found), None)


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
        raise DataError(f"{source} holds {shortened(str(ids.dtype))}: IDs have to be integers or text, so cast them.")
    if is_integer(ids).all():
        return ids.cast(pl.Int64)
    return ids


def is_integer(ids: pl.Series) -> pl.Series:
    """Which of the texts ``ids`` are integers in canonical form, such as ``7``, but not ``007`` or ``7.0``."""
    return ids.str.contains(_INTEGER)


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
