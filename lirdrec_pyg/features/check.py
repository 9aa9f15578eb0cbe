"""What is wrong with a matrix of features, whatever it was made by."""

from dataclasses import dataclass

import numpy as np
import torch

from lirdrec_pyg.data.features import FeatureTable, duplicate_rows, row_blocks


@dataclass(frozen=True)
class FeatureCheck:
    """What :func:`check_table` finds out.

    Attributes:
        source: where the features came from.
        rows: number of items.
        width: number of columns.
        dtype: as the features are held: half precision as in the file, all else as float32.
        has_ids: whether the file says which item a row belongs to.
        not_finite: rows that hold a NaN or an infinite number.
        zero: rows that are all zeros.
        duplicate: rows that are equal to one before.
        constant: columns that are the same in all rows.
    """

    source: str
    rows: int
    width: int
    dtype: str
    has_ids: bool
    not_finite: np.ndarray
    zero: np.ndarray
    duplicate: np.ndarray
    constant: np.ndarray

    @property
    def is_usable(self) -> bool:
        """Whether a model can be trained on all rows."""
        return not (len(self.not_finite) or len(self.zero))


def check_table(table: FeatureTable) -> FeatureCheck:
    """Looks at every row, holding a block of them at a time."""
    values = table.values
    not_finite, zero = [], []
    low = torch.full((values.size(1),), torch.inf)
    high = -low
    for start, rows in row_blocks(values):
        not_finite.append(start + (~rows.isfinite()).any(dim=1).nonzero().flatten().numpy())
        zero.append(start + (~rows.any(dim=1)).nonzero().flatten().numpy())
        low, high = torch.minimum(low, rows.amin(dim=0)), torch.maximum(high, rows.amax(dim=0))
    return FeatureCheck(
        source=table.source,
        rows=len(table),
        width=values.size(1),
        dtype=str(values.dtype).removeprefix("torch."),
        has_ids=table.ids is not None,
        not_finite=np.concatenate(not_finite),
        zero=np.concatenate(zero),
        duplicate=np.flatnonzero(duplicate_rows(values).numpy()),
        constant=((low == high) & (len(table) > 1)).nonzero().flatten().numpy(),
    )
