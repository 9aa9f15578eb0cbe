"""Vocabularies."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lirdrec_pyg.data import Vocabulary

TEXT = pl.Series("id", ["007", "7", "B00Z", "täglich"])
NUMBERS = pl.Series("id", [30, -1, 7])


@pytest.mark.parametrize("ids", [TEXT, NUMBERS, NUMBERS.cast(pl.Int32)], ids=["text", "int64", "int32"])
def test_positions_and_ids_are_inverse_and_survive_a_file(ids: pl.Series, tmp_path: Path) -> None:
    vocabulary = Vocabulary(ids, "item")
    assert len(vocabulary) == len(ids)
    assert vocabulary.ids.to_list() == ids.to_list()
    assert vocabulary.positions(ids.reverse()).tolist() == list(range(len(ids)))[::-1]
    assert vocabulary.positions(ids).dtype == "int64"
    for name in ("items.parquet", "items[1].parquet"):
        vocabulary.save(tmp_path / name)
        loaded = Vocabulary.load(tmp_path / name, "item")
        assert loaded.ids.equals(ids)
        assert loaded.ids.dtype == ids.dtype
        assert repr(loaded) == f"Vocabulary({len(ids)} items, {ids.dtype})"


def test_find_compares_integers_and_text_by_their_text() -> None:
    for ids, wanted, found in [
        (TEXT, pl.Series(["7", "nobody", "007", "7"]), [1, -1, 0, 1]),
        (TEXT, pl.Series([7, 8]), [1, -1]),
        (NUMBERS, pl.Series(["7", "007", "7.0", "x"]), [2, -1, -1, -1]),
        (NUMBERS, pl.Series([7, 30], dtype=pl.UInt8), [2, 0]),
        (NUMBERS, pl.Series([7.5, 7.0]), [-1, -1]),
        (NUMBERS, pl.Series([None, 7]), [-1, 2]),
        (TEXT, pl.Series([None, "7"]), [-1, 1]),
        (NUMBERS, pl.Series([]), []),
    ]:
        assert Vocabulary(ids, "item").find(wanted).tolist() == found


def test_wrong_ids_are_named(refuses: Any) -> None:
    with refuses("no user", "'nobody'"):
        Vocabulary(TEXT, "user").positions(pl.Series(["7", "nobody"]))
    cases: list[tuple[list[Any], str]] = [
        (["a", "b", "a"], "'a' more than once"),
        ([1, None], "no ID in row 1"),
        (["", "a"], "no ID in row 0"),
    ]
    for ids, text in cases:
        with refuses("list of items", text):
            Vocabulary(pl.Series("id", ids), "item")


def test_unreadable_files_are_refused(tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "users.parquet"
    for content in (None, b"", b"PAR1 noise PAR1"):
        if content is not None:
            path.write_bytes(content)
        with refuses(path):
            Vocabulary.load(path, "user")
    pl.DataFrame({"name": ["a"]}).write_parquet(path)
    with refuses(path, "no column 'id'"):
        Vocabulary.load(path, "user")


@pytest.mark.parametrize(
    ("ids", "more", "extended"),
    [
        (NUMBERS, pl.Series([5, 6]), [30, -1, 7, 5, 6]),
        (NUMBERS, pl.Series("other", ["x", "5"]), ["30", "-1", "7", "x", "5"]),
        (TEXT, pl.Series([5, 6]), ["007", "7", "B00Z", "täglich", "5", "6"]),
        (TEXT, pl.Series(["x"]), ["007", "7", "B00Z", "täglich", "x"]),
        (NUMBERS, pl.Series([], dtype=pl.Int64), [30, -1, 7]),
    ],
)
def test_more_ids_follow_and_known_positions_stay(ids: pl.Series, more: pl.Series, extended: list[Any]) -> None:
    vocabulary = Vocabulary(ids, "item")
    longer = vocabulary.extended(more)
    assert longer.ids.to_list() == extended
    assert longer.kind == "item"
    assert longer.positions(ids).tolist() == list(range(len(ids)))
    assert len(vocabulary) == len(ids)


def test_a_known_id_is_not_added_again(refuses: Any) -> None:
    for more in (pl.Series([5, 7]), pl.Series(["x", "7"])):
        with refuses("list of items", "7", "more than once"):
            Vocabulary(NUMBERS, "item").extended(more)
