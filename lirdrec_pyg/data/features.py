"""Item features of one modality: tables of them, and the one pass over a matrix that all checks share."""

import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.data.column_names import find_column
from lirdrec_pyg.data.ids import as_series, canonical_ids, check_ids, check_no_header
from lirdrec_pyg.errors import DataError, listed, shortened, shown

ZeroFeatures = Literal["error", "missing"]

# Feature files beside a table are named MODALITY_feat.*, such as image_feat.npy.
FEATURE_MARK = "_feat"
FEATURE_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
FEATURE_SUFFIXES = (".npy", ".npz", ".pt", ".safetensors", *FEATURE_TABLES)

# Columns that number the rows, as pandas, Dask, R and databases name them.
_ROW_NUMBER = re.compile(
    r"|#|id|idx|index|level_\d+|__(index_level_\d+|null_dask_index)__|unnamed: \d+(\.\d+)*|row_?names?|"
    r"rows?([ _]?(nr|num|number|no|id|idx|index))?",
    re.IGNORECASE,
)
# From this length on, numbers that increase by one count the rows, whatever the name of their column.
_MIN_COUNTER = 10
# Vectors as text: [0.1, 0.2], (0.1; 0.2) or 0.1 0.2.
_SEPARATORS, _BRACKETS = ",;|", "[]()"

_BLOCK_BYTES = 64 * 2**20
# Lengths of rows that can be divided by their length in float32.
_SHORTEST, _LONGEST = 1e-12, 1e18
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
    def from_frame(
        cls, frame: pl.DataFrame, id_column: str | None, source: str, index: Collection[str] = ()
    ) -> "FeatureTable":
        """Use a frame with an item-ID column and either a column of vectors or only numbers.

        Vectors are lists, or text such as ``[0.1, 0.2]``. A column of vectors named ``features`` may have any others
        beside it. A warning names the columns beside vectors of another name, and index columns, which are not used.

        Args:
            frame: one row per item.
            id_column: by default recognized by a usual name such as ``item_id``, as a named index of pandas, as the
                only text column, or as the only other column beside the vectors.
            source: where the frame came from, for messages.
            index: columns that were the index of a pandas table.

        Raises:
            DataError: naming the column or row that is wrong.
        """
        if frame.is_empty():
            raise DataError(f"{source} holds no rows.")
        if all(dtype == pl.String for dtype in frame.dtypes):
            _check_header(frame.columns, source)
        if id_column is None:
            id_column = find_column("item", frame.columns)
        elif id_column not in frame.columns:
            raise DataError(f"No column {id_column!r} in {source} (columns: {listed(frame.columns)}).")
        if id_column is not None:  # before text among its features is reported
            check_no_header(frame[id_column], id_column, source)
        frame = frame.with_columns(_parsed_vectors(c, source) for c in frame.iter_columns() if c.name != id_column)
        id_column = id_column or _find_id_column(frame, source, index)
        ids, rest = frame[id_column], frame.drop(id_column)
        if all(dtype == pl.String for dtype in rest.dtypes):  # some programs write all numbers as text
            numbers = rest.select(_numbers(c) for c in rest.iter_columns())
            rest = rest.select(c if numbers[c.name].has_nulls() else numbers[c.name] for c in rest.iter_columns())
        rest = _feature_columns(rest, source, index)
        if not rest.width:
            raise DataError(f"{source} must have an item-ID column and at least one column of features.")
        for column in rest.iter_columns():
            if column.null_count():
                raise DataError(
                    f"{source} has no value in column {shown(column.name)}, row {column.is_null().arg_max()} "
                    "(rows count from 0). Fill it in, or leave out the row."
                )
        if _is_vectors(column := rest.to_series(0)):
            return cls.of(_from_lists(column, source), ids, source)
        for column in rest.iter_columns():
            if not column.dtype.is_numeric():
                raise DataError(
                    f"{_type_of(column, source)}. Store vectors as lists of numbers, and drop columns that are not "
                    f"features (the item IDs are in {id_column!r})."
                )
        numbers = rest.select(c if c.dtype.is_float() else c.cast(pl.Float32) for c in rest)
        return cls.of(numbers.to_numpy(), ids, source)


def _from_numpy(array: np.ndarray, source: str) -> Tensor:
    if np.ma.isMaskedArray(array):
        raise DataError(f"{source} is a masked array. Fill in the masked entries.")
    if not isinstance(array, np.ndarray):
        raise DataError(f"{source} holds a {type(array).__name__}, not a matrix of numbers.")
    if array.dtype.kind not in "fiub":
        raise DataError(f"{source} holds {array.dtype}, not numbers.")
    # torch supports neither foreign byte orders, long doubles nor all unsigned integers.
    if not array.dtype.isnative or not array.flags.writeable or array.dtype.kind == "u" or array.dtype.itemsize > 8:
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array) if any(s < 0 for s in array.strides) else array)


