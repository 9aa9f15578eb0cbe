"""A catalogue: a table with the ID, the texts and the files of each item, checked before a model is loaded."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.data.tables import (
    USUAL_NAMES,
    canonical_ids,
    check_ids,
    find_column,
    listed,
    missing_ids,
    read_table,
    shortened,
    shown,
    table_suffix,
)
from lirdrec_pyg.errors import ConfigError, DataError

CATALOGUE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")

_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_HASHED_ROWS = 2**16


@dataclass(frozen=True)
class Entries:
    """What the items have of one modality.

    Attributes:
        frame: columns ``item_id``, and ``entry``: a text, or the path of a file.
        missing: IDs of the items that have no entry.
        facts: where the entries came from, and their checksum, for the provenance.
        are_files: whether they are paths.
    """

    frame: pl.DataFrame
    missing: pl.Series
    facts: dict[str, Any]
    are_files: bool = False

    def __len__(self) -> int:
        return len(self.frame)

    def checksum(self, entry: str) -> str | None:
        """SHA-256 of a text, or of the file at a path; ``None`` if that can't be read."""
        if not self.are_files:
            return hashlib.sha256(entry.encode()).hexdigest()
        try:
            return checksum(Path(entry))
        except OSError:
            return None

    @classmethod
    def of(cls, ids: pl.Series, entries: pl.Series, file: Path, columns: Sequence[str]) -> "Entries":
        """Entries by item, of which some may be null.

        Args:
            ids: of all items.
            entries: a text or a path for each.
            file: where they came from.
            columns: and from which columns of it.

        Raises:
            DataError: if there is no entry at all.
        """
        if entries.null_count() == len(entries):
            raise DataError(f"{file} has nothing in {' and '.join(map(repr, columns))}: name other columns.")
        frame = pl.DataFrame({"item_id": ids, "entry": entries})
        facts = {"file": file.name, "columns": list(columns), "sha256": _checksum(frame)}
        has = frame["entry"].is_not_null()
        return cls(frame.filter(has), frame["item_id"].filter(~has), facts)


def _checksum(frame: pl.DataFrame) -> str:
    """SHA-256 of ``frame`` as a CSV."""
    digest = hashlib.sha256()
    for part in frame.iter_slices(_HASHED_ROWS):
        digest.update(part.write_csv(include_header=False).encode())
    return digest.hexdigest()


class Catalogue:
    """The items of a shop, as a table has them.

    Args:
        path: CSV, TSV, JSON Lines (these may be gzipped) or Parquet.
        id_col: column of the item IDs; by default one with a usual name, such as ``item_id``, or ``id``.
        separator: of a text table; by default a comma in ``.csv``, else a tab.

    Attributes:
        path: of the table.
        ids: IDs of the items, integers or strings as :class:`~lirdrec_pyg.data.Vocabulary` has them.

    Raises:
        DataError: if the table can't be read, or an ID is missing or not the only one of its kind.
    """

    def __init__(self, path: Path, id_col: str | None = None, separator: str | None = None) -> None:
        if table_suffix(path) not in CATALOGUE_SUFFIXES:
            raise DataError(f"{path} has an unknown ending: a catalogue is one of {', '.join(CATALOGUE_SUFFIXES)}.")
        self.path = path
        self._frame = read_table(path, separator)
        if self._frame.is_empty():
            raise DataError(f"{path} holds no items.")
        name = id_col or find_column("item", self._frame.columns) or "id"
        if name not in self._frame.columns:
            raise DataError(
                f"{path} has no column {name if id_col else USUAL_NAMES['item'][0]!r} of item IDs: its columns are "
                f"{listed(self._frame.columns)}; name the right one with --id-col."
            )
        column = self._frame[name]
        if column.dtype.is_nested():
            raise DataError(f"Column {shown(name)} of {path} holds {shortened(str(column.dtype))}, not one ID a row.")
        source = f"Column {shown(name)} of {path}"
        if column.dtype == pl.String and (missing := missing_ids(column)).any():
            raise DataError(f"{source} has no ID in row {missing.arg_max()} (rows count from 0).")
        self.ids = canonical_ids(column, source)
        check_ids(self.ids, source)

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, columns: Sequence[str]) -> Entries:
        """The texts of each item, those of several columns in their order, with a line break between them.

        Nothing is changed in them, but for spaces around the whole, which are left out. A cell without anything but
        spaces is left out too, and an item without a text has no entry. A list of texts counts as one text of several
        lines.

        Raises:
            DataError: if there is no such column, it holds no texts, or no item has any.
        """
        parts = [_not_empty(self._text(name, "--text-cols")) for name in columns]
        joined = pl.select(pl.concat_str(parts, separator="\n", ignore_nulls=True)).to_series()
        return Entries.of(self.ids, _not_empty(joined.str.strip_chars()), self.path, columns)

    def files(self, column: str, option: str, root: Path | None = None) -> Entries:
        """The file of each item: a picture or a sound.

        Args:
            column: with a path for each item; an item with an empty cell has no entry.
            option: what named the column, for messages.
            root: what the paths go by, and may not leave; by default the folder of the catalogue.

        Raises:
            DataError: if there is no such column, it holds no paths, one leads out of ``root``, or none of the files
                is there. A single file that is missing is no error: its item will lack the modality.
        """
        root = self.path.parent if root is None else root
        if not root.is_dir():
            raise DataError(f"--root is {root}, and there is no such folder.")
        entries = Entries.of(self.ids, _not_empty(self._text(column, option).str.strip_chars()), self.path, [column])
        paths = [self._inside(root, item, path) for item, path in entries.frame.iter_rows()]
        if not any(map(os.path.isfile, paths)):
            raise DataError(
                f"None of the files in column {shown(column)} of {self.path} is there, such as {paths[0]}: name the "
                "folder that the paths go by with --root."
            )
        frame = entries.frame.with_columns(entry=pl.Series(paths))
        return Entries(frame, entries.missing, entries.facts, are_files=True)

    def _inside(self, root: Path, item: object, path: str) -> str:
        if "://" in path:
            raise DataError(
                f"{self.path} has the address {shown(path)} for item {shown(item)}: download the files first, and "
                "give their paths."
            )
        top = os.path.abspath(root)
        full = os.path.normpath(os.path.join(top, path))
        if "\0" in path or os.path.commonpath([top, full]) != top:
            raise DataError(
                f"{self.path} has the path {shown(path)} for item {shown(item)}, which leads out of {root}: name a "
                "folder that holds all files with --root."
            )
        return full

    def _text(self, name: str, option: str) -> pl.Series:
        if name not in self._frame.columns:
            raise DataError(f"{self.path} has no column {name!r}: its columns are {listed(self._frame.columns)}.")
        column = self._frame[name]
        inner = column.dtype.inner if isinstance(column.dtype, pl.List) else None
        if isinstance(inner, _TEXTS):
            return column.list.eval(pl.element().cast(pl.String).drop_nulls()).list.join("\n")
        if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
            raise DataError(
                f"Column {shown(name)} of {self.path}, named by {option}, holds {shortened(str(column.dtype))}, "
                "not texts."
            )
        return column.cast(pl.String)


def _not_empty(texts: pl.Series) -> pl.Series:
    """``texts``, and null where there are only spaces."""
    return texts.set(texts.str.strip_chars() == "", None)


def split_columns(text: str, option: str) -> list[str]:
    """Names of columns with commas between them.

    Raises:
        ConfigError: if a name is empty or given twice.
    """
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(f"{option} is {text!r}: give names of columns with commas between them, each once.")
    return names
