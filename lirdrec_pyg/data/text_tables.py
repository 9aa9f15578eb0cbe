"""The text of tables: what stands above the header, separators, quotes, and lines that are too long."""

import codecs
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec_pyg.data.column_names import check_names, usual_columns
from lirdrec_pyg.errors import DataError

_MAX_COLUMNS, _MAX_HEADER = 10_000, 2**20
# Tried if the header does not have the default separator.
_SEPARATORS = ("::", ",", "\t", ";", "|")
_SAMPLE = 50
# Bytes that can replace a separator of several bytes.
_STAND_INS = (b"\x1f", b"\x1e", b"\x1d", b"\x1c")
# Spreadsheets may name the separator above the header.
_DECLARATION = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_COMMENT_MARKS = ("#", "%")
_NUMBER = re.compile(r"\s*-?\d+([.,]\d+)?\s*")
_ENCLOSED = re.compile('"[^"]*"')
# All but one between columns.
_SPACES = re.compile(rb"(?m)^ +| +(?= |\r?$)")
_LF, _CR, _QUOTE = b'\n\r"'
_BLOCK = 2**22


@dataclass(frozen=True)
class TextTable:
    """A text table that is not parsed yet.

    Attributes:
        path: its file, for messages.
        source: the file, or its content from the header on.
        separator: byte between entries.
        header: whether the first line holds the names of the columns.
        skipped: number of lines above the header.
        quoted: whether quotes enclose entries; otherwise they are text.
        warning: about what may have been meant otherwise, or ``None``.
    """

    path: Path
    source: Path | bytes
    separator: bytes
    header: bool
    skipped: int
    quoted: bool
    warning: str | None = None

    @classmethod
    def open(cls, path: Path, source: Path | bytes, separator: str | None, default: str, header: bool) -> "TextTable":
        """Find the header and the separator, and whether quotes enclose entries.

        A ``separator`` of ``None`` is detected: it is the ``default`` one if the header has it.

        Raises:
            DataError: if the first line is not a header, or two columns have one name.
        """
        head = head_of(source)
        if b"\r" in head and b"\n" not in head:  # the line ends of old systems
            source = content_of(source).replace(b"\r", b"\n")
            head = head_of(source)
        skipped, found = _find_table(head, separator, default, header)
        start = sum(len(line) + 1 for line in head.split(b"\n")[:skipped])
        _check_header(path, head[start:], found)
        if skipped:
            source = content_of(source)[start:]
        if separator is None and found == " ":
            source = _SPACES.sub(b"", content_of(source))
        byte = found.encode()
        if has_stand_in := len(byte) > 1:
            content = content_of(source)
            stand_in = next((own for own in _STAND_INS if own not in content), _STAND_INS[0])
            source, byte = content.replace(byte, stand_in), stand_in
        table = cls(path, source, byte, header, skipped, quoted=not has_stand_in)
        if table.quoted:
            table = table._with_regular_quotes()
        names = table._parse(table.source, has_header=False, n_rows=1, truncate_ragged_lines=True).row(0)
        if header:
            check_names((name or "" for name in names), path)
        return table

    def read(self) -> pl.DataFrame:
        """Parse the table.

        Returns:
            A frame of texts. Empty rows are dropped at the end only, so that rows can be named by their lines.
        """
        if self.warning is not None:
            warnings.warn(self.warning, stacklevel=2)
        try:
            frame = self._parse(self.source, has_header=self.header)
        except pl.exceptions.ComputeError as error:
            if "more fields" not in str(error):
                raise
            frame = self._read_long_lines()
        if not self.header:
            frame = frame.rename({name: str(n) for n, name in enumerate(frame.columns, 1)})
        filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series().arg_true()
        return frame.head(filled[-1] + 1 if len(filled) else 0)

    def line(self, row: int) -> int:
        """Return the number of the line in which a row begins."""
        return self._line_at(self._start(row))

    def _line_at(self, position: int) -> int:
        return self.skipped + 1 + int(np.count_nonzero(_bytes(self.source)[:position] == _LF))

    def _start(self, row: int) -> int:
        """Return the position at which a row begins."""
        before = row + self.header
        return int(self._ends()[before - 1]) + 1 if before else 0

    def _ends(self) -> np.ndarray:
        """Return the positions of the line feeds that end rows."""
        text = _bytes(self.source)
        ends = np.flatnonzero(text == _LF)
        return ends[np.searchsorted(np.flatnonzero(text == _QUOTE), ends) % 2 == 0] if self.quoted else ends

    def _parse(self, source: Path | bytes, **options: Any) -> pl.DataFrame:
        # Everything is read as text: inferring types would turn the ID "007" into 7.
        return pl.read_csv(
            source,
            separator=self.separator.decode(),
            quote_char='"' if self.quoted else None,
            infer_schema=False,
            encoding="utf8",
            glob=False,
            **options,
        )

    def _with_regular_quotes(self) -> "TextTable":
        """Return the table with all quotes that are text within enclosed entries, and with ``warning``."""
        text, separator = _bytes(self.source), self.separator[0]
        irregular, broken, carriage = _find_faults(text, separator)
        # Two lone quotes look like an entry of several lines, but then each line has the entries of a row.
        is_even = (irregular or broken) and _is_even(text, separator)
        source, lone = self.source, None
        if irregular or is_even:
            source, lone = _regular_quotes(text.tobytes(), self.separator, several_lines=not is_even)
            _, _, carriage = _find_faults(_bytes(source), separator)
        warning = None
        if lone is not None:
            warning = (
                f'Line {self._line_at(lone)} of {self.path} has a quote (") that is not closed. It is read as text.'
            )
        elif carriage is not None:
            line = replace(self, source=source)._line_at(carriage)
            warning = (
                f"Line {line} of {self.path} has a carriage return that is read as text. If it ends a line, replace it "
                "by a line feed."
            )
        return replace(self, source=source, warning=warning)

    def _read_long_lines(self) -> pl.DataFrame:
        """Read lines of more entries than the header, and raise :class:`DataError` if these are not empty."""
        text = _bytes(self.source)
        names = self._parse(self.source, has_header=self.header, n_rows=1, truncate_ragged_lines=True).columns
        width, widest = len(names), int(_entries(text, self.separator[0], self._ends()).max())
        if widest > _MAX_COLUMNS:
            raise DataError(f"{self.path} has a line of {widest} entries, but its first one has {width}.")
        header = self.separator.join(b"%d" % n for n in range(widest))
        frame = self._parse(header + b"\n" + text[self._start(0) :].tobytes(), has_header=True)
        beyond = (pl.nth(*range(width, widest)) != "").fill_null(False)
        is_long = frame.select(pl.any_horizontal(beyond)).to_series()
        if not is_long.any():  # a separator at the ends of lines
            return frame.select(pl.nth(*range(width))).rename(dict(zip(frame.columns, names)))
        row = int(is_long.arg_max() or 0)
        entries = max(n for n, entry in enumerate(frame.row(row), 1) if entry)
        first = "header" if self.header else "first line"
        problem = f"Line {self.line(row)} of {self.path} has {entries} entries, but the {first} has {width}"
        separator = self.separator.decode()
        if width == 1:
            raise DataError(f"{problem}. Remove the lines above the header.")
        if is_long.all() and len(frame) > 1:
            raise DataError(
                f"{problem}, as all lines do. Add a name for each column, or quote texts with {separator!r}."
            )
        quotes = ", and double the quotes in it" if any('"' in entry for entry in frame.row(row) if entry) else ""
        raise DataError(f"{problem}. Quote a text that contains {separator!r}{quotes}.")


