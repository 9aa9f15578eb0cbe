"""The form in which LATTICE and MMSSL publish interactions: one JSON file per split, with the items of each user."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg.data.ids import canonical_ids, missing_ids
from lirdrec_pyg.data.splits import TEST, TRAIN, VAL
from lirdrec_pyg.data.tables import is_file
from lirdrec_pyg.errors import DataError, first_line

SPLIT_FILES = {"train.json": TRAIN, "val.json": VAL, "test.json": TEST}


def is_lattice(folder: Path) -> bool:
    """Return whether ``folder`` holds LATTICE's form."""
    return all(is_file(folder / name) for name in SPLIT_FILES) and not any(folder.glob("*.inter"))


def read_lattice(folder: Path) -> pl.DataFrame:
    """Read the interactions, ``user``, ``item`` and ``label``, from files such as ``{"0": [3, 8], "1": []}``."""
    frame = pl.concat([_read_split(folder / name, label) for name, label in SPLIT_FILES.items()])
    return frame.with_columns(
        canonical_ids(frame[role], f"The list of {role}s in {folder}").alias(role) for role in ("user", "item")
    )


def _read_split(path: Path, label: int) -> pl.DataFrame:
    try:
        content = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_without_repetition)
        if not isinstance(content, dict) or not all(
            isinstance(items, list) and all(type(item) in (int, str) for item in items) for items in content.values()
        ):
            raise ValueError("it holds something else")
        pairs = [(user, str(item)) for user, items in content.items() for item in items]
        user, item = zip(*pairs) if pairs else ((), ())
        frame = pl.DataFrame({"user": user, "item": item}, {"user": pl.String, "item": pl.String})
        if any(missing_ids(frame[role]).any() for role in ("user", "item")):
            raise ValueError("an ID is empty")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f'{path} is not JSON with the items of each user, such as {{"0": [3, 8]}} ({first_line(error)}).'
        ) from error
    return frame.with_columns(label=pl.lit(label, pl.Int8))


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a user twice")
    return found
