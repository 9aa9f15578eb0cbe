"""Texts in the cells of a table: lists of them, and words for a missing one."""

import json
import re
import warnings
from ast import literal_eval
from contextlib import suppress

import polars as pl

from lirdrec_pyg.data.ids import MISSING, missing_ids
from lirdrec_pyg.errors import DataError, shortened, shown

_TEXTS = (pl.String, pl.Categorical, pl.Enum, pl.Null)
# A list in one cell, and its parts as JSON, Python, or NumPy without commas, writes them.
_LIST = r"(?s)^\s*\[.*\]\s*$"
_PART = re.compile(r"""[\[\],\s]+|(?:None|null|nan|NaN)\b|('[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")""", re.S)
_WORD = re.compile(MISSING)
_present = pl.element().filter(~pl.element().str.contains(MISSING))


def cell_texts(column: pl.Series, source: str) -> pl.Series:
    """Return the text of each cell; null if it is blank, or a word for a missing text such as ``nan`` or ``NULL``.

    A list of texts is one text of several lines, also if it is written as text, such as ``["red", "blue"]``.

    Args:
        column: texts, numbers or lists of texts.
        source: origin of the column, for messages.

    Raises:
        DataError: if the cells are something else.
    """
    lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    while isinstance(lists.dtype, pl.List) and isinstance(lists.dtype.inner, (pl.List, pl.Array)):
        lists = lists.list.eval(pl.element().explode())
    if isinstance(lists.dtype, pl.List) and lists.dtype.inner in _TEXTS:
        texts = lists.cast(pl.List(pl.String)).list.eval(_present).list.join("\n")
    elif lists.dtype.is_nested() or lists.dtype in (pl.Binary, pl.Object):
        raise DataError(f"The type of {source} is {shortened(str(column.dtype))}, not text. Pass another column.")
    else:
        texts = (column.fill_nan(None) if column.dtype.is_float() else column).cast(pl.String)
        if len(rows := texts.str.contains(_LIST).arg_true()):
            texts = texts.clone().scatter(rows, pl.Series([*map(_lines, texts[rows])]))
    missing = missing_ids(texts, words=True)
    if len(words := texts.filter(missing & ~missing_ids(texts))):
        warnings.warn(
            f"{len(words):,} of {len(texts):,} cells in {source} hold a word for a missing text, such as "
            f"{shown(words[0])}, and count as empty.",
            stacklevel=2,
        )
    return texts.set(missing, None)


def _lines(text: str) -> str:
    """Return the texts of a list that is written as ``text``, one per line; anything else unchanged."""
    parts, end = [], 0
    while part := _PART.match(text, end):
        end = part.end()
        if part[1]:
            parts.append(_unquoted(part[1]) if "\\" in part[1] else part[1][1:-1])
    return "\n".join(part for part in parts if not _WORD.match(part)) if end == len(text) else text


def _unquoted(text: str) -> str:
    for read in (json.loads, literal_eval):
        with suppress(ValueError, SyntaxError):
            return str(read(text)).encode(errors="replace").decode()
    return text[1:-1]
