"""Tables: reading CSV, TSV, JSON Lines and Parquet, and the usual names of their columns."""

import codecs
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import polars as pl

from lirdrec_pyg.errors import DataError, first_line, shown

# Lowercase names of columns that are recognized, most common first.
USUAL_NAMES = {
    "user": ("user_id", "userid", "user", "uid", "reviewerid"),
    "item": ("item_id", "itemid", "item", "iid", "parent_asin", "asin"),
    "label": ("x_label", "split"),
    "time": ("timestamp", "time", "date", "datetime", "unixreviewtime"),
}
# RecBole's atomic files append the type to the name.
_TYPE = re.compile(":(token|float)$")

# Bounds on compressed files: bytes that a small one may decompress to, and how many times its size a large one.
_DECOMPRESSED_BYTES, _DECOMPRESSED_RATIO = 2**30, 100

# A frame takes about ten times the memory of its text, so the bounds on text are lower than those on matrices.
_TEXT_BYTES, _TEXT_RATIO = 2**27, 30
_MAX_COLUMNS, _MAX_HEADER = 10_000, 2**20
_MAX_SHOWN = 200
_GZIP = b"\x1f\x8b"
# Polars would decompress these too, without a bound: zstd and zlib.
_OTHER_COMPRESSIONS = (b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_file(path: Path) -> bool:
    """Return whether the file exists; unlike ``Path.is_file``, also for a name that is too long."""
    return os.path.isfile(path)


def check_decompressed(
    path: Path, size: int, advice: str, bound: int = _DECOMPRESSED_BYTES, ratio: int = _DECOMPRESSED_RATIO
) -> None:
    """Raise :class:`DataError` if a file decompresses to ``size`` bytes, which is more than real data do.

    Allowed are ``bound`` bytes, and ``ratio`` times the size of the file.
    """
    compressed = path.stat().st_size
    if size > max(bound, ratio * compressed):
        raise DataError(f"{path} has {compressed} bytes, but decompresses to {size} or more. {advice}.")


def read_parquet(path: Path) -> pl.DataFrame:
    """Read one Parquet file, and raise :class:`DataError` if it is missing or damaged."""
    try:
        frame = pl.scan_parquet(path, glob=False)
        width, height = len(frame.collect_schema()), int(frame.select(pl.len()).collect().item())
        # A column of one value takes no space, however many rows it claims.
        check_decompressed(path, 8 * width * height, "Leave out columns of one value, or write it uncompressed")
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({first_line(error)}).") from error


def table_suffix(path: Path) -> str:
    """Return the lowercase suffix of ``path`` without ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_table(path: Path, separator: str | None = None) -> pl.DataFrame:
    """Read a table without interpreting it: CSV, TSV, JSON Lines (each may be gzipped) or Parquet.

    Args:
        path: the file. ``.parquet``, and ``.jsonl`` or ``.json`` (one object per line) are read by their suffix, all
            others as text.
        separator: of a text table; by default a comma in ``.csv``, else a tab.

    Returns:
        A frame in which every column of a text table is text, and an empty entry is null.

    Raises:
        DataError: if it is missing, damaged, or decompresses to more than a table would.
    """
    if not is_file(path):
        raise DataError(f"{path} does not exist.")
    if path.suffix.lower() == ".parquet":
        return read_parquet(path)
    suffix = table_suffix(path)
    if separator is None:
        separator = "," if suffix == ".csv" else "\t"
    elif separator == "\\t":
        separator = "\t"  # as a shell passes '\t'
    if len(separator.encode()) != 1:
        raise DataError(f"`separator` is {separator!r}. It must be one ASCII character.")
    try:
        source, head = _decompressed(path)
        if suffix in (".jsonl", ".json"):
            return _read_json_lines(path, source, head)
        _check_header(path, head, separator)
        frame = _read_text(source, separator)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, zlib.error) as error:
        if "more fields" in str(error) and (line := _too_long_line(source, separator)):
            raise DataError(
                f"Line {line} of {path} has more entries than the header. Quote a text that contains {separator!r}."
            ) from error
        raise DataError(
            f"{path} is not a readable table ({first_line(error)}). {_advice(str(error))}".strip()
        ) from error
    return _without_blank_end(frame)


def _advice(error: str) -> str:
    """Return what to do about an error of polars."""
    if "utf-8" in error:
        return "Save it as UTF-8."
    if '"' in error:
        return "Quote a text that contains quotes, and double them."
    return ""


def _too_long_line(source: Path | bytes, separator: str) -> int | None:
    """Return the first line with more entries than the header, if it can be determined."""
    text = _content(source).decode(errors="replace")
    with suppress(csv.Error, StopIteration):
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        width = len(next(rows))
        return next(rows.line_num for row in rows if len(row) > width)
    return None


def _read_text(source: Path | bytes, separator: str) -> pl.DataFrame:
    # Everything is read as text: inferring types would turn the ID "007" into 7.
    read = partial(pl.read_csv, source, separator=separator, infer_schema=False, encoding="utf8", glob=False)
    try:
        return read()
    except pl.exceptions.ComputeError:
        if separator != "\t":
            raise
        # Many programs write tab-separated text without quoting, so a quote may be anywhere.
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
                    f'Line {number} of {path} is not a JSON object, such as {{"id": 7, "title": "Chair"}}: '
                    f"{shown(line[:_MAX_SHOWN].decode(errors='replace'))}."
                ) from None
        raise


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _decompressed(path: Path) -> tuple[Path | bytes, bytes]:
    """Return a text table, or its content if it is compressed, and its first bytes."""
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER)
        file.seek(0)
        if head.startswith(_OTHER_COMPRESSIONS):
            raise DataError(f"{path} is compressed, but not by gzip. Decompress it first.")
        if head.startswith(_UTF16):
            raise DataError(f"{path} is UTF-16 text. Save it as UTF-8.")
        if not head.startswith(_GZIP):
            return path, head
        limit = max(_TEXT_BYTES, _TEXT_RATIO * path.stat().st_size)
        with gzip.GzipFile(fileobj=file) as decompressed:
            content = decompressed.read(limit + 1)
        check_decompressed(path, len(content), "Decompress it first", _TEXT_BYTES, _TEXT_RATIO)
        return content, content[:_MAX_HEADER]


def _check_header(path: Path, head: bytes, separator: str) -> None:
    """Raise :class:`DataError` if the first line of a text table is not a header."""
    header, end, _ = head.partition(b"\n")
    # Each column takes time and memory, and one wrong line end turns every entry into a column.
    if header.count(separator.encode()) >= _MAX_COLUMNS or (not end and len(head) == _MAX_HEADER):
        raise DataError(
            f"The first line of {path} has at least {header.count(separator.encode()) + 1} columns and {len(header)} "
            "bytes, so it is not a header. Check the line ends and `separator`."
        )


def _without_blank_end(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop the empty rows at the end; others are kept, so that rows can be named by their lines."""
    filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series().arg_true()
    return frame.head(filled[-1] + 1 if len(filled) else 0)


def find_column(role: str, columns: Iterable[str]) -> str | None:
    """Return the column with the most common of the usual names for ``role``, ignoring case."""
    found = {_TYPE.sub("", name.strip().lower()): name for name in reversed([*columns])}
    return next((found[name] for name in USUAL_NAMES[role] if name in found), None)
