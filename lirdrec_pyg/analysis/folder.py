import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from lirdrec_pyg.data.files import whole_file
from lirdrec_pyg.errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)


class AnalysisFolder:
    """The folder of an analysis. Each file is written beside its place first, so that none is half-written.

    Figures need matplotlib; where it is missing, they are left out, and a warning says so at once.

    Args:
        path: folder, made when the first file is written.
        names: files that will be written.
        overwrite: whether they may replace earlier ones.

    Raises:
        RunError: if the folder can't be written, or holds one of the files.
    """

    def __init__(self, path: Path, names: tuple[str, ...], overwrite: bool = False) -> None:
        self.path = path
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise RunError(f"{path} can't be made, since {existing} is a file: name a folder with --out.")
        if not os.access(existing, os.W_OK):
            raise RunError(f"{path} can't be written: {existing} is read-only.")
        if not overwrite and (present := [name for name in names if (path / name).exists()]):
            raise RunError(f"{path / present[0]} exists: name another folder with --out, or pass --overwrite.")
        self._draws = find_spec("matplotlib") is not None
        if not self._draws:
            _log.warning("matplotlib is not installed, so there will be no figure: pip install 'lirdrec-pyg[plot]'.")

    def save_table(self, name: str, table: pl.DataFrame) -> None:
        """Writes a CSV file."""
        self._write(name, table.write_csv)

    def save_text(self, name: str, text: str) -> None:
        """Writes a text file."""
        self._write(name, lambda file: file.write_text(text + "\n", "utf-8"))

    def save_figure(self, name: str, draw: "Callable[[], Figure]") -> bool:
        """Writes what ``draw`` makes; ``False`` if there is no matplotlib to do so."""
        if self._draws:
            self._write(name, lambda file: draw().savefig(file, dpi=150))
        return self._draws

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        # With the ending, by which a figure's format is known.
        with whole_file(self.path / name, self.path / f".unfinished.{name}") as unfinished:
            self.path.mkdir(parents=True, exist_ok=True)
            write(unfinished)
