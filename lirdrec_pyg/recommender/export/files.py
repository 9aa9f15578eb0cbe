"""Write vectors and their IDs, and encoders, as files."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from lirdrec_pyg.config import check_choice
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.files import locked, replaced, save_tensors, whole_file
from lirdrec_pyg.recommender.export.frames import seen_lists, vector_frame
from lirdrec_pyg.recommender.export.onnx import ENCODER_FILES, check_encoders, save_encoders
from lirdrec_pyg.recommender.recommender import Recommender

ExportFormat = Literal["parquet", "npy", "safetensors", "onnx"]

# Of formats that share the files of IDs.
_VECTORS = ("vectors.safetensors", "user_vectors.npy", "item_vectors.npy", *ENCODER_FILES)
_NAMES = ("users.parquet", "items.parquet", "user_ids.npy", "item_ids.npy", *_VECTORS)


def export_vectors(recommender: Recommender, out: Path, format: ExportFormat, overwrite: bool = False) -> list[Path]:
    """Write the vectors of all users and items, with their IDs, for other programs.

    ==================  ======================================================================
    ``safetensors``     ``vectors.safetensors`` with ``user_vectors`` and ``item_vectors``, float32;
                        ``user_ids.npy`` and ``item_ids.npy``
    ``npy``             ``user_vectors.npy``, ``item_vectors.npy``, float32; ``user_ids.npy``, ``item_ids.npy``
    ``parquet``         ``users.parquet`` and ``items.parquet`` with the columns ``id`` and ``vector``; users also have
                        ``seen``, the IDs of their items, null for users without training interactions
    ``onnx``            the files of ``npy``, and the encoders of new items and new users, see :func:`save_encoders`
    ==================  ======================================================================

    The score of a user and an item is the dot product of their vectors.

    Args:
        recommender: recommender with vectors.
        out: folder, created if it does not exist.
        format: format of the files.
        overwrite: whether to replace files of an earlier export. They are set aside together and restored if one of the
            new ones cannot be written, so old and new files are never mixed.

    Returns:
        The written files.

    Raises:
        ConfigError: if the format is unknown, the model does not support it, or a package is missing.
        RunError: if a file cannot be written, or exists.
    """
    check_choice("format", format, ExportFormat)
    if format == "onnx":
        check_encoders(recommender)
    sides = {
        "user": (recommender.users.ids, recommender.user_vectors()),
        "item": (recommender.items.ids, recommender.item_vectors()),
    }
    writers: dict[str, Callable[[Path], object]] = {}
    for name, (ids, vectors) in sides.items():
        if format == "parquet":
            frame = vector_frame(ids, vectors)
            if name == "user":
                frame = frame.with_columns(seen_lists(recommender))
            writers[f"{name}s.parquet"] = frame.write_parquet
        else:
            writers[f"{name}_ids.npy"] = partial(_write_npy, _plain_array(ids))
        if format in ("npy", "onnx"):
            writers[f"{name}_vectors.npy"] = partial(_write_npy, vectors)
    if format == "safetensors":
        tensors = {f"{name}_vectors": torch.tensor(vectors) for name, (_, vectors) in sides.items()}
        writers["vectors.safetensors"] = partial(save_tensors, tensors)

    check_export_folder(out)
    with locked(out, _NAMES), tempfile.TemporaryDirectory() as encoders, ExitStack() as files:
        if format == "onnx":
            writers |= {name: partial(shutil.copyfile, Path(encoders, name)) for name in ENCODER_FILES}
        existing = [name for name in _NAMES if (out / name).exists()]
        if not overwrite and (same := [name for name in existing if name in writers]):
            raise RunError(f"{out / same[0]} exists. Pass another folder as `out`, or `overwrite=True`.")
        if format != "parquet" and (stale := [name for name in existing if name in _VECTORS and name not in writers]):
            raise RunError(
                f"{out / stale[0]} is of an earlier export, whose IDs would be replaced. Delete it, or pass another "
                "folder as `out`."
            )
        unfinished = [files.enter_context(whole_file(out / name)) for name in writers]
        if format == "onnx":
            save_encoders(recommender, Path(encoders))
        for write, path in zip(writers.values(), unfinished):
            write(path)
        with replaced(out, tuple(writers)):
            files.close()  # all of them appear, or none
    return [out / name for name in writers]


def check_export_folder(path: Path) -> None:
    """Raise :class:`RunError` if ``path`` is a file, or the folder of a run."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file. Export to a folder.")
    if (path / "versions.json").exists():
        raise RunError(f"{path} is the folder of a run. Export to another folder.")


def _plain_array(ids: pl.Series) -> np.ndarray:
    """Return integers, or text of fixed width: an array of objects could only be read by unpickling."""
    return ids.to_numpy() if ids.dtype.is_integer() else np.array(ids.to_list(), dtype=np.str_)


def _write_npy(array: np.ndarray, path: Path) -> None:
    array = np.ascontiguousarray(array)
    # np.save does not notice that the disk was full at the end of an array.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
