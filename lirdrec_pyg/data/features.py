"""Item features of one modality: tables of them, and the one pass over a matrix that all checks share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.data.ids import as_series, canonical_ids, check_ids
from lirdrec_pyg.data.tables import find_column
from lirdrec_pyg.errors import DataError, listed, shortened, shown

ZeroFeatures = Literal["error", "missing"]

# Feature files beside a table are named MODALITY_feat.*, such as image_feat.npy.
FEATURE_MARK = "_feat"
FEATURE_SUFFIXES = (".npy", ".npz", ".pt", ".safetensors", ".parquet")

_BLOCK_BYTES = 64 * 2**20
_BLANK_ADVICE = "Provide features of the item, leave out the row, or pass `zero_features='missing'`."


@dataclass(frozen=True)
class FeatureTable:
    """Features of one modality, one row per item.

    Attributes:
        values: shape ``(num_rows, d_m)``, floating point, memory-mapped if the format allows it.
        ids: the item ID of each row, int64 or strings, or ``None`` if rows are identified by position.
        source: where the features came from, for messages.
    """

    values: Tensor
    ids: pl.Series | None
    source: str

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, values: Tensor | np.ndarray, ids: Any, source: str) -> "FeatureTable":
        """Check the types and shapes of a matrix and its IDs, without reading the matrix.

        Args:
            values: numbers of shape ``(num_rows, d_m)``.
            ids: the item ID of each row, as a series, array, tensor or list, or ``None``.
            source: where they came from, for messages.

        Raises:
            DataError: if they are not a matrix of numbers and unique IDs of its rows.
        """
        x = values if isinstance(values, Tensor) else _from_numpy(values, source)
        if x.is_nested or x.layout != torch.strided or x.is_complex() or x.is_quantized or x.is_meta:
            raise DataError(f"{source} is not a plain matrix of real numbers. Use a dense floating-point tensor.")
        if x.numel() * x.element_size() > x.untyped_storage().nbytes():
            # A file of one number could otherwise claim to hold more than any memory does.
            raise DataError(
                f"{source} is a view of shape {tuple(x.shape)} that repeats its entries. Save a copy, such as "
                "x.contiguous()."
            )
        if x.dim() != 2 or x.numel() == 0:
            raise DataError(f"{source} must be a matrix with one row per item, but its shape is {tuple(x.shape)}.")
        x = x.detach()
        if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            x = x.float()
        if ids is not None:
            try:
                length = len(ids)  # first, since a list of IDs may claim any length
            except (TypeError, RuntimeError):  # not a list, or a tensor that has no length
                raise DataError(f"The item IDs of {source} are a {type(ids).__name__}, not a list.") from None
            if length != len(x):
                raise DataError(f"{source} has {length} item IDs for {len(x)} rows.")
            ids = canonical_ids(as_series("id", ids, f"the item IDs of {source}"), f"The item-ID column of {source}")
            check_ids(ids, source=source)
        return cls(x, ids, source)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, id_column: str | None, source: str) -> "FeatureTable":
        """Use a frame with an item-ID column and either a list column ``features``, one list column, or only numbers.

        Args:
            frame: one row per item.
            id_column: by default recognized by a usual name such as ``item_id``, or as the only text column,
                or as the only other column beside a list column.
            source: where the frame came from, for messages.

        Raises:
            DataError: naming the column or row that is wrong.
        """
        if frame.is_empty():
            raise DataError(f"{source} holds no rows.")
        if frame.width < 2:
            raise DataError(f"{source} must have an item-ID column and at least one column of features.")
        if id_column is None:
            id_column = _find_id_column(frame, source)
        elif id_column not in frame.columns:
            raise DataError(f"No column {id_column!r} in {source} (columns: {listed(frame.columns)}).")
        ids, rest = frame[id_column], frame.drop(id_column)
        if isinstance(rest.schema.get("features"), (pl.List, pl.Array)):
            rest = rest.select("features")
        for column in rest.iter_columns():
            if column.null_count():
                raise DataError(
                    f"{source} has no value in column {shown(column.name)}, row {column.is_null().arg_max()} "
                    "(rows count from 0). Fill it in, or leave out the row."
                )
        column = rest.to_series(0)
        if rest.width == 1 and isinstance(column.dtype, (pl.List, pl.Array)):
            return cls.of(_from_lists(column, source), ids, source)
        for column in rest.iter_columns():
            if not column.dtype.is_numeric():
                raise DataError(
                    f"{_type_of(column, source)}. Drop it: every column beside the item IDs (here {id_column!r}) is "
                    "used as a feature."
                )
        numbers = rest.select(c if c.dtype.is_float() else c.cast(pl.Float32) for c in rest)
        return cls.of(numbers.to_numpy(), ids, source)


def _from_numpy(array: np.ndarray, source: str) -> Tensor:
    if np.ma.isMaskedArray(array):
        raise DataError(f"{source} is a masked array. Fill in the masked entries.")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise DataError(f"{source} holds {getattr(array, 'dtype', type(array).__name__)}, not numbers.")
    # torch supports neither foreign byte orders, long doubles nor all unsigned integers.
    if not array.dtype.isnative or not array.flags.writeable or array.dtype.kind == "u" or array.dtype.itemsize > 8:
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array) if any(s < 0 for s in array.strides) else array)


def _from_lists(column: pl.Series, source: str) -> np.ndarray:
    inner = column.dtype.inner  # type: ignore[attr-defined]
    if inner is None or not inner.is_numeric():
        raise DataError(f"{_type_of(column, source)}.")
    widths = {column.dtype.size} if isinstance(column.dtype, pl.Array) else set(column.list.len())
    if len(widths) != 1:
        raise DataError(f"The vectors in column {shown(column.name)} of {source} differ in length.")
    return column.cast(pl.Array(inner if inner.is_float() else pl.Float32, widths.pop())).to_numpy()


def _type_of(column: pl.Series, source: str) -> str:
    return f"Column {shown(column.name)} of {source} has type {shortened(str(column.dtype))}, not numbers"


def _find_id_column(frame: pl.DataFrame, source: str) -> str:
    """Return the column of item IDs. Its position means nothing: a number of photos may well be the first."""
    if usual := find_column("item", frame.columns):
        return usual
    texts = [c.name for c in frame.iter_columns() if c.dtype in (pl.String, pl.Categorical, pl.Enum)]
    if len(texts) == 1:
        return texts[0]
    scalars = [c.name for c in frame.iter_columns() if not c.dtype.is_nested()]
    if frame.width == 2 and len(scalars) == 1:
        return scalars[0]
    raise DataError(
        f"Cannot recognize the column of item IDs in {source} (columns: {listed(frame.columns)}). Name it 'item_id'."
    )


# --- One pass over a matrix ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowScan:
    """Properties of each row of a matrix, found in one pass; all are bool tensors of shape ``(num_rows,)``.

    Attributes:
        finite: all entries are finite.
        zero: all entries are zero.
        nan: all entries are NaN.
        duplicate: the row is equal to an earlier one; all ``False`` unless requested.
    """

    finite: Tensor
    zero: Tensor
    nan: Tensor
    duplicate: Tensor

    @property
    def blank(self) -> Tensor:
        """Rows that may stand for missing features."""
        return self.zero | self.nan


def row_blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(first_row, rows)`` in float32, in blocks that bound the memory that a mapped matrix takes."""
    size = max(1, _BLOCK_BYTES // (4 * max(1, x.size(1))))
    for start in range(0, len(x), size):
        yield start, x[start : start + size].float()


def scan_rows(x: Tensor, find_duplicates: bool = False) -> RowScan:
    """Read a matrix once; everything that is checked or reported about its rows is based on the result."""
    finite, zero, nan, duplicate = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for _ in range(4))
    hashes: list[int] = []
    for start, rows in row_blocks(x):
        # The sum is many times as fast as testing each number, but that of large ones may overflow.
        total = rows.sum(dim=1)
        finite[start : start + len(rows)] = total.isfinite()
        row = (~total.isfinite()).nonzero().flatten()
        finite[start + row], nan[start + row] = rows[row].isfinite().all(dim=1), rows[row].isnan().all(dim=1)
        row = (total == 0).nonzero().flatten()
        zero[start + row] = ~rows[row].any(dim=1)
        if find_duplicates:
            hashes += _hashes(rows)
    return RowScan(finite, zero, nan, _repeated(hashes) if find_duplicates else duplicate)


