"""IDs are what a user's files say; positions are rows of a tensor. This maps one to the other."""

from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec_pyg.data.tables import check_ids, read_parquet, shortened, shown
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
        self._ids = ids.rename("id")

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} {self.kind}s, {self.ids.dtype})"

    @property
    def ids(self) -> pl.Series:
        """All IDs, by position."""
        return self._ids

    def find(self, ids: pl.Series) -> np.ndarray:
        """Positions of ``ids``, int64, with -1 for an ID that is not known."""
        if ids.dtype != self.ids.dtype:
            # As text, so that "007" isn't taken for 7.
            (known, position), ids = self._sorted_texts, ids.cast(pl.String)
        else:
            known, position = self._sorted
        if not len(known):
            return np.full(len(ids), -1)
        # A missing ID is equal to none.
        place = np.minimum(known.search_sorted(ids).to_numpy(), len(known) - 1)
        return np.where((known.gather(place) == ids).fill_null(False).to_numpy(), position[place], -1)

    @cached_property
    def _sorted(self) -> tuple[pl.Series, np.ndarray]:
        """The IDs in order, and the position of each: made once, so that a search takes no time of the whole."""
        return _in_order(self.ids)

    @cached_property
    def _sorted_texts(self) -> tuple[pl.Series, np.ndarray]:
        return _in_order(self.ids.cast(pl.String))

    def positions(self, ids: pl.Series) -> np.ndarray:
        """Positions of ``ids``, int64.

        Raises:
            DataError: naming the first ID that is not known.
        """
        found = self.find(ids)
        if (unknown := found < 0).any():
            raise DataError(f"There is no {self.kind} with the ID {shown(ids[int(unknown.argmax())])}.")
        return found

    def extended(self, ids: pl.Series) -> "Vocabulary":
        """These IDs, and ``ids`` at the end; as texts if not both are integers."""
        if ids.dtype != self.ids.dtype:
            return Vocabulary(pl.concat([self.ids.cast(pl.String), ids.cast(pl.String).rename("id")]), self.kind)
        return Vocabulary(pl.concat([self.ids, ids.rename("id")]), self.kind)

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
        ids = frame["id"]
        if not (ids.dtype.is_integer() or ids.dtype == pl.String):
            raise DataError(
                f"{path} is no list of {kind}s: its column 'id' holds {shortened(str(ids.dtype))}, "
                "not integers or text."
            )
        try:
            return cls(ids, kind)
        except DataError as error:
            raise DataError(f"{path} can't be used: {error}") from error


def _in_order(ids: pl.Series) -> tuple[pl.Series, np.ndarray]:
    order = ids.arg_sort()
    return ids.gather(order), order.cast(pl.Int64).to_numpy()
