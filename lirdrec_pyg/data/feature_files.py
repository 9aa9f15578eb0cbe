"""Feature files: one reader per format, none of which executes anything in a file.

A feature file holds one row per item. It identifies the items in one of two ways: by IDs
of its own (Parquet with an ID column; ``.npz``, ``.pt`` and ``.safetensors`` with an entry ``ids``), or
by position, and then row ``r`` belongs to the ``r``-th line of a list of item IDs or, without one, to
the item with the integer ID ``r``.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lirdrec_pyg.data.features import FEATURE_SUFFIXES, FeatureTable
from lirdrec_pyg.data.tables import check_decompressed, is_file, read_parquet
from lirdrec_pyg.errors import DataError, first_line, listed

# Before 1.6, PyTorch wrote five pickles: a magic number, its version, the system, the object and the storage keys.
_OLD_PT_PICKLES, _MAX_NAME = 5, 1000


def read_features(path: Path, id_column: str | None = None) -> FeatureTable:
    """Read a feature file; nothing in it is ever executed.

    Args:
        path: ``.npy`` (memory-mapped); ``.npz``, ``.pt`` or ``.safetensors`` holding one matrix, or an
            entry ``features`` beside an entry ``ids``; or ``.parquet`` with an item-ID column and
            a list column ``features``, or one list column, or only numeric columns.
        id_column: name of the ID column in Parquet, see :meth:`FeatureTable.from_frame`.

    Raises:
        DataError: if the file cannot be read, or holds no matrix of numbers.
    """
    if not is_file(path):
        raise DataError(f"Feature file {path} does not exist.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return FeatureTable.from_frame(read_parquet(path), id_column, str(path))
    readers: dict[str, Callable[[Path], tuple[Any, Any]]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".pt": _read_pt,
        ".safetensors": _read_safetensors,
    }
    if suffix not in readers:
        raise DataError(f"{path} has an unknown suffix. Feature files are {', '.join(FEATURE_SUFFIXES)}.")
    return FeatureTable.of(*readers[suffix](path), str(path))


def _read_npy(path: Path) -> tuple[np.ndarray, None]:
    try:
        # Copy-on-write: pages are read when needed, and torch gets the writable array it requires.
        return np.lib.format.open_memmap(path, mode="c"), None
    except Exception as error:  # a damaged header raises nearly anything
        raise DataError(f"{path} is not a readable .npy file of numbers ({_reason(error)}).") from error


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            check_decompressed(path, size, "Save real features with numpy.savez, which does not compress")
            names = set(file.files)
            return file[_matrix_name(names, path)], file["ids"] if "ids" in names else None
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise DataError(f"{path} is not a readable .npz file of numbers ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    """Return the message of NumPy, unless it advises to load pickled objects."""
    if "object" in str(error).lower():
        return "it has an array of Python objects, which is never loaded: save numbers, and IDs by astype(str)"
    return first_line(error)


def _read_pt(path: Path) -> tuple[Tensor, Any]:
    try:
        # Only the zip format can be mapped; PyTorch before 1.6 wrote another.
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise DataError(f"{path} was compressed after it was saved. Save it with torch.save.")
                for name in archive.namelist():
                    if name.endswith("data.pkl"):
                        with archive.open(name) as file:
                            _check_names(file, 1)
        else:
            with path.open("rb") as file:
                _check_names(file, _OLD_PT_PICKLES)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except DataError:
        raise
    except Exception as error:  # torch raises many kinds, down to RuntimeError and UnpicklingError
        raise DataError(
            f"{path} is not a .pt file of plain tensors, and nothing else is loaded. "
            "Save the tensor itself, or {'features': tensor, 'ids': list}."
        ) from error
    if isinstance(content, Tensor):
        return content, None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a tensor or a dictionary of tensors.")
    values = content[_matrix_name({k for k in content if isinstance(k, str)}, path)]
    if not isinstance(values, Tensor):
        raise DataError(f"{path} holds a {type(values).__name__} instead of a tensor of features.")
    return values, content.get("ids")


def _check_names(file: IO[bytes], count: int) -> None:
    """Refuse ``count`` consecutive pickles if one requests a very long name; torch takes hours to format its error."""
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL" and len(str(argument)) > _MAX_NAME:
                raise pickle.UnpicklingError(f"it requests a name of {len(str(argument))} letters")


def _read_safetensors(path: Path) -> tuple[Tensor, Tensor | None]:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            return file.get_tensor(_matrix_name(names, path)), file.get_tensor("ids") if "ids" in names else None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a readable .safetensors file ({first_line(error)}).") from error


def _matrix_name(names: set[str], path: Path) -> str:
    names = names - {"ids"}
    if "features" in names:
        return "features"
    if len(names) == 1:
        return names.pop()
    raise DataError(f"{path} holds [{listed(sorted(names))}]. Name the matrix of features 'features'.")


def read_feature_files(files: Mapping[str, Path], item_column: str | None = None) -> dict[str, FeatureTable]:
    """Read the file of each modality; Parquet files may have their IDs in the ``item_column`` of the interactions."""
    tables = {}
    for modality, file in files.items():
        if item_column is not None and file.suffix.lower() == ".parquet" and is_file(file):
            frame = read_parquet(file)
            column = item_column if item_column in frame.columns else None
            tables[modality] = FeatureTable.from_frame(frame, column, str(file))
        else:
            tables[modality] = read_features(file)
    return tables
