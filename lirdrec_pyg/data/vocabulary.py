"""Vocabularies map IDs, as in the user's files, to positions, which are rows of tensors."""

from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec_pyg.data.ids import bare_ids, check_ids, same_type
from lirdrec_pyg.data.tables import read_parquet
from lirdrec_pyg.errors import DataError, shortened, shown

_EXAMPLES = 100_000


class Vocabulary:
    """The IDs of all users or all items, ordered by position.

    Args:
        ids: unique IDs, integers or strings.
        kind: ``"user"`` or ``"item"``, for messages.

    Attributes:
        ids: all IDs, by position.

    Raises:
        DataError: if an ID is missing or occurs twice.
    """

    def __init__(self, ids: pl.Series, kind: str) -> None:
        check_ids(ids, source=f"The list of {kind}s")
        self.kind = kind
        self.ids = ids.rename("id")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} {self.kind}s, {self.ids.dtype})"

    def find(self, ids: pl.Series) -> np.ndarray:
        """Return the positions of ``ids``, int64, with -1 for an unknown ID."""
        if ids.dtype != self.ids.dtype:
            # As text, so that "007" does not match 7.
            (known, position), ids = self._sorted_texts, ids.cast(pl.String)
        else:
            known, position = self._sorted
        if not len(known):
            return np.full(len(ids), -1)
        if known.dtype.is_integer() and not ids.null_count():  # a few times faster for a single ID
            values = ids.to_numpy()
            place = np.minimum(np.searchsorted(self._sorted_integers, values), len(known) - 1)
            return np.where(self._sorted_integers[place] == values, position[place], -1)
        # A missing ID matches none.
        place = np.minimum(known.search_sorted(ids).to_numpy(), len(known) - 1)
        return np.where((known.gather(place) == ids).fill_null(False).to_numpy(), position[place], -1)

    @cached_property
    def _sorted(self) -> tuple[pl.Series, np.ndarray]:
        """The sorted IDs, and the position of each: cached, so that a search does not depend on their number."""
        return _in_order(self.ids)

    @cached_property
    def _sorted_integers(self) -> np.ndarray:
        return self._sorted[0].to_numpy()

    @cached_property
    def _sorted_texts(self) -> tuple[pl.Series, np.ndarray]:
        return _in_order(self.ids.cast(pl.String))

    def positions(self, ids: pl.Series) -> np.ndarray:
        """Return the positions of ``ids``, int64.

        Raises:
            DataError: naming the first unknown ID.
        """
        found = self.find(ids)
        if (unknown := found < 0).any():
            first = ids[int(unknown.argmax()) :][:1]
            raise DataError(f"There is no {self.kind} with the ID {shown(first[0])}. {self.hint(first)}")
        return found

    def hint(self, unknown: pl.Series) -> str:
        """Return a sentence about known IDs, if possible one that is written differently, as ``5.0`` for ``5``."""
        known = self.ids[:_EXAMPLES].filter(self._bare.is_in(bare_ids(unknown).implode()))
        return "".join(f"Known {self.kind}s look like {shown(example)}." for example in [*known[:1], *self.ids[:1]][:1])

    @cached_property
    def _bare(self) -> pl.Series:
        """The first IDs as :func:`bare_ids` returns them: enough for examples, however often one is unknown."""
        return bare_ids(self.ids[:_EXAMPLES])

    def extended(self, ids: pl.Series) -> "Vocabulary":
        """Return a vocabulary with ``ids`` appended; all as text unless both are integers."""
        return Vocabulary(pl.concat(same_type([self.ids, ids])), self.kind)

    def save(self, path: Path) -> None:
        """Write the IDs to a Parquet file of one column."""
        pl.DataFrame({"id": self.ids}).write_parquet(path)

    @classmethod
    def load(cls, path: Path, kind: str) -> "Vocabulary":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: if the file is missing or damaged.
        """
        frame = read_parquet(path)
        dtype = frame.schema.get("id")
        if dtype is None or not (dtype.is_integer() or dtype == pl.String):
            found = shortened(", ".join(map(str, frame.dtypes)))
            raise DataError(f"{path} is not a list of {kind}s: no column 'id' of integers or text, but {found}.")
        try:
            return cls(frame["id"], kind)
        except DataError as error:
            raise DataError(f"{path} is damaged: {error}") from error


def _in_order(ids: pl.Series) -> tuple[pl.Series, np.ndarray]:
    order = ids.arg_sort()
    return ids.gather(order), order.cast(pl.Int64).to_numpy()