def content_of(source: Path | bytes) -> bytes:
    """Return the content of a file, or ``source`` if it is one."""
    return source if isinstance(source, bytes) else source.read_bytes()


def head_of(source: Path | bytes) -> bytes:
    """Return the first bytes of a file or of a content."""
    if isinstance(source, bytes):
        return source[:_MAX_HEADER]
    with source.open("rb") as file:
        return file.read(_MAX_HEADER)


def _bytes(source: Path | bytes) -> np.ndarray:
    """Return the bytes without a byte order mark; those of a file are mapped."""
    if isinstance(source, Path):
        text: np.ndarray = np.memmap(source, np.uint8, "r") if source.stat().st_size else np.empty(0, np.uint8)
    else:
        text = np.frombuffer(source, np.uint8)
    return text[3:] if text[:3].tobytes() == codecs.BOM_UTF8 else text


def _find_table(head: bytes, separator: str | None, default: str, header: bool) -> tuple[int, str]:
    """Return the number of lines above a table, and its separator."""
    lines = [line.rstrip("\r") for line in head.removeprefix(codecs.BOM_UTF8).decode("latin-1").split("\n")]
    declared = _DECLARATION.fullmatch(lines[0])
    first = int(declared is not None)
    texts = [n for n, line in enumerate(lines) if n >= first and line.strip()]
    unmarked = next((n for n in texts if not lines[n].startswith(_COMMENT_MARKS)), len(lines) - 1)
    sample = [line for line in lines[unmarked : unmarked + _SAMPLE] if line]
    if separator == ":" and all("::" in line for line in sample):
        separator = "::"
    if separator is None:
        separator = declared[1] if declared else _detect_separator(sample, default, header)

    def is_row(n: int) -> bool:
        """Return whether a line that begins as a comment is the header or a row."""
        entries, following = lines[n].split(separator), lines[unmarked].split(separator)
        separators = [_ENCLOSED.sub("", lines[m]).count(separator) for m in (n, unmarked)]
        is_as_long = separators[0] == separators[1] > 0
        if not header:
            return is_as_long and not lines[n][1:2].isspace()
        is_last = n == max(m for m in texts if m < unmarked)
        could_name = _are_names(entries) or (is_as_long and not any(map(_NUMBER.fullmatch, entries)))
        return is_last and could_name and not _are_names(following)

    return next((n for n in texts if n < unmarked and is_row(n)), unmarked), separator


