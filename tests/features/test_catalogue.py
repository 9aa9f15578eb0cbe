import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_catalogue import write_catalogue

from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features import Catalogue
from lirdrec_pyg.features.catalogue import split_columns


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "c.csv") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_all_formats_hold_the_same(tmp_path: Path, suffix: str) -> None:
    path = write_catalogue(tmp_path / "shop", count=8, name=f"catalogue{suffix}")
    catalogue = Catalogue(path, "sku")
    assert catalogue.ids.to_list() == [f"item-{n:02}" for n in range(8)]
    texts = catalogue.texts(["title", "description"])
    assert len(texts) == 8
    assert texts.frame.row(0) == ("item-00", "A red chair, number 0")
    assert texts.frame.row(1) == ("item-01", "A green chair, number 1\nVery comfortable, in green")
    pictures = catalogue.files("picture", "--image-col")
    assert pictures.frame["entry"][2] == str(tmp_path / "shop" / "media" / "item-02.png")
    sounds = catalogue.files("sound", "--audio-col")
    assert sounds.missing.to_list() == ["item-07"]
    rows = io.StringIO()
    csv.writer(rows, lineterminator="\n").writerows(texts.frame.rows())
    assert texts.facts == {
        "file": f"catalogue{suffix}",
        "columns": ["title", "description"],
        "sha256": hashlib.sha256(rows.getvalue().encode()).hexdigest(),
    }


def test_ids_stay_as_they_are(write: Callable[..., Path]) -> None:
    assert Catalogue(write("id,t\n007,a\n8,b\n")).ids.to_list() == ["007", "8"]
    assert Catalogue(write("item_id,id,t\n7,x,a\n8,x,b\n")).ids.to_list() == [7, 8]
    assert Catalogue(write('{"id": 7, "t": "a"}\n{"id": 8, "t": null}\n', "c.jsonl")).ids.to_list() == [7, 8]


def test_quotes_in_a_table_with_tabs_are_part_of_the_texts(write: Callable[..., Path]) -> None:
    catalogue = Catalogue(write('id\tt\n1\t"Foo" bar\n2\ta "b" c\n3\t"x\n4\tplain\n', "c.tsv"))
    assert catalogue.texts(["t"]).frame.rows() == [(1, '"Foo" bar'), (2, 'a "b" c'), (3, '"x'), (4, "plain")]
    # A program that quotes does so in all of the table.
    quoted = Catalogue(write('id\tt\n1\t"two\nlines, ""quoted"""\n2\tplain\n', "quoted.tsv"))
    assert quoted.texts(["t"]).frame.rows() == [(1, 'two\nlines, "quoted"'), (2, "plain")]
    with pytest.raises(DataError, match="put a text with quotes into quotes"):
        Catalogue(write('id,t\n1,"Foo" bar\n2,b\n'))


@pytest.mark.parametrize("line", ["{'id': 2}", "[2]", '{"id": 2', "id,t", "\x00"])
def test_a_line_that_is_no_json_is_named(write: Callable[..., Path], line: str) -> None:
    with pytest.raises(DataError, match=r"Line 3 of .*c\.jsonl is not an object of JSON") as error:
        Catalogue(write(f'{{"id": 1, "t": "a"}}\n\n{line}\n{{"id": 3, "t": "c"}}\n', "c.jsonl"))
    assert "\n" not in str(error.value)


def test_what_is_a_text(write: Callable[..., Path]) -> None:
    rows = [{"id": 1, "t": ["a", None, "b"], "n": 3.5}, {"id": 2, "t": [], "n": None}, {"id": 3, "t": ["  "], "n": 1}]
    catalogue = Catalogue(write("\n".join(map(json.dumps, rows)), "c.jsonl"))
    assert catalogue.texts(["t", "n"]).frame.rows() == [(1, "a\nb\n3.5"), (3, "1.0")]
    assert catalogue.texts(["t"]).frame.rows() == [(1, "a\nb")]
    assert catalogue.texts(["t"]).missing.to_list() == [2, 3]


def test_texts_are_joined_by_a_line_break_and_otherwise_stay_as_they_are(tmp_path: Path) -> None:
    texts = {
        "  <p>Two  spaces</p>\t&amp;\r\n": ("  <p>Two  spaces</p>\t&amp;\r\n", None, None),
        "a\n c": ("a", " \t\n ", " c "),
        "🪑 椅子\nNULL": ("", "🪑 椅子", "NULL"),
    }
    rows = [dict(zip("xyz", cells, strict=True)) for cells in texts.values()]
    pl.DataFrame({"id": [1, 2, 3]}).hstack(pl.DataFrame(rows)).write_parquet(tmp_path / "c.parquet")
    found = Catalogue(tmp_path / "c.parquet").texts(["x", "y", "z"]).frame["entry"].to_list()
    assert found == [text.strip() for text in texts]