def _is_vectors(column: pl.Series) -> bool:
    return isinstance(column.dtype, (pl.List, pl.Array))


def _from_lists(column: pl.Series, source: str) -> np.ndarray:
    inner = column.dtype.inner  # type: ignore[attr-defined]
    if inner is None or not inner.is_numeric():
        raise DataError(f"{_type_of(column, source)}.")
    widths = {column.dtype.size} if isinstance(column.dtype, pl.Array) else set(column.list.len())
    if len(widths) != 1:
        raise DataError(f"The vectors in column {shown(column.name)} of {source} differ in length.")
    return column.cast(pl.Array(inner if inner.is_float() else pl.Float32, widths.pop())).to_numpy()


def _parsed_vectors(column: pl.Series, source: str) -> pl.Series:
    """Return lists of numbers if ``column`` has them as text, which the first row decides; else ``column``."""
    if _is_vectors(column) and column.dtype.inner == pl.String:  # type: ignore[attr-defined]
        with suppress(pl.exceptions.PolarsError):
            return column.cast(pl.List(pl.Float32))
    if column.dtype != pl.String or column[0] is None:
        return column
    text = column[0].strip()
    separator = next((mark for mark in _SEPARATORS if mark in text), " ")
    around = f"{_BRACKETS}{separator} \t\r\n"
    # Without brackets, 1,234 may be one number.
    if not (text.startswith(tuple(_BRACKETS)) or "." in text.partition(separator)[2]):
        return column
    try:
        [float(part) for part in text.strip(around).split(separator.strip() or None)]
    except ValueError:
        return column
    parts = column.str.strip_chars(around)
    if separator == " ":
        parts = parts.str.replace_all(r"\s+", " ")
    vectors = parts.str.split(separator).list.eval(pl.element().str.strip_chars().cast(pl.Float32, strict=False))
    if (wrong := vectors.list.contains(None).fill_null(False)).any():
        row = int(wrong.arg_max() or 0)
        raise DataError(
            f"{source} has {shown(column[row])} in column {shown(column.name)}, row {row} (rows count from 0), not a "
            "vector of numbers."
        )
    return vectors


def _check_header(names: list[str], source: str) -> None:
    """Raise :class:`DataError` if the names of columns are features; they may count columns, as those of pandas do."""
    data = [n for n, number in zip(names, _numbers(pl.Series(names))) if number is not None or n.startswith("[")]
    if data and data not in ([str(n) for n in range(start, start + len(data))] for start in (0, 1)):
        raise DataError(f"{source} has a column {shown(data[0])}: its header is missing. Add a line of column names.")


def _numbers(texts: pl.Series) -> pl.Series:
    """Return texts as numbers, and null for what is not a number."""
    return texts.str.strip_chars().cast(pl.Float32, strict=False)


def _type_of(column: pl.Series, source: str) -> str:
    if column.dtype == pl.String:
        text = column[int(_numbers(column).is_null().arg_max() or 0)]
        return f"Column {shown(column.name)} of {source} holds text such as {shown(text)}, not numbers"
    return f"Column {shown(column.name)} of {source} has type {shortened(str(column.dtype))}, not numbers"


def _is_row_number(column: pl.Series, index: Collection[str]) -> bool:
    if column.name in index or _ROW_NUMBER.fullmatch(column.name):
        return True
    if len(column) < _MIN_COUNTER or not column.dtype.is_numeric():
        return False
    # The first ones rule out nearly all columns.
    return all((part.diff() == 1).sum() == len(part) - 1 for part in (column.head(_MIN_COUNTER), column))


def _feature_columns(frame: pl.DataFrame, source: str, index: Collection[str]) -> pl.DataFrame:
    """Return the columns with features, and warn of others."""
    vectors = [c.name for c in frame.iter_columns() if _is_vectors(c)]
    if "features" in vectors:
        return frame.select("features")
    if len(vectors) > 1:
        raise DataError(f"{source} has vectors in the columns {listed(vectors)}. Rename the one to use to 'features'.")
    kept = frame.select(vectors or [c.name for c in frame.iter_columns() if not _is_row_number(c, index)])
    if others := frame.drop(kept.columns).columns:
        text = f"vectors in column {shown(vectors[0])}, so others" if vectors else "index columns, which"
        warnings.warn(f"{source} has {text} are not used as features: {listed(others)}.", stacklevel=3)
    return kept


