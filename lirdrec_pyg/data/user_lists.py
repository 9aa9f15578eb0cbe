"""Interactions with one list of items per user: the JSON of LATTICE and MMSSL, and the text of NGCF and LightGCN."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg.data.column_names import find_column
from lirdrec_pyg.data.ids import missing_ids
from lirdrec_pyg.data.tables import decompressed, table_suffix
from lirdrec_pyg.data.text_tables import content_of, head_of
from lirdrec_pyg.errors import DataError, first_line

_TEXT = (".txt", ".dat", ".data")
_ENTRY = r"[^\s,;]+"


def holds_user_lists(path: Path) -> bool:
    """Return whether a file has one list of items per user, such as ``{"0": [3, 8]}`` or a line ``0 3 8``."""
    suffix = table_suffix(path)
    if suffix not in (".json", *_TEXT):
        return False
    source = decompressed(path)
    if suffix == ".json":
        return _is_json_of_lists(content_of(source))
    # The first lines are enough to recognize most tables.
    return _are_lists(_lines(head_of(source))[:1000]) and _are_lists(_lines(content_of(source)))


def _is_json_of_lists(content: bytes) -> bool:
    """Return whether the first line is an object of flat lists, or the beginning of an indented object."""
    line = content.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip()
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line == b"{"
    return isinstance(value, dict) and all(
        isinstance(items, list) and not any(isinstance(item, (list, dict)) for item in items)
        for items in value.values()
    )


def _lines(content: bytes) -> pl.Series:
    """Return the entries of each line that has some."""
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    entries = pl.Series("entries", lines, dtype=pl.String).str.extract_all(_ENTRY)
    return entries.filter(entries.list.len() > 0)


def _are_lists(entries: pl.Series) -> bool:
    """Return whether each line has another user, and the table would have neither a header nor a width."""
    sizes, users = entries.list.len(), entries.list.first()
    if not len(entries) or sizes.max() == 1 or users.n_unique() < len(users) or find_column("user", entries[0]):
        return False
    return sizes.n_unique() > 1 or bool(entries.explode().str.contains(r"^\d+$").all())


def read_user_lists(path: Path) -> pl.DataFrame:
    """Read the interactions, the texts ``user`` and ``item``, of a file with one list of items per user.

    Raises:
        DataError: if it holds something else.
    """
    if table_suffix(path) != ".json":
        entries = _lines(content_of(decompressed(path)))
        frame = pl.DataFrame({"user": entries.list.first(), "item": entries.list.slice(1)})
        return frame.filter(pl.col("item").list.len() > 0).explode("item")
    try:
        text = content_of(decompressed(path)).decode("utf-8-sig")
        content = json.loads(text, object_pairs_hook=_without_repetition)
        if not isinstance(content, dict) or not all(
            isinstance(items, list) and all(type(item) in (int, str) for item in items) for items in content.values()
        ):
            raise ValueError("it holds something else")
        pairs = [(user, str(item)) for user, items in content.items() for item in items]
        frame = pl.DataFrame(pairs, {"user": pl.String, "item": pl.String}, orient="row")
        if any(missing_ids(frame[role]).any() for role in ("user", "item")):
            raise ValueError("an ID is empty")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f'{path} is not JSON with the items of each user, such as {{"0": [3, 8]}} ({first_line(error)}).'
        ) from error
    return frame


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a user twice")
    return found
