import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg.data.column_names import USUAL_NAMES, find_column
from lirdrec_pyg.data.ids import canonical_ids, check_ids, check_no_header, warn_of_missing_ids
from lirdrec_pyg.data.tables import read_table
from lirdrec_pyg.data.texts import cell_texts
from lirdrec_pyg.errors import ConfigError, DataError, listed, shown
from lirdrec_pyg.features.item_files import locate_files
from lirdrec_pyg.files import checksum

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
        """Build the entries of a modality from an ID and a text or path per item, which is null if it has none.

        Raises:
            DataError: if no item has an entry.
        """
        if entries.null_count() == len(entries):
            raise DataError(f"{file} has only empty cells in {' and '.join(map(repr, columns))}. Pass other columns.")
        frame = pl.DataFrame({"item_id": ids, "entry": entries})
        digest = hashlib.sha256()
        for part in frame.iter_slices(_HASHED_ROWS):
            digest.update(part.write_csv(include_header=False).encode())
        facts = {"file": file.name, "columns": list(columns), "sha256": digest.hexdigest()}
        has = frame["entry"].is_not_null()
        return cls(frame.filter(has), frame["item_id"].filter(~has), facts)


class Catalog:
    """Table with the ID, texts and files of each item.

    Args:
        path: CSV, TSV or JSON Lines (optionally gzipped), or Parquet.
        id_col: column of item IDs; by default one with a usual name, such as ``item_id``, or ``id``.
        separator: separator of a text table; by default detected.

    Attributes:
        path: file of the table.
        ids: item IDs, integers or strings as in :class:`~lirdrec_pyg.data.Vocabulary`.

    Raises:
        DataError: if the table cannot be read, or an ID is missing or not unique.
    """

    def __init__(self, path: Path, id_col: str | None = None, separator: str | None = None) -> None:
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
        source = f"Column {shown(name)} of {path}"
        self.ids = canonical_ids(self._frame[name], source)
        check_ids(self.ids, source)
        check_no_header(self.ids, name, source)
        warn_of_missing_ids(self.ids, source)

    def texts(self, columns: Sequence[str]) -> Entries:
        """Join the texts of each item from several columns, separated by line breaks.

        Whitespace around the whole is removed. See :func:`~lirdrec_pyg.data.texts.cell_texts` for lists and missing
        texts; an item without a text has no entry.

        Raises:
            DataError: if a column is missing or has no texts, or no item has a text.
        """
        parts = [self._text(name) for name in columns]
        joined = pl.select(pl.concat_str(parts, separator="\n", ignore_nulls=True)).to_series().str.strip_chars()
        return Entries.of(self.ids, joined.set(joined == "", None), self.path, columns)

    def files(self, column: str, root: str | Path | None = None) -> Entries:
        """Locate the file of each item, such as an image, by :func:`~lirdrec_pyg.features.item_files.locate_files`.

        Args:
            column: column of paths; an item with a blank cell has no entry.
            root: folder that the paths are relative to and may not leave; by default that of the catalog.

        Raises:
            DataError: if the column is missing or has no paths, one leads out of ``root``, or none of the files
                exists. A single missing file is reported when it is encoded.
        """
        root = self.path.parent if root is None else Path(root)
        if not root.is_dir():
            raise DataError(f"`root` is {root}, which is not a folder.")
        entries = Entries.of(self.ids, self._text(column).str.strip_chars(), self.path, [column])
        source = f"column {shown(column)} of {self.path}"
        if len(several := entries.frame.filter(pl.col("entry").str.contains("\n"))):
            raise DataError(f"The cell of item {shown(several[0, 0])} in {source} has several paths. Keep one.")
        files = locate_files(entries.frame, root, source)
        return replace(entries, frame=entries.frame.with_columns(entry=files), are_files=True)

    def _text(self, name: str) -> pl.Series:
        if name not in self._frame.columns:
            raise DataError(f"No column {name!r} in {self.path} (columns: {listed(self._frame.columns)}).")
        return cell_texts(self._frame[name], f"column {shown(name)} of {self.path}")


def split_columns(text: str) -> list[str]:
    """Split names of columns at commas; raise :class:`ConfigError` if one is empty or repeated."""
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(f"`text_cols` is {text!r}. Pass column names separated by commas, each once.")
    return names
