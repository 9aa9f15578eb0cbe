"""Layouts of data sets on disk: which files of a folder hold the interactions and the features."""

import os
import re
import warnings
from dataclasses import replace
from pathlib import Path

import polars as pl

from lirdrec_pyg.data.features import FEATURE_MARK, FEATURE_SUFFIXES
from lirdrec_pyg.data.ids import same_type
from lirdrec_pyg.data.interactions import (
    TABLE_SUFFIXES,
    ColumnConfig,
    Facts,
    parse_interactions,
    read_interactions,
)
from lirdrec_pyg.data.pickled_matrices import is_tiktok_raw, read_tiktok_raw
from lirdrec_pyg.data.provenance import PROVENANCE, REPORT
from lirdrec_pyg.data.splits import TEST, TRAIN, VAL, SplitStrategy
from lirdrec_pyg.data.tables import table_suffix
from lirdrec_pyg.data.user_lists import holds_user_lists, read_user_lists
from lirdrec_pyg.errors import DataError, listed

# Suffixes of tables that are only looked at if a folder has no others.
_RARE_SUFFIXES = (".jsonl", ".data", ".dat")
_PART_SUFFIXES = (*TABLE_SUFFIXES, *_RARE_SUFFIXES, ".json", ".txt")
_LABELS = {"train": TRAIN, "training": TRAIN, "valid": VAL, "validation": VAL, "val": VAL, "dev": VAL, "test": TEST}
_PART = re.compile(rf"(.*?[._-])?({'|'.join(_LABELS)})([._-].*)?")


def read_layout(path: Path, columns: ColumnConfig, split: SplitStrategy, facts: Facts) -> tuple[pl.DataFrame, Path]:
    """Read the interactions of a folder or file in any layout.

    A new layout needs a function that recognizes its folder, one that reads it, and a branch here.

    Returns:
        The interactions, and the file or folder that holds them.
    """
    if not os.path.exists(path):  # unlike Path.exists, also for a name that is too long
        raise DataError(f"{path} does not exist. Pass a file or folder as `data`, or `data='synthetic'`.")
    if path.is_dir() and is_tiktok_raw(path):
        return _parse(read_tiktok_raw(path), path, columns, split, facts), path
    if path.is_dir() and (parts := find_parts(path)):
        return _read_parts(parts, columns, split, facts), path
    source = find_table(path) if path.is_dir() else path
    beside = find_parts(source.parent)
    if source.name in (file.name for file in beside.values()):
        others = listed(file.name for file in beside.values() if file.name != source.name)
        warnings.warn(
            f"{source} is split as if {others} were not beside it. Pass the folder {source.parent} to use all of them.",
            stacklevel=2,
        )
    return _read_file(source, columns, split, facts), source


def _read_file(path: Path, columns: ColumnConfig, split: SplitStrategy, facts: Facts) -> pl.DataFrame:
    if columns.user_column is None and holds_user_lists(path):
        return _parse(read_user_lists(path), path, columns, split, facts)
    return read_interactions(path, columns, split, facts)


def _parse(frame: pl.DataFrame, path: Path, columns: ColumnConfig, split: SplitStrategy, facts: Facts) -> pl.DataFrame:
    """Parse a table of ``user``, ``item`` and, if present, ``label``."""
    # The column of items may be one of the features.
    columns = replace(columns, item_column=None, separator=None, header=True)
    return parse_interactions(frame.rename({"label": "x_label"}, strict=False), columns, split, str(path), facts)


def _read_parts(parts: dict[int, Path], columns: ColumnConfig, split: SplitStrategy, facts: Facts) -> pl.DataFrame:
    """Read one file per split."""
    frames = []
    for label, path in parts.items():
        # The labels are those of the files.
        frame = _read_file(path, columns, "none" if split in ("auto", "labels") else split, facts)
        if "label" in frame.columns and (frame["label"] != label).any():
            warnings.warn(f"The labels in {path} are not used, as its name tells the split.", stacklevel=2)
        frames.append(frame.with_columns(label=pl.lit(label, pl.Int8)))
    shared = [name for name in frames[0].columns if all(name in frame.columns for frame in frames)]
    ids = {role: same_type([frame[role] for frame in frames]) for role in ("user", "item")}
    frames = [frame.select(shared).with_columns(user, item) for frame, user, item in zip(frames, *ids.values())]
    return pl.concat(frames, how="vertical_relaxed")


def find_parts(folder: Path) -> dict[int, Path]:
    """Return the files of a folder that hold one split each, by label; ``{}`` if there are none.

    Their names differ in the name of the split only: ``train.csv``, ``valid.csv`` and ``test.csv``, or
    ``ml.train.inter`` and ``ml.test.inter``.
    """
    tables = _tables(folder, _PART_SUFFIXES)
    groups: dict[str, list[tuple[int, Path]]] = {}
    for path in tables:
        suffix = table_suffix(path)
        if found := _PART.fullmatch(path.name.lower().removesuffix(".gz").removesuffix(suffix)):
            others = f"{found[1] or ''}*{found[3] or ''}"
            # A text such as train_users.txt beside a table is a list of IDs.
            if suffix != ".txt" or others == "*" or not any(table_suffix(table) in TABLE_SUFFIXES for table in tables):
                groups.setdefault(others, []).append((_LABELS[found[2]], path))
    parts = {others: dict(sorted(group)) for others, group in groups.items() if len(dict(group)) == len(group) > 1}
    parts = {others: group for others, group in parts.items() if TRAIN in group}
    chosen = parts.get("*") or (next(iter(parts.values())) if len(parts) == 1 else {})
    # MMRec's table holds all splits.
    return {} if any(path.suffix == ".inter" and path not in chosen.values() for path in tables) else chosen


def find_table(folder: Path) -> Path:
    """Return the one table of interactions in a folder."""
    tables = _tables(folder, TABLE_SUFFIXES) or _tables(folder, _RARE_SUFFIXES) or _tables(folder, (".txt",))
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


def _tables(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder with one of ``suffixes``, except those of features."""
    own = {PROVENANCE, REPORT} if (folder / PROVENANCE).is_file() else set()
    return [
        path
        for path in _visible(folder)
        if table_suffix(path) in suffixes and not path.stem.endswith(FEATURE_MARK) and path.name not in own
    ]


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
        raise DataError(
            f"{folder} has no item features: no file is named MODALITY_feat.*, such as image_feat.npy. Rename the "
            "files, or pass them as `features`."
        )
    return found
