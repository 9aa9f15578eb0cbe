"""Feature matrices: reading them in any of the supported formats, and checking them.

A feature file holds one row an item. It says which item a row belongs to in one of two ways: by IDs
of its own (Parquet with an ID column; ``.npz``, ``.pt`` and ``.safetensors`` with an entry ``ids``), or
by position, and then row ``r`` belongs to the ``r``-th line of a list of item IDs or, without one, to
the item whose integer ID is ``r``.
"""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lirdrec_pyg.errors import DataError

FEATURE_SUFFIXES = (".npy", ".npz", ".pt", ".safetensors", ".parquet")

_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class FeatureTable:
    """Features of one modality as a file has them.

    Attributes:
        values: shape ``(num_rows, d_m)``, floating point, memory-mapped where the format allows it.
        ids: the item ID of each row, or ``None`` if rows go by position.
        source: where the features came from, for messages.
    """

    values: Tensor
    ids: pl.Series | None
    source: str

    def __len__(self) -> int:
        return len(self.values)


def read_features(path: Path, id_column: str | None = None) -> FeatureTable:
    """Reads a feature file; nothing in it is ever executed.

    Args:
        path: ``.npy`` (memory-mapped); ``.npz``, ``.pt`` or ``.safetensors`` holding one matrix, or an
            entry ``features`` beside an entry ``ids``; or ``.parquet`` with an item-ID column and either
            one list column or only numeric columns beside it.
        id_column: name of the ID column in Parquet; by default the first column.

    Raises:
        DataError: if the file can't be read, or holds no matrix of numbers.
    """
    readers: dict[str, Callable[[Path], tuple[Tensor, pl.Series | None]]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".pt": _read_pt,
        ".safetensors": _read_safetensors,
    }
    if not path.is_file():
        raise DataError(f"There is no feature file {path}.")
    if path.suffix == ".parquet":
        values, ids = _read_parquet(path, id_column)
    elif reader := readers.get(path.suffix):
        values, ids = reader(path)
    else:
        raise DataError(f"{path} has an unknown ending: features are read from {', '.join(FEATURE_SUFFIXES)}.")

    if values.dim() != 2:
        raise DataError(f"{path} has to hold a matrix of one row an item, but its shape is {tuple(values.shape)}.")
    if values.dtype == torch.float64 or not values.is_floating_point():
        values = values.float()
    if ids is not None:
        if len(ids) != len(values):
            raise DataError(f"{path} has {len(ids)} item IDs for {len(values)} rows.")
        check_ids(ids, source=str(path))
    return FeatureTable(values, ids, source=str(path))


def check_ids(ids: pl.Series, source: str) -> None:
    """Raises :class:`DataError` if an item ID is missing or occurs twice."""
    if ids.null_count():
        raise DataError(f"{source} has no item ID in row {int(ids.is_null().arg_max() or 0) + 1}.")
    if ids.n_unique() != len(ids):
        twice = ids.filter(ids.is_duplicated())[0]
        raise DataError(f"{source} holds the item ID {twice!r} more than once: keep one row of it.")


def _read_npy(path: Path) -> tuple[Tensor, None]:
    try:
        # Copy-on-write: pages are read when needed, and torch gets the writable array it asks for.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is not a readable .npy file of numbers ({error}).") from error
    return _from_numpy(array, path), None


