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
        lengths = write(frames, unfinished, path.suffix)
        if not lengths:
            raise RunError(f"There is nothing to write to {path}.")
        return sum(lengths)


def _write_text(frames: Iterable[pl.DataFrame], path: Path, suffix: str) -> list[int]:
    """Write ``frames``, and return their lengths."""
    lengths: list[int] = []
    with path.open("wb") as file:
        for frame in frames:
            if suffix == ".csv":
                frame.write_csv(file, include_header=not lengths)
            else:
                frame.write_ndjson(file)
            lengths.append(len(frame))
    return lengths


def _write_parquet(frames: Iterable[pl.DataFrame], path: Path, _suffix: str) -> list[int]:
    # Polars cannot append to a Parquet file: parts are written, then streamed into one.
    lengths: list[int] = []
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.parts.") as parts:
        for frame in _gathered(frames):
            frame.write_parquet(Path(parts) / f"{len(lengths):08}.parquet")
            lengths.append(len(frame))
        if lengths:
            pl.scan_parquet(f"{glob.escape(parts)}/*.parquet").sink_parquet(path)
    return lengths


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
