"""Feature files: one reader per format, none of which executes anything in a file.

A feature file holds one row per item. It identifies the items in one of two ways: by IDs of its own (tables with an ID
column; ``.npz``, ``.pt`` and ``.safetensors`` with an entry such as ``ids``, or one vector per ID), or by position. Row
``r`` then belongs to the ``r``-th line of a list of item IDs or, without one, to the item with the integer ID ``r``.
"""

import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
import torch
from safetensors import safe_open
from torch import Tensor

from lirdrec_pyg.data.column_names import USUAL_NAMES
from lirdrec_pyg.data.features import FEATURE_SUFFIXES, FEATURE_TABLES, FeatureTable
from lirdrec_pyg.data.tables import check_decompressed, is_file, read_parquet, read_table, table_suffix
from lirdrec_pyg.errors import DataError, first_line, listed

# Before 1.6, PyTorch wrote five pickles: a magic number, its version, the system, the object and the storage keys.
_OLD_PT_PICKLES, _MAX_NAME = 5, 1000
_PT_ADVICE = "Save the tensor itself, or {'features': tensor, 'ids': list}."

# Names of an entry with item IDs, in lower case, without spaces and marks, and without the s of a plural.
_ID_NAMES = {name.replace("_", "") for name in USUAL_NAMES["item"]} | {
    *("id", "key", "name", "index", "sku", "isbn", "product", "productid", "articleid", "movieid", "bookid", "trackid"),
    *("songid", "videoid", "newsid"),
}


def read_features(path: Path, id_column: str | None = None, is_optional: bool = False) -> FeatureTable:
    """Read a feature file; nothing in it is ever executed.

    Args:
        path: ``.npy`` (memory-mapped); ``.npz``, ``.pt`` or ``.safetensors`` with one matrix and perhaps an entry
            ``ids``, or one vector per ID; or a table, see :meth:`FeatureTable.from_frame`.
        id_column: name of the ID column of a table; by default it is recognized.
        is_optional: whether to recognize the ID column if none has this name.

    Raises:
        DataError: if the file cannot be read, or holds no matrix of numbers.
    """
    if not is_file(path):
        raise DataError(f"Feature file {path} does not exist.")
    suffix = path.suffix.lower()
    if table_suffix(path) in FEATURE_TABLES:
        frame, index = _read_parquet(path) if suffix == ".parquet" else (read_table(path), [])
        if is_optional and id_column not in frame.columns:
            id_column = None
        return FeatureTable.from_frame(frame, id_column, str(path), index)
    readers: dict[str, Callable[[Path], FeatureTable]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".pt": _read_pt,
        ".safetensors": _read_safetensors,
    }
    if suffix not in readers:
        raise DataError(f"{path} has an unknown suffix. Feature files are {', '.join(FEATURE_SUFFIXES)}.")
    try:
        return readers[suffix](path)
    except DataError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise DataError(f"{path} is not a readable {suffix} file of numbers ({_reason(error)}).") from error


def _read_parquet(path: Path) -> tuple[pl.DataFrame, list[str]]:
    """Return a table, and the columns that pandas' metadata call its index."""
    frame, index = read_parquet(path), []
    with suppress(LookupError, TypeError, ValueError, ArithmeticError, RecursionError):  # written by another program
        for entry in json.loads(pl.read_parquet_metadata(path)["pandas"])["index_columns"]:
            if isinstance(entry, dict) and entry["name"] is not None:
                # Integers with a constant step, such as IDs, are stored as a range.
                values = range(entry["start"], entry["stop"], entry["step"])
                entry = entry["name"]
                if len(values) == len(frame) and entry not in frame.columns:
                    frame = frame.with_columns(pl.Series(entry, values))
            if entry in frame.columns:
                index.append(entry)
    return frame, index


def _read_npy(path: Path) -> FeatureTable:
    # Copy-on-write: pages are read when needed, and torch gets the writable array it requires.
    return FeatureTable.of(np.lib.format.open_memmap(path, mode="c"), None, str(path))


def _read_npz(path: Path) -> FeatureTable:
    with np.load(path, allow_pickle=False) as file:
        size = sum(member.file_size for member in file.zip.infolist())
        check_decompressed(path, size, "Save real features with numpy.savez, which does not compress")
        return _from_entries(dict(file), str(path))


def _read_safetensors(path: Path) -> FeatureTable:
    with safe_open(path, framework="pt") as file:
        # Tensors hold no text, so IDs may be in the metadata.
        entries = {name: json.loads(text) for name, text in (file.metadata() or {}).items() if _is_id_name(name)}
        return _from_entries({**entries, **{name: file.get_tensor(name) for name in list(file.keys())}}, str(path))


def _reason(error: Exception) -> str:
    """Return the message of NumPy, unless it advises to load pickled objects."""
    if "object" in str(error).lower():
        return "it has an array of Python objects, which is never loaded: save numbers, and IDs by astype(str)"
    return first_line(error)


def _read_pt(path: Path) -> FeatureTable:
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
        if not isinstance(content, (Tensor, dict)):
            raise DataError(f"{path} holds a {type(content).__name__}, not a tensor. {_PT_ADVICE}")
        return _from_entries(content if isinstance(content, dict) else {"features": content}, str(path))
    except DataError:
        raise
    except Exception as error:  # torch raises many kinds, down to RuntimeError and UnpicklingError
        raise DataError(
            f"{path} is not a .pt file of plain tensors, and nothing else is loaded. {_PT_ADVICE}"
        ) from error


def _check_names(file: IO[bytes], count: int) -> None:
    """Refuse ``count`` consecutive pickles if one requests a very long name; torch takes hours to format its error."""
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL" and len(str(argument)) > _MAX_NAME:
                raise pickle.UnpicklingError(f"it requests a name of {len(str(argument))} letters")


def _from_entries(entries: Mapping[Any, Any], source: str) -> FeatureTable:
    """Use the matrix among ``entries`` with the IDs of its rows, or the vector of each ID."""
    ids = [name for name in entries if _is_id_name(name)]
    others = [name for name in entries if name not in ids] or [name for name in ids if _shape(entries[name])[1:]]
    ids = [name for name in ids if name not in others]
    if len(others) == 1 and len(ids) < 2:
        return FeatureTable.of(entries[others[0]], entries[ids[0]] if ids else None, source)
    shapes = {_shape(x) for x in entries.values()}
    if len(others) > 1 and not ids and len(shapes) == 1 and (shape := shapes.pop()) in (shape[-1:], (1, *shape[-1:])):
        rows = [FeatureTable.of(x.reshape(1, -1), None, f"{source}, entry {name!r},") for name, x in entries.items()]
        return FeatureTable.of(torch.cat([row.values for row in rows]), others, source)
    raise DataError(
        f"{source} holds {listed(map(str, entries))}. Name the matrix of features 'features' and the item IDs of its "
        "rows 'ids', and leave out everything else."
    )


def _is_id_name(name: Any) -> bool:
    return re.sub(r"[\W_]", "", str(name).lower()).removesuffix("s") in _ID_NAMES


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if isinstance(x, (Tensor, np.ndarray)) else ()


def read_feature_files(files: Mapping[str, Path], item_column: str | None = None) -> dict[str, FeatureTable]:
    """Read the file of each modality; tables may have their IDs in the ``item_column`` of the interactions."""
    return {modality: read_features(file, item_column, is_optional=True) for modality, file in files.items()}