def _are_names(entries: list[str]) -> bool:
    """Return whether one of ``entries`` is a usual name of a column."""
    return any(usual_columns(role, (entry.strip('"') for entry in entries)) for role in ("user", "item"))


def _detect_separator(lines: list[str], default: str, header: bool) -> str:
    """Return the separator of the first lines of a table."""
    texts = [_ENCLOSED.sub("", line) for line in lines] or [""]
    counts = {own: [text.count(own) for text in texts] for own in (default, *_SEPARATORS)}
    counts[" "] = [len(text.split()) - 1 for text in texts]  # columns may be aligned
    even = [own for own, count in counts.items() if len(set(count)) == 1]
    found = [own for own, count in counts.items() if count[0] and own != " "]
    if not found:  # spaces may also be those of texts
        return " " if " " in even and counts[" "][0] else default
    if header:
        named = [own for own in found if _are_names(lines[0].split(own))]
        if named or default in found:
            return [*named, default][0]
    return max([own for own in found if own in even] or found, key=lambda own: counts[own][0])


def _check_header(path: Path, head: bytes, separator: str) -> None:
    """Raise :class:`DataError` if the first line of a text table is not a header."""
    header, end, _ = head.partition(b"\n")
    columns = header.count(separator.encode()) + 1
    # Each column takes time and memory, and one wrong line end turns every entry into a column.
    if columns > _MAX_COLUMNS or (not end and len(head) == _MAX_HEADER):
        raise DataError(
            f"The first line of {path} has at least {columns} columns and {len(header)} bytes, so it is not a header. "
            "Check the line ends and `separator`."
        )


def _find_faults(text: np.ndarray, separator: int) -> tuple[bool, bool, int | None]:
    """Examine quotes and line ends.

    Returns:
        Whether a quote neither opens nor closes an entry, whether an entry has a line feed, and the position of the
        first carriage return that is neither within an entry nor before a line feed.
    """
    borders = np.zeros(256, dtype=bool)
    borders[[separator, _LF, _CR, _QUOTE]] = True
    within, broken, carriage = 0, False, None
    for start in range(0, len(text), _BLOCK):
        end = start + _BLOCK
        # With the bytes before and after.
        block = text[max(start - 1, 0) : end + 1]
        block = np.pad(block, (int(start == 0), int(end >= len(text))), constant_values=separator)
        inner = block[1:-1]
        quotes = np.flatnonzero(inner == _QUOTE)
        opening, closing = quotes[within::2], quotes[1 - within :: 2]
        if not (borders[block[opening]].all() and borders[block[closing + 2]].all()):
            return True, False, None
        if not broken and (len(quotes) or within):
            feeds = np.flatnonzero(inner == _LF)
            broken = bool(((np.searchsorted(quotes, feeds) + within) % 2 == 1).any())
        if carriage is None:
            returns = np.flatnonzero(inner == _CR)
            returns = returns[block[returns + 2] != _LF]
            returns = returns[(np.searchsorted(quotes, returns) + within) % 2 == 0]
            carriage = start + int(returns[0]) if len(returns) else None
        within = (within + len(quotes)) % 2
    return within == 1, broken, carriage


def _regular_quotes(content: bytes, separator: bytes, several_lines: bool) -> tuple[bytes, int | None]:
    """Enclose the entries in which quotes are text; an entry between quotes may have ``several_lines``.

    Returns:
        The text, and the position of the first entry that begins with a quote but does not end with one.
    """
    border = re.escape(separator) + rb"\r\n"
    inner = rb'[^"]*' if several_lines else rb'[^"\n]*'
    enclosed = rb'"' + inner + rb'(?:""' + inner + rb')*"(?=[' + border + rb"]|\Z)"
    entry = rb"(?<![^" + border + rb"])(?:(" + enclosed + rb")|[^" + border + rb']*"[^' + border + rb"]*)"
    lone: list[int] = []

    def enclose(found: re.Match[bytes]) -> bytes:
        if found[1] is not None:
            return found[0]
        if found[0].startswith(b'"'):
            lone.append(found.start())
        return b'"' + found[0].replace(b'"', b'""') + b'"'

    return re.sub(entry, enclose, content), next(iter(lone), None)


def _entries(text: np.ndarray, separator: int, ends: np.ndarray) -> np.ndarray:
    """Return the number of entries up to each of ``ends``, and after the last one, if quotes are text."""
    separators = np.flatnonzero(text == separator)
    return np.diff(np.searchsorted(separators, ends), prepend=0, append=len(separators)) + 1


def _is_even(text: np.ndarray, separator: int) -> bool:
    """Return whether all lines have the same number of entries, two or more, if quotes are text."""
    entries = _entries(text, separator, np.flatnonzero(text == _LF))
    entries = entries[:-1] if text[-1] == _LF else entries
    return bool(entries[0] > 1 and (entries == entries[0]).all())