@given(st.lists(st.tuples(st.text(st.characters(categories=("L", "N", "P", "S"))), st.text("ab \n")), min_size=1))
def test_every_text_is_in_its_place(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("catalogue") / "c.parquet"
    first, second = zip(*cells, strict=True)
    pl.DataFrame({"id": range(len(cells)), "a": first, "b": second}).write_parquet(path)
    expected = {n: "\n".join(cell for cell in pair if cell).strip() for n, pair in enumerate(cells)}
    expected = {n: text for n, text in expected.items() if text}
    if not expected:
        with pytest.raises(DataError, match="nothing in 'a' and 'b'"):
            Catalogue(path).texts(["a", "b"])
        return
    texts = Catalogue(path).texts(["a", "b"])
    found = dict(texts.frame.iter_rows())
    assert found == expected
    assert sorted([*found, *texts.missing]) == list(range(len(cells)))


BAD = {
    "no such file": (None, {}, ["There is no file", "c.csv"]),
    "no rows": ("id,t\n", {}, ["holds no items"]),
    "no id column": ("sku,t\n1,a\n", {}, ["'item_id'", "'sku'", "--id-col"]),
    "wrong id column": ("sku,t\n1,a\n", {"id_col": "ean"}, ["'ean'", "'sku'", "--id-col"]),
    "an id is missing": ("id,t\n1,a\n,b\n", {}, ["no ID in row 1"]),
    "an id occurs twice": ("id,t\n1,a\n1,b\n", {}, ["ID 1 more than once"]),
    "wrong separator": ("id;t\n1;a\n", {}, ["'item_id'", "'id;t'"]),
    "separator of two": ("id;t\n1;a\n", {"separator": ";;"}, ["--separator"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_catalogues(write: Callable[..., Path], tmp_path: Path, case: str) -> None:
    text, arguments, named = BAD[case]
    path = tmp_path / "c.csv" if text is None else write(text)
    with pytest.raises(DataError) as error:
        Catalogue(path, **arguments)
    for name in named:
        assert name in str(error.value)


@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_is_no_part_of_any_form(tmp_path: Path, packed: bool) -> None:
    forms = {"c.csv": "id,t\n1,a\n", "c.tsv": "id\tt\n1\ta\n", "c.jsonl": '{"id": 1, "t": "a"}\n'}
    for name, text in forms.items():
        content = text.encode("utf-8-sig")
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
        assert Catalogue(path).texts(["t"]).frame.rows() == [(1, "a")]


def test_unknown_endings_and_damage(write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"unknown ending.*\.jsonl"):
        Catalogue(write("id\n1\n", "c.xlsx"))
    with pytest.raises(DataError, match=r"Line 2 of .*c\.jsonl is not"):
        Catalogue(write('{"id": 1}\n{"id": ', "c.jsonl"))
    with pytest.raises(DataError, match="IDs have to be integers or text"):
        Catalogue(write('{"id": 1.5}\n', "c.jsonl"))
    with pytest.raises(DataError, match="not one ID a row"):
        Catalogue(write('{"id": [1]}\n', "c.jsonl"))


def test_columns_have_to_be_there(write: Callable[..., Path]) -> None:
    catalogue = Catalogue(write('{"id": 1, "t": "a", "o": {"x": 1}, "e": null}\n', "c.jsonl"))
    with pytest.raises(DataError, match="no column 'title'"):
        catalogue.texts(["title"])
    with pytest.raises(DataError, match=r"'o'.*--text-cols.*not texts"):
        catalogue.texts(["o"])
    with pytest.raises(DataError, match="nothing in 'e'"):
        catalogue.texts(["e"])
    with pytest.raises(ConfigError, match="--text-cols"):
        split_columns("a,,b", "--text-cols")
    with pytest.raises(ConfigError, match="each once"):
        split_columns("a,b,a", "--text-cols")
    assert split_columns("title, description", "--text-cols") == ["title", "description"]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "https://shop/a.png"])
def test_paths_do_not_leave_their_folder(write: Callable[..., Path], path: str) -> None:
    catalogue = Catalogue(write(f"id,p\n1,a.png\n2,{path}\n"))
    with pytest.raises(DataError, match="item 2"):
        catalogue.files("p", "--image-col")


def test_root_is_what_paths_go_by(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    (tmp_path / "pictures" / "deep" / "a.png").touch()
    absolute = tmp_path / "pictures" / "deep" / "a.png"
    catalogue = Catalogue(write(f"id,p\n1,deep/a.png\n2,./deep/../deep/a.png\n3,{absolute}\n"))
    assert set(catalogue.files("p", "--image-col", tmp_path / "pictures").frame["entry"]) == {str(absolute)}
    with pytest.raises(DataError, match=r"None of the files.*--root"):
        Catalogue(write("id,p\n1,deep/a.png\n")).files("p", "--image-col")
    with pytest.raises(DataError, match=r"--root is .*nowhere"):
        catalogue.files("p", "--image-col", tmp_path / "nowhere")
