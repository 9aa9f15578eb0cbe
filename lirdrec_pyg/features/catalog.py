import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg.data.ids import canonical_ids, check_ids, missing_ids
from lirdrec_pyg.data.tables import USUAL_NAMES, find_column, read_table, table_suffix
from lirdrec_pyg.errors import ConfigError, DataError, listed, shortened, shown
from lirdrec_pyg.files import checksum

CATALOG_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")

_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_HASHED_ROWS = 2**16


@dataclass(frozen=True)
class Entries:
    """Text or file of each item in one modality.

    Attributes:
        frame: columns ``item_id`` and ``entry``, a text or the path of a file.
        missing: IDs of the items without an entry.
        facts: origin and checksum of the entries, for the provenance.
        are_files: whether the entries are paths.
    """

    frame: pl.DataFrame
    missing: pl.Series
    facts: dict[str, Any]
    are_files: bool = False

    def __len__(self) -> int:
        return len(self.frame)

    def checksum(self, entry: str) -> str | None:
        """Return the SHA-256 of a text or a file; ``None`` if the file cannot be read."""
        if not self.are_files:
            return hashlib.sha256(entry.encode()).hexdigest()
        try:
            return checksum(Path(entry))
        except OSError:
            return None

    @classmethod
    def of(cls, ids: pl.Series, entries: pl.Series, file: Path, columns: Sequence[str]) -> "Entries":
        """Build the entries of a modality.

        Args:
            ids: IDs of all items.
            entries: text or path per item; null if the item has none.
            file: file they were read from.
            columns: columns they were read from.

        Raises:
            DataError: if no item has an entry.
        """
        if entries.null_count() == len(entries):
            raise DataError(f"{file} has only empty cells in {' and '.join(map(repr, columns))}. Pass other columns.")
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


class Catalog:
    """Table with the ID, texts and files of each item.

    Args:
        path: CSV, TSV or JSON Lines (optionally gzipped), or Parquet.
        id_col: column of item IDs; by default one with a usual name, such as ``item_id``, or ``id``.
        separator: separator of a text table; by default a comma in ``.csv``, else a tab.

    Attributes:
        path: file of the table.
        ids: item IDs, integers or strings as in :class:`~lirdrec_pyg.data.Vocabulary`.

    Raises:
        DataError: if the table cannot be read, or an ID is missing or not unique.
    """

    def __init__(self, path: Path, id_col: str | None = None, separator: str | None = None) -> None:
        if table_suffix(path) not in CATALOG_SUFFIXES:
            raise DataError(f"{path} has an unknown suffix. A catalog is one of {', '.join(CATALOG_SUFFIXES)}.")
        self.path = path
        self._frame = read_table(path, separator)
        if self._frame.is_empty():
            raise DataError(f"{path} has no rows.")
        name = id_col or find_column("item", self._frame.columns) or "id"
        if name not in self._frame.columns:
            raise DataError(
                f"No column {name if id_col else USUAL_NAMES['item'][0]!r} of item IDs in {path} (columns: "
                f"{listed(self._frame.columns)}). Pass `id_col`."
            )
        column = self._frame[name]
        if column.dtype.is_nested():
            raise DataError(f"Column {shown(name)} of {path} has the type {shortened(str(column.dtype))}, not IDs.")
        source = f"Column {shown(name)} of {path}"
        if column.dtype == pl.String and (missing := missing_ids(column)).any():
            raise DataError(f"{source} has no ID in row {missing.arg_max()} (counted from 0).")
        self.ids = canonical_ids(column, source)
        check_ids(self.ids, source)

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, columns: Sequence[str]) -> Entries:
        """Join the texts of each item from several columns, separated by line breaks.

        Whitespace around the whole is removed. Blank cells are skipped, and an item without a text has no entry. A list
        of texts counts as one text of several lines.

        Raises:
            DataError: if a column is missing or has no texts, or no item has a text.
        """
        parts = [_without_blanks(self._text(name)) for name in columns]
        joined = pl.select(pl.concat_str(parts, separator="\n", ignore_nulls=True)).to_series()
        return Entries.of(self.ids, _without_blanks(joined.str.strip_chars()), self.path, columns)

    def files(self, column: str, root: Path | None = None) -> Entries:
        """Locate the file of each item, such as an image.

        Args:
            column: column of paths; an item with a blank cell has no entry.
            root: folder that the paths are relative to and may not leave; by default that of the catalog.

        Raises:
            DataError: if the column is missing or has no paths, one leads out of ``root``, or none of the files
                exists. A single missing file is reported when it is encoded.
        """
        root = self.path.parent if root is None else root
        if not root.is_dir():
            raise DataError(f"`root` is {root}, which is not a folder.")
        entries = Entries.of(self.ids, _without_blanks(self._text(column).str.strip_chars()), self.path, [column])
        paths = [self._inside(root, item, path) for item, path in entries.frame.iter_rows()]
        if not any(map(os.path.isfile, paths)):
            raise DataError(
                f"None of the files in column {shown(column)} of {self.path} exists, such as {paths[0]}. Pass the "
                "folder that the paths are relative to as `root`."
            )
        return replace(entries, frame=entries.frame.with_columns(entry=pl.Series(paths)), are_files=True)

    def _inside(self, root: Path, item: object, path: str) -> str:
        if "://" in path:
            raise DataError(f"{self.path} has the URL {shown(path)} for item {shown(item)}. Download the files first.")
        top = os.path.abspath(root)
        full = os.path.normpath(os.path.join(top, path))
        if "\0" in path or os.path.commonpath([top, full]) != top:
            raise DataError(
                f"{self.path} has the path {shown(path)} for item {shown(item)}, which leads out of {root}. Pass a "
                "folder that contains all files as `root`."
            )
        return full

    def _text(self, name: str) -> pl.Series:
        if name not in self._frame.columns:
            raise DataError(f"No column {name!r} in {self.path} (columns: {listed(self._frame.columns)}).")
        column = self._frame[name]
        inner = column.dtype.inner if isinstance(column.dtype, pl.List) else None
        if isinstance(inner, _TEXTS):
            return column.list.eval(pl.element().cast(pl.String).drop_nulls()).list.join("\n")
        if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
            raise DataError(
                f"Column {shown(name)} of {self.path} has the type {shortened(str(column.dtype))}, not texts."
            )
        return column.cast(pl.String)


def _without_blanks(texts: pl.Series) -> pl.Series:
    """Replace texts that are only whitespace by nulls."""
    return texts.set(texts.str.strip_chars() == "", None)


def split_columns(text: str) -> list[str]:
    """Split names of columns at commas.

    Raises:
        ConfigError: if a name is empty or repeated.
    """
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(f"`text_cols` is {text!r}. Pass column names separated by commas, each once.")
    return names
