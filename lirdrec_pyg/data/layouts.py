"""Layouts of data sets on disk: which files of a folder hold the interactions and the features."""

import os
import warnings
from pathlib import Path

import polars as pl

from lirdrec_pyg.data.features import FEATURE_MARK, FEATURE_SUFFIXES
from lirdrec_pyg.data.interactions import ColumnConfig, is_table, read_interactions
from lirdrec_pyg.data.lattice import is_lattice, read_lattice
from lirdrec_pyg.data.pickled_matrices import is_tiktok_raw, read_tiktok_raw
from lirdrec_pyg.data.provenance import PROVENANCE, REPORT
from lirdrec_pyg.data.splits import SplitStrategy
from lirdrec_pyg.errors import DataError, listed


def read_layout(path: Path, columns: ColumnConfig, split: SplitStrategy) -> tuple[pl.DataFrame, Path]:
    """Read the interactions of a folder or file in any layout.

    A new layout needs a function that recognizes its folder, one that reads it, and a branch here.

    Returns:
        The interactions, and the file or folder that holds them.
    """
    if not os.path.exists(path):  # unlike Path.exists, also for a name that is too long
        raise DataError(f"{path} does not exist. Pass a file or folder as `data`, or `data='synthetic'`.")
    if path.is_dir() and is_tiktok_raw(path):
        frame, source = read_tiktok_raw(path), path
    elif path.is_dir() and is_lattice(path):
        frame, source = read_lattice(path), path
    else:
        source = find_table(path) if path.is_dir() else path
        frame = read_interactions(source, columns, split)
    if frame.is_empty():
        raise DataError(f"{source} holds no interactions.")
    return frame, source


def find_table(folder: Path) -> Path:
    """Return the one table of interactions in a folder."""
    report = {REPORT} if (folder / PROVENANCE).is_file() else set()
    tables = [p for p in _visible(folder) if is_table(p) and not p.stem.endswith(FEATURE_MARK) and p.name not in report]
    inters = [p for p in tables if p.suffix == ".inter"]
    # MMRec gives a folder and its table the same name.
    found = [p for p in inters if p.stem == folder.resolve().name] or inters or tables
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(
            f"{folder} has no table of interactions (.inter, .csv, .tsv or .parquet). Pass a table with another suffix "
            "as `data`."
        )
    raise DataError(f"{folder} has {len(found)} tables ({', '.join(p.name for p in found)}). Pass one as `data`.")


def _visible(folder: Path) -> list[Path]:
    """Return the files of a folder except hidden ones, such as macOS writes beside others (``._baby.inter``)."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def find_features(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that are named ``MODALITY_feat.*``, by modality.

    Raises:
        DataError: if there is none, or more than one of a modality.
    """
    found: dict[str, Path] = {}
    marked = [file for file in _visible(folder) if file.stem.endswith(FEATURE_MARK)]
    for file in marked:
        modality = file.stem.removesuffix(FEATURE_MARK)
        if modality and file.suffix.lower() in FEATURE_SUFFIXES:
            if modality in found:
                raise DataError(f"{folder} has both {found[modality].name} and {file.name}. Pass one as `features`.")
            found[modality] = file
    unread = [file.name for file in marked if file.stem.removesuffix(FEATURE_MARK) not in found]
    text = f"{folder} holds {listed(unread)}, but feature files are {', '.join(FEATURE_SUFFIXES)}."
    if unread and found:
        warnings.warn(f"{text} Only {listed([*found])} will be used.", stacklevel=2)
    elif unread:
        raise DataError(f"{text} Save them in one of these formats.")
    elif not found:
        raise DataError(f"{folder} has no item features. Put a MODALITY_feat.npy beside the table, or pass `features`.")
    return found
