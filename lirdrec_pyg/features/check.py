"""Quality checks of a feature matrix of any origin."""

from dataclasses import dataclass

import numpy as np
import torch

from lirdrec_pyg.data.features import FeatureTable, duplicate_rows, row_blocks


@dataclass(frozen=True)
class FeatureCheck:
    """Result of :func:`check_table`.

    Attributes:
        source: origin of the features.
        rows: number of items.
        width: number of columns.
        dtype: data type in memory: half precision as in the file, everything else as float32.
        has_ids: whether the file holds item IDs.
        not_finite: rows with NaN or infinite values.
        zero: rows of zeros.
        duplicate: rows that equal an earlier row.
        constant: columns with the same value in all rows.
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
    """Check every row, with one block of them in memory at a time."""
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
