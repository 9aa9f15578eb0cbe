from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lirdrec_pyg.data import Vocabulary
from lirdrec_pyg.data.tables import canonical_ids

TEXT = pl.Series("id", ["007", "7", "B00Z", "täglich"])
NUMBERS = pl.Series("id", [30, -1, 7])


@pytest.mark.parametrize("ids", [TEXT, NUMBERS, NUMBERS.cast(pl.Int32)], ids=["text", "int64", "int32"])
def test_positions_and_ids_are_inverse(ids: pl.Series) -> None:
    vocabulary = Vocabulary(ids, "item")
    assert len(vocabulary) == len(ids)
    assert vocabulary.ids.to_list() == ids.to_list()
    assert vocabulary.positions(ids.reverse()).tolist() == list(range(len(ids)))[::-1]
    assert vocabulary.positions(ids).dtype == "int64"


@pytest.mark.parametrize(
    ("ids", "wanted", "found"),
    [
        (TEXT, pl.Series(["7", "nobody", "007", "7"]), [1, -1, 0, 1]),
        (TEXT, pl.Series([7, 8]), [1, -1]),
        (NUMBERS, pl.Series(["7", "007", "7.0", "x"]), [2, -1, -1, -1]),
        (NUMBERS, pl.Series([7, 30], dtype=pl.UInt8), [2, 0]),
        (NUMBERS, pl.Series([7.5, 7.0]), [-1, -1]),
        (NUMBERS, pl.Series([None, 7]), [-1, 2]),
        (TEXT, pl.Series([None, "7"]), [-1, 1]),
        (NUMBERS, pl.Series([]), []),
    ],
)
def test_find_takes_ids_for_what_they_are(ids: pl.Series, wanted: pl.Series, found: list[int]) -> None:
    assert Vocabulary(ids, "item").find(wanted).tolist() == found


def test_an_unknown_id_is_named(refuses: Any) -> None:
    with refuses("no user", "'nobody'"):
        Vocabulary(TEXT, "user").positions(pl.Series(["7", "nobody"]))


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (["a", "b", "a"], "'a' more than once"),
        ([1, None], "no ID in row 1"),
        (["", "a"], "no ID in row 0"),
    ],
)
def test_ids_are_unique_and_there(ids: list[Any], text: str, refuses: Any) -> None:
    with refuses("list of items", text):
        Vocabulary(pl.Series("id", ids), "item")


@pytest.mark.parametrize("ids", [TEXT, NUMBERS], ids=["text", "int64"])
@pytest.mark.parametrize("name", ["items.parquet", "items[1].parquet"])
def test_a_saved_vocabulary_comes_back(ids: pl.Series, name: str, tmp_path: Path) -> None:
    Vocabulary(ids, "item").save(tmp_path / name)
    loaded = Vocabulary.load(tmp_path / name, "item")
    assert loaded.ids.equals(ids)
    assert loaded.ids.dtype == ids.dtype
    assert repr(loaded) == f"Vocabulary({len(ids)} items, {ids.dtype})"


@pytest.mark.parametrize("content", [None, b"", b"PAR1 noise PAR1"], ids=["missing", "empty", "noise"])
def test_an_unreadable_file_is_refused(content: bytes | None, tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "users.parquet"
    if content is not None:
        path.write_bytes(content)
    with refuses(path):
        Vocabulary.load(path, "user")


def test_a_foreign_table_is_refused(tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "users.parquet"
    pl.DataFrame({"name": ["a"]}).write_parquet(path)
    with refuses(path, "no column 'id'"):
        Vocabulary.load(path, "user")


@pytest.mark.parametrize(
    ("ids", "canonical"),
    [
        (["0", "-1", "12"], [0, -1, 12]),
        (["007", "7"], ["007", "7"]),
        (["-0", "7"], ["-0", "7"]),
        (["+7", "8"], ["+7", "8"]),
        (["7 ", "8"], ["7 ", "8"]),
        (["7\n", "8"], ["7\n", "8"]),
        (["1e3", "8"], ["1e3", "8"]),
        (["٣", "8"], ["٣", "8"]),
        (["123456789012345678901234567890", "8"], ["123456789012345678901234567890", "8"]),
        (pl.Series([1, 2], dtype=pl.UInt64), [1, 2]),
        (pl.Series([1, 2**64 - 1], dtype=pl.UInt64), ["1", "18446744073709551615"]),
        (pl.Series([1, 2**100], dtype=pl.Int128), ["1", str(2**100)]),
        (pl.Series(["b", "a"], dtype=pl.Categorical), ["b", "a"]),
        (pl.Series(["2", "1"], dtype=pl.Enum(["1", "2"])), [2, 1]),
    ],
)
def test_only_what_survives_as_a_number_becomes_one(ids: Any, canonical: list[Any]) -> None:
    result = canonical_ids(pl.Series("id", ids), "here")
    assert result.to_list() == canonical
    assert result.dtype == (pl.Int64 if isinstance(canonical[0], int) else pl.String)


@pytest.mark.parametrize("ids", [[1.0, 2.0], [True, False], [b"a"], [[1]]])
def test_ids_are_integers_or_text(ids: list[Any], refuses: Any) -> None:
    with refuses("Column 'sku'", "integers or text"):
        canonical_ids(pl.Series("id", ids), "Column 'sku'")


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


@pytest.mark.parametrize("more", [pl.Series([5, 7]), pl.Series(["x", "7"])], ids=["number", "text"])
def test_a_known_id_does_not_follow_again(more: pl.Series, refuses: Any) -> None:
    with refuses("list of items", "7", "more than once"):
        Vocabulary(NUMBERS, "item").extended(more)