def _find_id_column(frame: pl.DataFrame, source: str, index: Collection[str]) -> str:
    """Return the column of item IDs. Its position means nothing: a number of photos may well be the first."""
    if len(named := [name for name in index if not _ROW_NUMBER.fullmatch(name)]) == 1:
        return named[0]
    for columns in ([c for c in frame.iter_columns() if not _is_row_number(c, index)], frame.get_columns()):
        texts = [c for c in columns if c.dtype in (pl.String, pl.Categorical, pl.Enum)]
        if len(texts) == len(columns) > 1:  # some may be numbers as text
            texts = [c for c in texts if c.dtype != pl.String or _numbers(c).has_nulls()]
        if len(texts) == 1:
            return texts[0].name
        scalars = [c.name for c in columns if not c.dtype.is_nested()]
        if len(columns) == 2 and len(scalars) == 1:
            return scalars[0]
    raise DataError(
        f"Cannot recognize the column of item IDs in {source} (columns: {listed(frame.columns)}). Name it "
        "'item_id', or pass `item_column`."
    )


# --- One pass over a matrix ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowScan:
    """Properties of each row of a matrix, found in one pass; all are bool tensors of shape ``(num_rows,)``.

    Attributes:
        finite: all entries are finite.
        zero: all entries are zero.
        nan: all entries are NaN.
        extreme: all entries are finite, but the length of the row is not between :data:`_SHORTEST` and
            :data:`_LONGEST`, so that float32 cannot make it a unit vector.
        duplicate: the row is equal to an earlier one, by a hash of 64 bits: two different rows of a million collide
            with a probability below :math:`10^{-7}`; all ``False`` unless requested.
    """

    finite: Tensor
    zero: Tensor
    nan: Tensor
    extreme: Tensor
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
    finite, zero, nan, extreme, duplicate = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for _ in range(5))
    hashes: list[int] = []
    for start, rows in row_blocks(x):
        # The length is many times as fast as testing each number.
        length = torch.linalg.vector_norm(rows, dim=1)
        finite[start : start + len(rows)] = True
        row = (~((length >= _SHORTEST) & (length <= _LONGEST))).nonzero().flatten()
        odd = rows[row]
        finite[start + row], nan[start + row] = odd.isfinite().all(dim=1), odd.isnan().all(dim=1)
        zero[start + row] = ~odd.any(dim=1)
        extreme[start + row] = odd.isfinite().all(dim=1) & odd.any(dim=1)
        if find_duplicates:
            hashes += [hash(row.tobytes()) for row in (rows + 0.0).numpy()]  # -0.0 becomes 0.0
    if find_duplicates:
        duplicate = torch.from_numpy(~pl.Series(hashes, dtype=pl.Int64).is_first_distinct().to_numpy())
    return RowScan(finite, zero, nan, extreme, duplicate)


def check_matrix(x: Tensor, source: str) -> None:
    """Raise :class:`DataError` unless ``x`` is a non-empty float matrix."""
    if not isinstance(x, Tensor) or x.dim() != 2 or x.size(1) == 0 or not x.is_floating_point():
        raise DataError(f"{source} must be a floating-point matrix (a tensor, one row per item), got {described(x)}.")


def described(x: object) -> str:
    """Return the type and shape of ``x`` for a message."""
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def check_rows(x: Tensor, scan: RowScan, source: str, used: Tensor | None = None, ids: pl.Series | None = None) -> None:
    """Raise :class:`DataError` naming the first of the ``used`` rows that is not finite or has no direction, and its
    item, if ``ids`` are known."""

    def place(row: int, column: str = " (rows count from 0)") -> str:
        return f"row {row}{column}{'' if ids is None else f', item {shown(ids[row])}'}"

    bad, zero, extreme = ~scan.finite, scan.zero, scan.extreme
    if used is not None:
        bad, zero, extreme = bad & used, zero & used, extreme & used
    if bad.any():
        row = int(bad.nonzero()[0])
        if scan.nan[row]:
            raise DataError(f"{source} is all NaN in {place(row)}. {_BLANK_ADVICE}")
        values = x[row].float()
        column = int((~values.isfinite()).nonzero()[0])
        found = values[column].item()
        raise DataError(
            f"{source} holds {found} in {place(row, f', column {column}')}. Features must be finite numbers."
        )
    if zero.any():
        raise DataError(
            f"{source} is all zeros in {place(int(zero.nonzero()[0]))}, a vector without direction. {_BLANK_ADVICE}"
        )
    if extreme.any():
        row = int(extreme.nonzero()[0])
        raise DataError(
            f"{source} has a vector of length {x[row].double().norm().item():.2g} in {place(row)}, "
            f"which is not between {_SHORTEST:g} and {_LONGEST:g}. Scale the features, such as to unit length."
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
