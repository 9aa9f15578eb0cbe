"""Write tables in portions, and vectors with their IDs."""

import glob
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from lirdrec_pyg.config import check_choice
from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.files import locked, replaced, save_tensors, whole_file
from lirdrec_pyg.recommender.recommender import Recommender

ExportFormat = Literal["safetensors", "parquet", "npy"]

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
_PART_ROWS = 1_000_000

# Of two formats that share the files of IDs.
_VECTORS = ("vectors.safetensors", "user_vectors.npy", "item_vectors.npy")
_NAMES = ("users.parquet", "items.parquet", "user_ids.npy", "item_ids.npy", *_VECTORS)


def check_table_path(path: Path) -> None:
    """Raise :class:`ConfigError` if :func:`write_table` cannot write to ``path``; change nothing."""
    if path.suffix not in TABLE_SUFFIXES:
        raise ConfigError(f"`out` is {path}. Tables are written as {', '.join(TABLE_SUFFIXES)} files.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"Cannot write {path}. Pass a file in an existing folder as `out`.")


def write_table(frames: Iterable[pl.DataFrame], path: Path) -> int:
    """Write frames of one schema as one table, ``.parquet``, ``.csv`` or ``.jsonl``, one at a time.

    The file appears once it is complete; an existing one stays until then.

    Returns:
        The number of rows.

    Raises:
        ConfigError: if the ending of ``path`` is unknown, or its folder does not exist.
        RunError: if the file cannot be written.
    """
    check_table_path(path)
    write = _write_parquet if path.suffix == ".parquet" else _write_text
    with whole_file(path) as unfinished:
        num_rows = write(frames, unfinished, path.suffix)
        if num_rows is None:
            raise RunError(f"There is nothing to write to {path}.")
        return num_rows


def _write_text(frames: Iterable[pl.DataFrame], path: Path, suffix: str) -> int | None:
    num_rows = None
    with path.open("wb") as file:
        for frame in frames:
            if suffix == ".csv":
                frame.write_csv(file, include_header=num_rows is None)
            else:
                frame.write_ndjson(file)
            num_rows = (num_rows or 0) + len(frame)
    return num_rows


def _write_parquet(frames: Iterable[pl.DataFrame], path: Path, _suffix: str) -> int | None:
    # Polars cannot append to a Parquet file: parts are written, then streamed into one.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.parts.") as parts:
        num_rows = None
        for number, frame in enumerate(_gathered(frames)):
            frame.write_parquet(Path(parts) / f"{number:08}.parquet")
            num_rows = (num_rows or 0) + len(frame)
        if num_rows is None:
            return None
        pl.scan_parquet(f"{glob.escape(parts)}/*.parquet").sink_parquet(path)
    return num_rows


def _gathered(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the same rows in frames of at least a million, so that there are few parts."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= _PART_ROWS:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


def export_vectors(recommender: Recommender, out: Path, format: ExportFormat, overwrite: bool = False) -> list[Path]:
    """Write the vectors of all users and items, with their IDs, for other programs.

    ==================  ======================================================================
    ``safetensors``     ``vectors.safetensors`` with ``user_vectors`` and ``item_vectors``, float32;
                        ``user_ids.npy`` and ``item_ids.npy``
    ``npy``             ``user_vectors.npy``, ``item_vectors.npy``, float32; ``user_ids.npy``, ``item_ids.npy``
    ``parquet``         ``users.parquet`` and ``items.parquet`` with the columns ``id`` and ``vector``
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
        ConfigError: if the format is unknown.
        RunError: if a file cannot be written, or exists.
    """
    check_choice("format", format, ExportFormat)
    sides = {
        "user": (recommender.users.ids, recommender.user_vectors()),
        "item": (recommender.items.ids, recommender.item_vectors()),
    }
    writers: dict[str, Callable[[Path], object]] = {}
    for name, (ids, vectors) in sides.items():
        if format == "parquet":
            column = pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
            writers[f"{name}s.parquet"] = pl.DataFrame({"id": ids, "vector": column}).write_parquet
        else:
            writers[f"{name}_ids.npy"] = _npy_writer(_plain_array(ids))
        if format == "npy":
            writers[f"{name}_vectors.npy"] = _npy_writer(vectors)
    if format == "safetensors":
        tensors = {f"{name}_vectors": torch.tensor(vectors) for name, (_, vectors) in sides.items()}
        writers["vectors.safetensors"] = lambda path: save_tensors(tensors, path)

    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file. Pass a folder as `out`.")
    if (out / "versions.json").exists():
        raise RunError(f"{out} is the folder of a run. Pass another folder as `out`.")
    with locked(out, _NAMES), ExitStack() as files:
        existing = [name for name in _NAMES if (out / name).exists()]
        if not overwrite and (same := [name for name in existing if name in writers]):
            raise RunError(f"{out / same[0]} exists. Pass another folder as `out`, or `overwrite=True`.")
        if format != "parquet" and (stale := [name for name in existing if name in _VECTORS and name not in writers]):
            raise RunError(
                f"{out / stale[0]} is of an earlier export, whose IDs would be replaced. Delete it, or pass another "
                "folder as `out`."
            )
        for name, write in writers.items():
            write(files.enter_context(whole_file(out / name)))
        with replaced(out, tuple(writers)):
            files.close()  # all of them appear, or none
    return [out / name for name in writers]


def _plain_array(ids: pl.Series) -> np.ndarray:
    """Return integers, or text of fixed width: an array of objects could only be read by unpickling."""
    return ids.to_numpy() if ids.dtype.is_integer() else np.array(ids.to_list(), dtype=np.str_)


def _npy_writer(array: np.ndarray) -> Callable[[Path], None]:
    array = np.ascontiguousarray(array)

    def write(path: Path) -> None:
        # np.save does not notice that the disk was full at the end of an array.
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)

    return write
