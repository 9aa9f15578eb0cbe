"""Quality checks of a feature matrix of any origin."""

from dataclasses import dataclass

import numpy as np
import torch

from lirdrec_pyg.data.features import FeatureTable, row_blocks, scan_rows


@dataclass(frozen=True)
class FeatureCheck:
    """Result of :func:`check_table`.

    Attributes:
        dtype: data type in memory: half precision as in the file, everything else as float32.
        not_finite: rows with NaN or infinite values.
        zero: rows of zeros.
        extreme: rows that are too long or too short to become unit vectors.
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
    extreme: np.ndarray
    duplicate: np.ndarray
    constant: np.ndarray

    @property
    def is_usable(self) -> bool:
        """Whether a model can be trained on all rows."""
        return not (len(self.not_finite) or len(self.zero) or len(self.extreme))


def check_table(table: FeatureTable) -> FeatureCheck:
    """Check every row, with one block of them in memory at a time."""
    values, scan = table.values, scan_rows(table.values, find_duplicates=True)
    low = torch.full((values.size(1),), torch.inf)
    high = -low
    for _, rows in row_blocks(values):
        low, high = torch.minimum(low, rows.amin(dim=0)), torch.maximum(high, rows.amax(dim=0))
    return FeatureCheck(
        source=table.source,
        rows=len(table),
        width=values.size(1),
        dtype=str(values.dtype).removeprefix("torch."),
        has_ids=table.ids is not None,
        not_finite=np.flatnonzero(~scan.finite.numpy()),
        zero=np.flatnonzero(scan.zero.numpy()),
        extreme=np.flatnonzero(scan.extreme.numpy()),
        duplicate=np.flatnonzero(scan.duplicate.numpy()),
        constant=((low == high) & (len(table) > 1)).nonzero().flatten().numpy(),
    )