def _read_npz(path: Path) -> tuple[Tensor, pl.Series | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            name = _matrix_name(names, path)
            ids = pl.Series("id", file["ids"]) if "ids" in names else None
            return _from_numpy(file[name], path), ids
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable .npz file of numbers ({error}).") from error


def _read_pt(path: Path) -> tuple[Tensor, pl.Series | None]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds, down to RuntimeError and UnpicklingError
        raise DataError(
            f"{path} is not a .pt file of plain tensors, and nothing else in it is loaded: "
            "save the tensor itself, or {'features': tensor, 'ids': list}."
        ) from error
    if isinstance(content, Tensor):
        return content, None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a tensor or a dictionary of tensors.")
    values = content[_matrix_name({k for k in content if isinstance(k, str)}, path)]
    if not isinstance(values, Tensor):
        raise DataError(f"{path} holds a {type(values).__name__} where a tensor of features should be.")
    ids = content.get("ids")
    if isinstance(ids, Tensor):
        ids = ids.numpy()
    return values, None if ids is None else pl.Series("id", ids)


def _read_safetensors(path: Path) -> tuple[Tensor, pl.Series | None]:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            values = file.get_tensor(_matrix_name(names, path))
            ids = pl.Series("id", file.get_tensor("ids").numpy()) if "ids" in names else None
            return values, ids
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a readable .safetensors file ({error}).") from error


def _read_parquet(path: Path, id_column: str | None) -> tuple[Tensor, pl.Series | None]:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}).") from error
    if frame.width < 2:
        raise DataError(f"{path} has to hold an item-ID column and at least one column of features.")
    id_column = id_column or frame.columns[0]
    if id_column not in frame.columns:
        raise DataError(f"{path} has no column {id_column!r}: its columns are {', '.join(frame.columns)}.")
    ids, rest = frame[id_column], frame.drop(id_column)
    for column in rest.iter_columns():
        if column.null_count():
            raise DataError(
                f"{path} has no value in column {column.name!r}, row {int(column.is_null().arg_max() or 0)}."
            )
    column = rest.to_series(0)
    if rest.width == 1 and isinstance(column.dtype, (pl.List, pl.Array)):
        if column.dtype.inner is None or not column.dtype.inner.is_numeric():
            raise DataError(f"Column {column.name!r} of {path} holds no numbers but {column.dtype}.")
        if isinstance(column.dtype, pl.List):
            lengths = column.list.len()
            if lengths.n_unique() != 1:
                raise DataError(f"The vectors in column {column.name!r} of {path} are not all of one length.")
            column = column.list.to_array(int(lengths[0]))
        return _from_numpy(column.to_numpy(), path), ids
    texts = [c.name for c in rest.iter_columns() if not c.dtype.is_numeric()]
    if texts:
        raise DataError(f"Column {texts[0]!r} of {path} holds no numbers: name the item-ID column, or drop it.")
    return _from_numpy(rest.to_numpy(), path), ids


def _matrix_name(names: set[str], path: Path) -> str:
    names = names - {"ids"}
    if "features" in names:
        return "features"
    if len(names) == 1:
        return names.pop()
    raise DataError(f"{path} holds {sorted(names)}: name the matrix of features 'features'.")


def _from_numpy(array: np.ndarray, path: Path) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path} holds {array.dtype}, not numbers.")
    if array.dtype.byteorder == ">" or not array.flags.writeable or array.dtype.kind == "u":
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array) if any(s < 0 for s in array.strides) else array)


def row_blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields ``(first_row, rows)`` in float32, in blocks that bound the memory a mapped matrix takes."""
    size = max(1, _BLOCK_BYTES // (4 * max(1, x.size(1))))
    for start in range(0, len(x), size):
        yield start, x[start : start + size].float()


def check_features(x: Tensor, source: str) -> None:
    """Raises :class:`DataError` unless ``x`` is a finite, non-empty float matrix without zero rows."""
    if x.dim() != 2 or x.size(1) == 0 or not x.is_floating_point():
        raise DataError(
            f"{source} has to be a floating-point matrix of one row an item, got {x.dtype} of shape {tuple(x.shape)}."
        )
    for start, rows in row_blocks(x):
        bad = ~rows.isfinite()
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            raise DataError(
                f"{source} holds {rows[row, column].item()} in row {start + row}, column {column}: "
                "features have to be finite numbers."
            )
        if (zero := ~rows.any(dim=1)).any():
            raise DataError(
                f"{source} is all zeros in row {start + int(zero.nonzero()[0])} (rows count from 0), a vector "
                "without direction: give the item features, leave its row out, or treat such rows as missing "
                "(--zero-features missing)."
            )


def zero_rows(x: Tensor) -> Tensor:
    """Which rows of ``x`` are all zeros, shape ``(num_rows,)``."""
    return torch.cat([~rows.any(dim=1) for _, rows in row_blocks(x)])


def fill_missing_rows(x: Tensor, mask: Tensor, name: str) -> Tensor:
    """A copy of ``x`` whose rows outside of ``mask`` hold the mean of the rows inside."""
    if mask.shape != x.shape[:1]:
        raise DataError(f"The mask of {name} has {len(mask)} entries for {len(x)} rows.")
    if mask.all():
        return x
    if not mask.any():
        raise DataError(f"No item has features in {name}: leave the modality out.")
    total = torch.zeros(x.size(1), dtype=torch.float64)
    for start, rows in row_blocks(x):
        total += rows[mask[start : start + len(rows)]].sum(dim=0, dtype=torch.float64)
    filled = x.clone()
    filled[~mask] = (total / mask.sum()).to(x.dtype)
    return filled
