"""IDs: their types, what is wrong with them, and lists of them."""

import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lirdrec_pyg.data import Vocabulary, read_ids
from lirdrec_pyg.data.ids import canonical_ids, check_ids, damaged_ids, warn_of_damaged_ids, warn_of_look_alikes


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
def test_only_canonical_integers_become_integers(ids: Any, canonical: list[Any]) -> None:
    result = canonical_ids(pl.Series("id", ids), "here")
    assert result.to_list() == canonical
    assert result.dtype == (pl.Int64 if isinstance(canonical[0], int) else pl.String)


def test_ids_are_integers_or_text(refuses: Any) -> None:
    for ids in ([1.0, 2.0], [True, False], [b"a"], [[1]]):
        with refuses("Column 'sku'", "integers or text"):
            canonical_ids(pl.Series("id", ids), "Column 'sku'")


def test_a_list_has_one_id_per_line(tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "ids.txt"
    with refuses(f"`users` is {path}", "not a readable"):
        read_ids(path, "users")
    lists: dict[str, list[Any]] = {
        "3\n1\n2": [3, 1, 2],
        "\ufeff3\r\n1\r\n\r\n\r\n": [3, 1],
        "007\n7\n": ["007", "7"],
        "ü 1\nb\n": ["ü 1", "b"],
        "2\n1\n2\n": [2, 1, 2],
    }
    for content, ids in lists.items():
        path.write_bytes(content.encode())
        found = read_ids(path, "users")
        assert found.to_list() == ids
        assert found.dtype == (pl.Int64 if isinstance(ids[0], int) else pl.String)
    path.write_bytes(b"\xff\xfe\xe9")
    with refuses(f"`users` is {path}", "not a readable"):
        read_ids(path, "users")
    path.write_bytes(b"a\n\nb")
    with refuses(path, "line 2"):
        read_ids(path, "users")


HEADERS: dict[str, tuple[list[Any], str | None]] = {
    "item_id\n3\n1\n": ([3, 1], "item_id"),
    "ID\r\n007\r\n7\r\n": (["007", "7"], "ID"),
    "product_id\n3\n": ([3], "product_id"),
    '"item_id"\n"a,1"\n"b ""2"""\n': (["a,1", 'b "2"'], "item_id"),
    "item_id,\n3,\n1,\n": ([3, 1], "item_id"),
    "title;item_id\nRed;3\nBlue;1\n": ([3, 1], "item_id"),
    ",item_id\n0,a\n1,b\n": (["a", "b"], "item_id"),
    # Without a header.
    "3,\n1,\n": ([3, 1], None),
    '"a"\r\n"b"\r\n': (["a", "b"], None),
    "a,b\nc\n": (["a,b", "c"], None),
    '5" disk\n"x\ny\n': (['5" disk', '"x', "y"], None),
    "david\nsolid\n": (["david", "solid"], None),
}


@pytest.mark.parametrize("content", HEADERS)
def test_headers_and_quotes_of_lists_are_no_ids(content: str, tmp_path: Path, refuses: Any) -> None:
    ids, header = HEADERS[content]
    path = tmp_path / "ids.csv"
    path.write_bytes(content.encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_ids(path, "candidates").to_list() == ids
    messages = [str(warning.message) for warning in caught]
    assert messages == (
        [] if header is None else [f"The first line of {path} is used as a header ({header!r}), not as an ID."]
    )


@pytest.mark.filterwarnings("ignore:The first line")
def test_blank_lines_of_lists_with_a_header_are_named(tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "users.txt"
    path.write_text("user_id\na\n \nb\n")
    with refuses(path, "line 3"):
        read_ids(path, "users_file")


def test_ids_that_a_spreadsheet_rewrote_are_recognized() -> None:
    damaged = [
        "4.00638E+12",
        "4,00638E+12",
        "4e+12",
        "4.00638e12",
        "4,006,381",
        "4.006.381",
        "4 006 381",
        "5.0",
        "5,00",
    ]
    damaged += ["12-Mar", "Mar-05", "#####", "#REF!", "-5.0", "4\u00a0006"]
    fine = ["4006381", "007", "12e45", "1e10", "1.5", "B00-12", "2020-01-01", "10.1", "sku-1", "may", "12,3456"]
    assert damaged_ids(pl.Series(damaged)).all()
    assert not damaged_ids(pl.Series(fine)).any()
    with pytest.warns(UserWarning, match="15 of the 26 user IDs look rewritten, such as '4.00638E\\+12'"):
        warn_of_damaged_ids(pl.Series(damaged + fine), "user")


def test_damage_is_the_cause_of_repeated_ids(refuses: Any) -> None:
    with refuses("'4.00638E+12' more than once", "spreadsheet", "Export the IDs as text"):
        check_ids(pl.Series(["a", "4.00638E+12", "4.00638E+12"]), "x.npz")


def test_ids_that_look_alike_are_named() -> None:
    ids = pl.Series(["a", "A", "é", "e\u0301", "b", "b\u00a0", "c"])
    for known, text in {
        ("a", "b", "c"): "2 item IDs differ from others only in spaces.*'b\\\\xa0' and 'b'. Pass `strip_ids=True`",
        ("a", "c"): "1 item IDs differ from others only in capitals or accents, such as 'A' and 'a'. Write them alike",
        ("é",): "only in capitals or accents, such as",
    }.items():
        with pytest.warns(UserWarning, match=text):
            warn_of_look_alikes(ids, pl.Series(known), "item")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_look_alikes(ids, pl.Series(["c", "d"]), "item")
        warn_of_look_alikes(pl.Series([1, 2]), pl.Series([1, 2]), "item")


def test_unknown_ids_come_with_a_known_one() -> None:
    known = pl.Series(["7", "5.0", "012", " x", "Abc"])
    for unknown, like in {"5": "5.0", "12": "012", "x": " x", "ABC": "Abc", "zzz": "7"}.items():
        assert Vocabulary(known, "user").hint(pl.Series(["?", unknown])) == f"Known users look like {like!r}."
    assert Vocabulary(pl.Series([30, 7]), "item").hint(pl.Series(["007"])) == "Known items look like 7."
    assert Vocabulary(pl.Series([], dtype=pl.Int64), "item").hint(pl.Series(["007"])) == ""
