import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lirdrec_pyg.data.lattice import SPLIT_FILES, is_lattice, read_lattice

SPLITS: dict[str, dict[str, list[Any]]] = {
    "train.json": {"0": [1, 4], "2": [0]},
    "val.json": {"0": [], "2": [3]},
    "test.json": {"1": [3]},
}
WANTED = [(0, 1, 0), (0, 4, 0), (2, 0, 0), (2, 3, 1), (1, 3, 2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, items in SPLITS.items():
        (tmp_path / name).write_text(json.dumps(items))
    return tmp_path


def test_the_three_files_are_the_three_splits(folder: Path) -> None:
    assert is_lattice(folder)
    frame = read_lattice(folder)
    assert frame.schema == {"user": pl.Int64, "item": pl.Int64, "label": pl.Int8}
    assert frame.rows() == WANTED
    (folder / "shop.inter").write_text("")
    assert not is_lattice(folder)
    (folder / "shop.inter").unlink()
    (folder / "val.json").unlink()
    assert not is_lattice(folder)


def test_ids_are_text_if_one_in_any_split_is(folder: Path) -> None:
    (folder / "test.json").write_text('{"ü": ["007"]}')
    assert read_lattice(folder).rows() == [*((str(u), str(i), of) for u, i, of in WANTED[:-1]), ("ü", "007", 2)]


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_anything_but_the_items_of_users_is_refused(name: str, folder: Path, refuses: Any) -> None:
    for content in [
        *("", "{", "[]", "3", '{"0": 3}', '{"0": {"1": 2}}', '{"0": [1], "0": [2]}', '{"": [1]}', "[" * 100_000),
        *(f'{{"0": [{entry}]}}' for entry in ("1.5", "null", "true", "[1]", "NaN", '""', '"\\ud800"', "9" * 5000)),
        b'{"\xe9": [1]}',
    ]:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with refuses(folder / name, "items of each user"):
            read_lattice(folder)
