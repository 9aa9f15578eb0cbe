"""Feature matrices: reading them in any of the supported formats, and checking them.

A feature file holds one row an item. It says which item a row belongs to in one of two ways: by IDs
of its own (Parquet with an ID column; ``.npz``, ``.pt`` and ``.safetensors`` with an entry ``ids``), or
by position, and then row ``r`` belongs to the ``r``-th line of a list of item IDs or, without one, to
the item whose integer ID is ``r``.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lirdrec_pyg.data.tables import (
    canonical_ids,
    check_ids,
    check_unpacked,
    find_column,
    first_line,
    is_file,
    listed,
    read_parquet,
    shortened,
    shown,
)
from lirdrec_pyg.errors import DataError

FEATURE_SUFFIXES = (".npy", ".npz", ".pt", ".safetensors", ".parquet")

# Before 1.6, PyTorch wrote a magic number, its version, the system, the object and the keys of the storages.
_OLD_PT_PROGRAMS, _MAX_NAME = 5, 1000

_BLOCK_BYTES = 64 * 2**20
_WAY_OUT = "give the item features, leave its row out, or treat such rows as missing (--zero-features missing)"


@dataclass(frozen=True)
class FeatureTable:
    """Features of one modality as a file has them.

    Attributes:
        values: shape ``(num_rows, d_m)``, floating point, memory-mapped where the format allows it.
        ids: the item ID of each row, int64 or strings, or ``None`` if rows go by position.
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
            entry ``features`` beside an entry ``ids``; or ``.parquet`` with an item-ID column and
            beside it a list column ``features``, or one list column, or only numeric columns.
        id_column: name of the ID column in Parquet; by default it is found by a usual name such as ``item_id``, or
            by being the only column of text, or the only one beside a list column.

    Raises:
        DataError: if the file can't be read, or holds no matrix of numbers.
    """
    readers: dict[str, Callable[[Path], tuple[Tensor, pl.Series | None]]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".pt": _read_pt,
        ".safetensors": _read_safetensors,
    }
    if not is_file(path):
        raise DataError(f"There is no feature file {path}.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        values, ids = _read_parquet(path, id_column)
    elif reader := readers.get(suffix):
        values, ids = reader(path)
    else:
        raise DataError(f"{path} has an unknown ending: features are read from {', '.join(FEATURE_SUFFIXES)}.")

    if (
        values.is_nested
        or values.layout != torch.strided
        or values.is_complex()
        or values.is_quantized
        or values.is_meta
    ):
        raise DataError(f"{path} holds no plain matrix of real numbers: save a dense floating-point tensor.")
    if values.numel() * values.element_size() > values.untyped_storage().nbytes():
        # A file of one number could otherwise claim to hold more than any memory does.
        raise DataError(
            f"{path} holds a view that repeats its entries, of shape {tuple(values.shape)}: save a tensor of its own, "
            "such as x.contiguous()."
        )
    if values.dim() != 2 or values.numel() == 0:
        raise DataError(f"{path} has to hold a matrix of one row an item, but its shape is {tuple(values.shape)}.")
    values = values.detach()
    if values.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        values = values.float()
    if ids is not None:
        ids = canonical_ids(ids, source=f"The item-ID column of {path}")
        if len(ids) != len(values):
            raise DataError(f"{path} has {len(ids)} item IDs for {len(values)} rows.")
        check_ids(ids, source=str(path))
    return FeatureTable(values, ids, source=str(path))


def _as_ids(ids: Any, path: Path, values: Tensor) -> pl.Series | None:
    if ids is None:
        return None
    try:
        # First, since a list of IDs may claim any length.
        if values.dim() and len(ids) != len(values):
            raise DataError(f"{path} has {len(ids)} item IDs for {len(values)} rows.")
        return pl.Series("id", ids.numpy() if isinstance(ids, Tensor) else ids)
    except DataError:
        raise
    except (TypeError, ValueError, RuntimeError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"The item IDs in {path} are no list of integers or of texts ({first_line(error)}).") from error


def _reason(error: Exception) -> str:
    """What an error of NumPy says, but of objects that it could be told to load."""
    if "object" in str(error).lower():
        return "it has an array of Python objects, which is never loaded: save numbers, and IDs by astype(str)"
    return first_line(error)


def _read_npy(path: Path) -> tuple[Tensor, None]:
    try:
        # Copy-on-write: pages are read when needed, and torch gets the writable array it asks for.
        array = np.lib.format.open_memmap(path, mode="c")
    except Exception as error:  # a damaged header raises nearly anything
        raise DataError(f"{path} is not a readable .npy file of numbers ({_reason(error)}).") from error
    return _from_numpy(array, path), None


def _read_npz(path: Path) -> tuple[Tensor, pl.Series | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            check_unpacked(path, size, "if it holds features, save them with numpy.savez, which packs nothing")
            names = set(file.files)
            array = file[_matrix_name(names, path)]
            ids = file["ids"] if "ids" in names else None
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise DataError(f"{path} is not a readable .npz file of numbers ({_reason(error)}).") from error
    values = _from_numpy(array, path)
    return values, _as_ids(ids, path, values)


def _check_names(file: IO[bytes], count: int) -> None:
    """Refuses ``count`` pickles, one after the other, that ask for a name longer than any: torch would refuse it too,
    but takes hours over the message if the name is long."""
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL" and len(str(argument)) > _MAX_NAME:
                raise pickle.UnpicklingError(f"it asks for a name of {len(str(argument))} letters")


def _read_pt(path: Path) -> tuple[Tensor, pl.Series | None]:
    try:
        # Only the zip form can be mapped; PyTorch before 1.6 wrote another.
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise DataError(f"{path} was packed after it was saved: unpack it, or save it with torch.save.")
                for name in archive.namelist():
                    if name.endswith("data.pkl"):
                        with archive.open(name) as program:
                            _check_names(program, 1)
        else:
            with path.open("rb") as program:
                _check_names(program, _OLD_PT_PROGRAMS)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except DataError:
        raise
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
    return values, _as_ids(content.get("ids"), path, values)


def _read_safetensors(path: Path) -> tuple[Tensor, pl.Series | None]:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            values = file.get_tensor(_matrix_name(names, path))
            ids = file.get_tensor("ids") if "ids" in names else None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a readable .safetensors file ({first_line(error)}).") from error
    return values, _as_ids(ids, path, values)


def _read_parquet(path: Path, id_column: str | None) -> tuple[Tensor, pl.Series | None]:
    frame = read_parquet(path)
    if frame.is_empty():
        raise DataError(f"{path} holds no rows.")
    if frame.width < 2:
        raise DataError(f"{path} has to hold an item-ID column and at least one column of features.")
    if id_column is None:
        id_column = _find_id_column(frame, path)
    elif id_column not in frame.columns:
        raise DataError(f"{path} has no column {id_column!r}: its columns are {shortened(', '.join(frame.columns))}.")
    ids, rest = frame[id_column], frame.drop(id_column)
    if isinstance(rest.schema.get("features"), (pl.List, pl.Array)):
        rest = rest.select("features")
    for column in rest.iter_columns():
        if column.null_count():
            raise DataError(
                f"{path} has no value in column {shown(column.name)}, row {column.is_null().arg_max()} "
                "(rows count from 0): fill it in, or leave the row out."
            )
    column = rest.to_series(0)
    if rest.width == 1 and isinstance(column.dtype, (pl.List, pl.Array)):
        inner = column.dtype.inner
        if inner is None or not inner.is_numeric():
            raise DataError(f"{_described(column, path)}.")
        widths = {column.dtype.size} if isinstance(column.dtype, pl.Array) else set(column.list.len())
        if len(widths) != 1:
            raise DataError(f"The vectors in column {shown(column.name)} of {path} are not all of one length.")
        array = column.cast(pl.Array(inner if inner.is_float() else pl.Float32, widths.pop())).to_numpy()
        return _from_numpy(array, path), ids
    for column in rest.iter_columns():
        if not column.dtype.is_numeric():
            raise DataError(
                f"{_described(column, path)}: drop it, as every column beside the item IDs "
                f"(here {id_column!r}) is taken for features."
            )
    return _from_numpy(rest.select(c if c.dtype.is_float() else c.cast(pl.Float32) for c in rest).to_numpy(), path), ids


def _described(column: pl.Series, path: Path) -> str:
    return f"Column {shown(column.name)} of {path} holds no numbers but {shortened(str(column.dtype))}"


def _find_id_column(frame: pl.DataFrame, path: Path) -> str:
    """The column of item IDs. Its place says nothing: a count of photos may well come first."""
    if usual := find_column("item", frame.columns):
        return usual
    texts = [c.name for c in frame.iter_columns() if c.dtype in (pl.String, pl.Categorical, pl.Enum)]
    if len(texts) == 1:
        return texts[0]
    scalars = [c.name for c in frame.iter_columns() if not c.dtype.is_nested()]
    if frame.width == 2 and len(scalars) == 1:
        return scalars[0]
    raise DataError(
        f"{path} doesn't say which of its columns holds the item IDs ({listed(frame.columns)}): name it 'item_id'."
    )


def _matrix_name(names: set[str], path: Path) -> str:
    names = names - {"ids"}
    if "features" in names:
        return "features"
    if len(names) == 1:
        return names.pop()
    raise DataError(f"{path} holds [{listed(sorted(names))}]: name the matrix of features 'features'.")


def _from_numpy(array: np.ndarray, path: Path) -> Tensor:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise DataError(f"{path} holds {getattr(array, 'dtype', type(array).__name__)}, not numbers.")
    # torch knows neither foreign byte orders, long doubles nor all unsigned integers.
    if not array.dtype.isnative or not array.flags.writeable or array.dtype.kind == "u" or array.dtype.itemsize > 8:
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array) if any(s < 0 for s in array.strides) else array)


def row_blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields ``(first_row, rows)`` in float32, in blocks that bound the memory a mapped matrix takes."""
    size = max(1, _BLOCK_BYTES // (4 * max(1, x.size(1))))
    for start in range(0, len(x), size):
        yield start, x[start : start + size].float()


def check_matrix(x: Tensor, source: str) -> None:
    """Raises :class:`DataError` unless ``x`` is a non-empty float matrix."""
    if not isinstance(x, Tensor):
        raise DataError(f"{source} has to be a tensor, got {type(x).__name__}.")
    if x.dim() != 2 or x.size(1) == 0 or not x.is_floating_point():
        raise DataError(
            f"{source} has to be a floating-point matrix of one row an item, got {x.dtype} of shape {tuple(x.shape)}."
        )


def check_features(x: Tensor, source: str, used: Tensor | None = None) -> None:
    """Raises :class:`DataError` unless ``x`` is a finite, non-empty float matrix without zero rows.

    Args:
        x: feature matrix.
        source: where it came from.
        used: bool, the rows that matter; by default all of them.
    """
    check_matrix(x, source)
    for start, rows in row_blocks(x):
        bad, zero = ~_are_finite(rows), ~rows.any(dim=1)
        if used is not None:
            counts = used[start : start + len(rows)]
            bad, zero = bad & counts, zero & counts
        if bad.any():
            row = int(bad.nonzero()[0])
            if rows[row].isnan().all():
                raise DataError(f"{source} is all NaN in row {start + row} (rows count from 0): {_WAY_OUT}.")
            column = int((~rows[row].isfinite()).nonzero()[0])
            raise DataError(
                f"{source} holds {rows[row, column].item()} in row {start + row}, column {column}: "
                "features have to be finite numbers."
            )
        if zero.any():
            raise DataError(
                f"{source} is all zeros in row {start + int(zero.nonzero()[0])} (rows count from 0), a vector "
                f"without direction: {_WAY_OUT}."
            )


def blank_rows(x: Tensor) -> Tensor:
    """Which rows of ``x`` are all zeros or all NaN, shape ``(num_rows,)``."""
    return torch.cat([~rows.any(dim=1) | rows.isnan().all(dim=1) for _, rows in row_blocks(x)])


def finite_rows(x: Tensor) -> Tensor:
    """Which rows of ``x`` hold finite numbers only, shape ``(num_rows,)``."""
    return torch.cat([_are_finite(rows) for _, rows in row_blocks(x)])


def _are_finite(rows: Tensor) -> Tensor:
    finite = rows.sum(dim=1).isfinite()
    # The sum is many times as fast as to look at each number, but that of large ones may overflow.
    finite[~finite] = rows[~finite].isfinite().all(dim=1)
    return finite


def duplicate_rows(x: Tensor) -> Tensor:
    """Which rows of ``x`` are equal to one before, shape ``(num_rows,)``.

    They are compared by a hash of 64 bits, so that two of a million rows that differ are taken for equal with a
    probability below :math:`10^{-7}`.
    """
    hashes = pl.concat([pl.DataFrame(rows.numpy(), orient="row").hash_rows() for _, rows in row_blocks(x)])
    return torch.from_numpy(~hashes.is_first_distinct().to_numpy())


def fill_missing_rows(x: Tensor, mask: Tensor, name: str) -> Tensor:
    """A copy of ``x`` whose rows outside of ``mask`` hold the mean of the rows inside."""
    if mask.shape != x.shape[:1]:
        raise DataError(f"The mask of {name} has the shape {tuple(mask.shape)}, but there are {len(x)} rows.")
    if mask.all():
        return x
    if not mask.any():
        raise DataError(f"No item has features in {name}: leave the modality out.")
    filled = x.clone()
    filled[~mask] = mean_row(x, mask).to(x.dtype)
    return filled


def mean_row(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the rows of ``x`` inside of ``mask``, float64, shape ``(d_m,)``."""
    total = torch.zeros(x.size(1), dtype=torch.float64, device=x.device)
    for start, rows in row_blocks(x):
        kept = rows if mask is None else rows[mask[start : start + len(rows)]]
        total += kept.sum(dim=0, dtype=torch.float64)
    return total / (len(x) if mask is None else mask.sum())
