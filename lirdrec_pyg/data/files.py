"""Files that are there as a whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from safetensors import SafetensorError

from lirdrec_pyg.errors import RunError


@contextmanager
def whole_file(path: Path, unfinished: Path | None = None, flush: bool = True) -> Iterator[Path]:
    """A name to write under, which takes the place of ``path`` when all went well; what was there before stays
    until then.

    Args:
        path: of the file.
        unfinished: the name, on the same file system; by default one beside ``path`` that no other process has.
        flush: whether the file has to outlive a power cut, and not only a kill.

    Raises:
        RunError: if it can't be written.
    """
    unfinished = unfinished or path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            yield unfinished
            if flush:
                # Without this, the new name might be on the disk before the content when the power is cut.
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path} can't be written ({error}).") from error
