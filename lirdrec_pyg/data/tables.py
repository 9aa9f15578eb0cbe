"""Tables: reading CSV, TSV, JSON Lines and Parquet."""

import codecs
import gzip
import json
import os
import zlib
from contextlib import suppress
from pathlib import Path

import polars as pl

from lirdrec_pyg.data.column_names import check_names
from lirdrec_pyg.data.foreign_formats import JSON_LINES_ADVICE, check_is_text
from lirdrec_pyg.data.text_tables import TextTable, content_of, head_of
from lirdrec_pyg.errors import DataError, first_line, shown

_JSON = (".jsonl", ".json")

# Bounds on compressed files: bytes that a small one may decompress to, and how many times its size a large one.
_DECOMPRESSED_BYTES, _DECOMPRESSED_RATIO = 2**30, 100

# A frame takes about ten times the memory of its text, so the bounds on text are lower than those on matrices.
_TEXT_BYTES, _TEXT_RATIO = 2**27, 30
_MAX_SHOWN = 200
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 1000


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
    except pl.exceptions.DuplicateError as error:
        raise DataError(f"{path} has two columns of one name ({first_line(error)}). Rename one.") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({first_line(error)}).") from error


def table_suffix(path: Path) -> str:
    """Return the lowercase suffix of ``path`` without ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_table(path: Path, separator: str | None = None, header: bool = True) -> pl.DataFrame:
    """Read a table without interpreting it: CSV, TSV, JSON Lines (each may be gzipped) or Parquet.

    Args:
        path: the file. ``.parquet``, and ``.jsonl`` or ``.json`` (one object per line) are read by their suffix, all
            others as text.
        separator: of a text table, of one or more characters; by default a comma in ``.csv``, else a tab, or another
            usual one if the header does not have it.
        header: whether a text table begins with the names of its columns; otherwise these are "1", "2" and so on.

    Returns:
        A frame in which every column of a text table is text, and an empty entry is null.

    Raises:
        DataError: if it is missing, damaged, of another format, decompresses to more than a table would, or has two
            columns of one name.
    """
    if not is_file(path):
        raise DataError(f"{path} does not exist.")
    if path.suffix.lower() == ".parquet":
        return read_parquet(path)
    try:
        if table_suffix(path) in _JSON:
            return _read_json_lines(path)
        return _text_table(path, separator, header).read()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        advice = " Save it as UTF-8." if "utf-8" in str(error) else ""
        raise DataError(f"{path} is not a readable table ({first_line(error)}).{advice}") from error


def line_of(path: Path, row: int, separator: str | None = None, header: bool = True) -> int | None:
    """Return the line in which a row of :func:`read_table` begins; ``None`` if the format has no lines.

    Rows count from 0, lines from 1. The other arguments are those that the file was read with.
    """
    if path.suffix.lower() == ".parquet":
        return None
    if table_suffix(path) in _JSON:
        lines = content_of(decompressed(path)).split(b"\n")
        return [number for number, line in enumerate(lines, 1) if line.strip()][row]
    return _text_table(path, separator, header).line(row)


def _text_table(path: Path, separator: str | None, header: bool) -> TextTable:
    if separator == "\\t":
        separator = "\t"  # as a shell passes '\t'
    if separator is not None and (not separator or set(separator) & set('"\r\n')):
        raise DataError(f"`separator` is {separator!r}. It must be one or more characters other than quotes.")
    default = "," if table_suffix(path) == ".csv" else "\t"
    return TextTable.open(path, decompressed(path), separator, default, header)


def _read_json_lines(path: Path) -> pl.DataFrame:
    source = decompressed(path)
    if head_of(source).startswith(codecs.BOM_UTF8):
        source = content_of(source).removeprefix(codecs.BOM_UTF8)
    try:
        frame = pl.read_ndjson(source, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        for number, line in enumerate(content_of(source).splitlines(), 1):
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
    names = []
    with suppress(ValueError, RecursionError):
        names = [name for name, _ in json.loads(head_of(source).split(b"\n", 1)[0], object_pairs_hook=list)]
    check_names(names, path)
    if len(frame) == 1 and all(dtype.is_nested() for dtype in frame.dtypes):
        raise DataError(f"{path} holds one JSON object. {JSON_LINES_ADVICE}.")
    return frame


def decompressed(path: Path) -> Path | bytes:
    """Return a file of text, or its content if it is gzipped.

    Raises:
        DataError: if it is damaged, decompresses to more than a table would, or holds no text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            source: Path | bytes = path
            if head.startswith(_GZIP):
                file.seek(0)
                limit = max(_TEXT_BYTES, _TEXT_RATIO * path.stat().st_size)
                with gzip.GzipFile(fileobj=file) as content:
                    source = content.read(limit + 1)
                check_decompressed(path, len(source), "Decompress it first", _TEXT_BYTES, _TEXT_RATIO)
                head = source[:_HEAD_BYTES]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a readable file ({first_line(error)}).") from error
    check_is_text(path, head, is_json=table_suffix(path) in _JSON)
    return source
