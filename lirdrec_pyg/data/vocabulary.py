"""IDs are what a user's files say; positions are rows of a tensor. This maps one to the other."""

from pathlib import Path

import numpy as np
import polars as pl

from lirdrec_pyg.data.tables import check_ids, read_parquet
from lirdrec_pyg.errors import DataError


class Vocabulary:
    """The IDs of all users or all items, in the order of their positions.

    Args:
        ids: unique IDs, integers or strings.
        kind: what the IDs name, ``"user"`` or ``"item"``, for messages.

    Raises:
        DataError: if an ID is missing or occurs twice.
    """

    def __init__(self, ids: pl.Series, kind: str) -> None:
        check_ids(ids, source=f"The list of {kind}s")
        self.kind = kind
        self._frame = pl.DataFrame({"id": ids}).with_row_index("position")

    def __len__(self) -> int:
        return len(self._frame)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} {self.kind}s, {self.ids.dtype})"

    @property
    def ids(self) -> pl.Series:
        """All IDs, by position."""
        return self._frame["id"]

    def find(self, ids: pl.Series) -> np.ndarray:
        """Positions of ``ids``, int64, with -1 for an ID that is not known."""
        known = self._frame
        if ids.dtype != self.ids.dtype:
            # As text, so that "007" isn't taken for 7.
            known, ids = known.with_columns(pl.col("id").cast(pl.String)), ids.cast(pl.String)
        found = pl.DataFrame({"id": ids}).join(known, on="id", how="left", maintain_order="left")
        return found["position"].cast(pl.Int64).fill_null(-1).to_numpy()

    def positions(self, ids: pl.Series) -> np.ndarray:
        """Positions of ``ids``, int64.

        Raises:
            DataError: naming the first ID that is not known.
        """
        found = self.find(ids)
        if (unknown := found < 0).any():
            raise DataError(f"There is no {self.kind} with the ID {ids[int(unknown.argmax())]!r}.")
        return found

    def save(self, path: Path) -> None:
        """Writes the IDs as a Parquet file of one column."""
        pl.DataFrame({"id": self.ids}).write_parquet(path)

    @classmethod
    def load(cls, path: Path, kind: str) -> "Vocabulary":
        """Reads what :meth:`save` wrote.

        Raises:
            DataError: if the file is missing or damaged.
        """
        frame = read_parquet(path)
        if "id" not in frame.columns:
            raise DataError(f"{path} is no list of {kind}s: it has no column 'id'.")
        return cls(frame["id"], kind)
