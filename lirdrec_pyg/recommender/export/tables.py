"""Write tables in portions."""

import glob
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.files import whole_file

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
_PART_ROWS = 1_000_000


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