def duplicate_rows(x: Tensor) -> Tensor:
    """Return which rows of ``x`` are equal to an earlier one, shape ``(num_rows,)``.

    Rows are compared by a hash of 64 bits: two different ones of a million collide with a probability
    below :math:`10^{-7}`.
    """
    return _repeated([value for _, rows in row_blocks(x) for value in _hashes(rows)])


def _hashes(rows: Tensor) -> list[int]:
    return [hash(row.tobytes()) for row in (rows + 0.0).numpy()]  # -0.0 becomes 0.0


def _repeated(hashes: list[int]) -> Tensor:
    return torch.from_numpy(~pl.Series(hashes, dtype=pl.Int64).is_first_distinct().to_numpy())


def check_matrix(x: Tensor, source: str) -> None:
    """Raise :class:`DataError` unless ``x`` is a non-empty float matrix."""
    if not isinstance(x, Tensor) or x.dim() != 2 or x.size(1) == 0 or not x.is_floating_point():
        raise DataError(f"{source} must be a floating-point matrix (a tensor, one row per item), got {described(x)}.")


def described(x: object) -> str:
    """Return the type and shape of ``x`` for a message."""
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def check_rows(x: Tensor, scan: RowScan, source: str, used: Tensor | None = None) -> None:
    """Raise :class:`DataError` naming the first row, of those that are ``used``, that is not finite or all zeros."""
    bad, zero = ~scan.finite, scan.zero
    if used is not None:
        bad, zero = bad & used, zero & used
    if bad.any():
        row = int(bad.nonzero()[0])
        if scan.nan[row]:
            raise DataError(f"{source} is all NaN in row {row} (rows count from 0). {_BLANK_ADVICE}")
        values = x[row].float()
        column = int((~values.isfinite()).nonzero()[0])
        raise DataError(
            f"{source} holds {values[column].item()} in row {row}, column {column}. Features must be finite numbers."
        )
    if zero.any():
        raise DataError(
            f"{source} is all zeros in row {int(zero.nonzero()[0])} (rows count from 0), a vector without direction. "
            f"{_BLANK_ADVICE}"
        )


def fill_missing_rows(x: Tensor, mask: Tensor, name: str) -> Tensor:
    """Return a copy of ``x`` in which rows outside of ``mask`` hold the mean of the rows inside."""
    if mask.all():
        return x
    if not mask.any():
        raise DataError(f"No item has features in {name}. Leave out the modality.")
    filled = x.clone()
    filled[~mask] = mean_row(x, mask).to(x.dtype)
    return filled


def mean_row(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of the rows of ``x`` inside of ``mask``, float64, shape ``(d_m,)``."""
    total = torch.zeros(x.size(1), dtype=torch.float64, device=x.device)
    for start, rows in row_blocks(x):
        kept = rows if mask is None else rows[mask[start : start + len(rows)]]
        total += kept.sum(dim=0, dtype=torch.float64)
    return total / (len(x) if mask is None else mask.sum())
