"""Writing what came out: tables in portions, and vectors with their IDs."""

import glob
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import torch

from lirdrec_pyg.config import ExportFormat
from lirdrec_pyg.data.files import whole_file
from lirdrec_pyg.data.tensors import save_tensors
from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.serving.recommender import Recommender

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
_PART_ROWS = 1_000_000


def check_table_path(path: Path) -> None:
    """Raises what :func:`write_table` would raise whatever the table holds; changes nothing."""
    if path.suffix not in TABLE_SUFFIXES:
        raise ConfigError(f"--out {path} has an unknown ending: tables are written as {', '.join(TABLE_SUFFIXES)}.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path} can't be written: name a file in a folder that exists.")


def write_table(frames: Iterable[pl.DataFrame], path: Path) -> int:
    """Writes frames of one schema as one table, ``.parquet``, ``.csv`` or ``.jsonl``, holding one at a time.

    The file appears once it is whole; one that was there before stays until then.

    Returns:
        The number of rows.

    Raises:
        ConfigError: if the ending of ``path`` is unknown, or its folder does not exist.
        RunError: if the file can't be written.
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
    # Polars appends to no Parquet file: parts are written, then streamed into one.
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
    """The same rows in frames of at least a million, so that there are few parts."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= _PART_ROWS:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


def export_vectors(recommender: Recommender, out: Path, form: ExportFormat) -> list[Path]:
    """Writes the vectors of all users and items, with their IDs, for use by other programs.

    ==================  ======================================================================
    ``safetensors``     ``vectors.safetensors`` with ``user_vectors`` and ``item_vectors``, float32;
                        ``user_ids.npy`` and ``item_ids.npy``
    ``npy``             ``user_vectors.npy``, ``item_vectors.npy``, float32; ``user_ids.npy``, ``item_ids.npy``
    ``parquet``         ``users.parquet`` and ``items.parquet`` with the columns ``id`` and ``vector``
    ==================  ======================================================================

    The score of a user and an item is the dot product of their vectors.

    Args:
        recommender: whose vectors.
        out: folder, which is made if it does not exist.
        form: format of the files.

    Returns:
        The files that were written.

    Raises:
        ConfigError: if the format is unknown.
        RunError: if a file can't be written, or is there already.
    """
    if form not in get_args(ExportFormat):
        raise ConfigError(f"--format is {form!r}: choose one of {', '.join(get_args(ExportFormat))}.")
    sides = {
        "user": (recommender.users.ids, recommender.user_vectors()),
        "item": (recommender.items.ids, recommender.item_vectors()),
    }
    writers: dict[str, Callable[[Path], object]] = {}
    if form == "parquet":
        for name, (ids, vectors) in sides.items():
            writers[f"{name}s.parquet"] = pl.DataFrame(
                {"id": ids, "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))}
            ).write_parquet
    else:
        for name, (ids, vectors) in sides.items():
            writers[f"{name}_ids.npy"] = _npy_writer(_plain_array(ids))
            if form == "npy":
                writers[f"{name}_vectors.npy"] = _npy_writer(vectors)
    if form == "safetensors":
        tensors = {f"{name}_vectors": torch.tensor(vectors) for name, (_, vectors) in sides.items()}
        writers["vectors.safetensors"] = lambda path: save_tensors(tensors, path)

    if existing := [name for name in writers if (out / name).exists()]:
        raise RunError(f"{out / existing[0]} is there already: name another folder with --out.")
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file: name a folder with --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} can't be made ({error}).") from error
    with ExitStack() as files:  # all of them take their places at the end, or none
        for name, write in writers.items():
            write(files.enter_context(whole_file(out / name)))
    return [out / name for name in writers]


def _plain_array(ids: pl.Series) -> np.ndarray:
    """Integers, or texts of fixed width: an array of objects could only be read by unpickling."""
    return ids.to_numpy() if ids.dtype.is_integer() else np.array(ids.to_list(), dtype=np.str_)


def _npy_writer(array: np.ndarray) -> Callable[[Path], None]:
    array = np.ascontiguousarray(array)

    def write(path: Path) -> None:
        # np.save does not notice that the end of an array found no place on the disk.
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)

    return write
