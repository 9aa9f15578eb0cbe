import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lirdrec_pyg.data.user_lists import holds_user_lists, read_user_lists

WANTED = [("0", "1"), ("0", "4"), ("2", "0")]
# Files with these interactions.
LISTS = {
    "train.json": '{"0": [1, 4], "1": [], "2": ["0"]}',
    "indented.json": json.dumps({"0": [1, 4], "2": [0]}, indent=2),
    "train.json.gz": '{"0": [1, 4], "2": [0]}',
    "train.txt": "0 1 4\n1 \n2 0\n",
    "train.txt.gz": "0 1 4\n2 0\n",
    "train.data": "0\t1\t4\r\n\r\n2\t0",
    "train.dat": "\ufeff0,1, 4\n2,0\n",
}


def write(path: Path, content: str | bytes) -> Path:
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_each_user_has_a_list_of_items(tmp_path: Path) -> None:
    for name, content in LISTS.items():
        path = write(tmp_path / name, content)
        assert holds_user_lists(path), name
        frame = read_user_lists(path)
        assert frame.schema == {"user": pl.String, "item": pl.String}
        assert frame.rows() == WANTED, name
    path = write(tmp_path / "train.txt", "ü 007 b\nanne c\n")
    assert holds_user_lists(path)
    assert read_user_lists(path).rows() == [("ü", "007"), ("ü", "b"), ("anne", "c")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.json", '{"user": 1, "item": 2}\n{"user": 2, "item": 3}\n'),
        ("train.json", '{"user": 1, "tags": ["a"]}'),
        ("split.json", '{"columns": ["user", "item"], "data": [[1, 2]]}'),
        ("train.txt", "1 2 5 160\n1 3 4 161\n2 2 5 162\n"),  # a user twice: columns
        ("train.txt", "user_id item_id\n1 2\n2 3\n"),
        ("train.txt", "anne lamp 4\nbert desk 5\n"),
        ("ids.txt", "1\n2\n3\n"),
        ("train.csv", "0,1,4\n2,0\n"),
        ("train.txt", ""),
    ],
)
def test_other_files_hold_no_lists(name: str, content: str, tmp_path: Path) -> None:
    assert not holds_user_lists(write(tmp_path / name, content))


def test_anything_but_the_items_of_users_is_refused(tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "train.json"
    for content in [
        *("", "{", "[]", "3", '{"0": 3}', '{"0": {"1": 2}}', '{"0": [1], "0": [2]}', '{"": [1]}', "[" * 100_000),
        *(f'{{"0": [{entry}]}}' for entry in ("1.5", "null", "true", "[1]", "NaN", '""', '"\\ud800"', "9" * 5000)),
        b'{"\xe9": [1]}',
    ]:
        with refuses(path, "items of each user"):
            read_user_lists(write(path, content))
