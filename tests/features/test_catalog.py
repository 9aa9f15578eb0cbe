import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_catalog import write_catalog

from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features import Catalog
from lirdrec_pyg.features.catalog import split_columns


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "c.csv") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_all_formats_are_read_alike(tmp_path: Path) -> None:
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        path = write_catalog(tmp_path / suffix, count=8, name=f"catalog{suffix}")
        catalog = Catalog(path, "sku")
        assert catalog.ids.to_list() == [f"item-{n:02}" for n in range(8)]
        texts = catalog.texts(["title", "description"])
        assert len(texts) == 8
        assert texts.frame.row(0) == ("item-00", "A red chair, number 0")
        assert texts.frame.row(1) == ("item-01", "A green chair, number 1\nVery comfortable, in green")
        assert catalog.files("image").frame["entry"][2] == str(tmp_path / suffix / "media" / "item-02.png")
        assert catalog.files("audio").missing.to_list() == ["item-07"]
        rows = io.StringIO()
        csv.writer(rows, lineterminator="\n").writerows(texts.frame.rows())
        assert texts.facts == {
            "file": f"catalog{suffix}",
            "columns": ["title", "description"],
            "sha256": hashlib.sha256(rows.getvalue().encode()).hexdigest(),
        }


def test_ids_are_not_converted(write: Callable[..., Path]) -> None:
    assert Catalog(write("id,t\n007,a\n8,b\n")).ids.to_list() == ["007", "8"]
    assert Catalog(write("item_id,id,t\n7,x,a\n8,x,b\n")).ids.to_list() == [7, 8]
    assert Catalog(write('{"id": 7, "t": "a"}\n{"id": 8, "t": null}\n', "c.jsonl")).ids.to_list() == [7, 8]
    with pytest.warns(UserWarning, match=r"Column 'id' of .*c\.csv has 1 IDs such as 'NULL'\. Remove the row"):
        assert Catalog(write("id,t\n7,a\nNULL,b\n")).ids.to_list() == ["7", "NULL"]


@pytest.mark.filterwarnings("ignore:.*quote")
def test_quotes_in_a_table_with_tabs_are_part_of_the_texts(write: Callable[..., Path]) -> None:
    catalog = Catalog(write('id\tt\n1\t"Foo" bar\n2\ta "b" c\n3\t"x\n4\tplain\n', "c.tsv"))
    assert catalog.texts(["t"]).frame.rows() == [(1, '"Foo" bar'), (2, 'a "b" c'), (3, '"x'), (4, "plain")]
    # A program that quotes does so in the whole table.
    quoted = Catalog(write('id\tt\n1\t"two\nlines, ""quoted"""\n2\tplain\n', "quoted.tsv"))
    assert quoted.texts(["t"]).frame.rows() == [(1, 'two\nlines, "quoted"'), (2, "plain")]


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    lines = '{"id": 1, "t": "a"}\n'
    for name, text in {"c.csv": "id,t\n1,a\n", "c.tsv": "id\tt\n1\ta\n", "c.jsonl": lines, "c.json": lines}.items():
        (tmp_path / name).write_bytes(text.encode("utf-8-sig"))
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode("utf-8-sig")))
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert Catalog(path).texts(["t"]).frame.rows() == [(1, "a")]


@pytest.mark.filterwarnings("ignore:.*'None'")
def test_lists_beside_plain_texts_and_words_for_missing_ones(write: Callable[..., Path]) -> None:
    rows = [["a", "b"], [], "plain", "", "None"]
    expected = [(0, "toy\na\nb"), (1, "toy"), (2, "toy\nplain"), (3, "toy")]
    lines = [json.dumps({"id": n, "t": "nan" if n == 4 else "toy", "d": row}) for n, row in enumerate(rows)]
    table = "id,t,d\n" + "".join(f'{n},{"nan" if n == 4 else "toy"},"{row}"\n' for n, row in enumerate(rows))
    pl.read_csv(io.StringIO(table)).write_parquet(path := write("", "c.parquet"))
    for catalog in (Catalog(write("\n".join(lines), "c.jsonl")), Catalog(write(table)), Catalog(path)):
        with pytest.warns(UserWarning, match=r"1 of 5 cells in column 't' of .*c\.(jsonl|csv|parquet) hold .*'nan'"):
            texts = catalog.texts(["t", "d"])
        assert texts.frame.rows() == expected
        assert texts.missing.to_list() == [4]
        assert catalog.texts(["d"]).frame.rows() == [(0, "a\nb"), (2, "plain")]


def test_lists_and_numbers_are_texts(write: Callable[..., Path]) -> None:
    rows = [{"id": 1, "t": ["a", None, "b"], "n": 3.5}, {"id": 2, "t": [], "n": None}, {"id": 3, "t": ["  "], "n": 1}]
    catalog = Catalog(write("\n".join(map(json.dumps, rows)), "c.jsonl"))
    assert catalog.texts(["t", "n"]).frame.rows() == [(1, "a\nb\n3.5"), (3, "1.0")]
    assert catalog.texts(["t"]).frame.rows() == [(1, "a\nb")]
    assert catalog.texts(["t"]).missing.to_list() == [2, 3]


def test_texts_are_joined_by_line_breaks_and_not_changed(tmp_path: Path) -> None:
    texts = {
        "  <p>Two  spaces</p>\t&amp;\r\n": ("  <p>Two  spaces</p>\t&amp;\r\n", None, None),
        "a\n c": ("a", " \t\n ", " c "),
        "🪑 椅子\nNULL and void": ("", "🪑 椅子", "NULL and void"),
    }
    rows = [dict(zip("xyz", cells, strict=True)) for cells in texts.values()]
    pl.DataFrame({"id": [1, 2, 3]}).hstack(pl.DataFrame(rows)).write_parquet(tmp_path / "c.parquet")
    found = Catalog(tmp_path / "c.parquet").texts(["x", "y", "z"]).frame["entry"].to_list()
    assert found == [text.strip() for text in texts]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(categories=("Lo", "N", "S"))), st.text("ab \n")), min_size=1))
def test_every_text_belongs_to_its_item(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("catalog") / "c.parquet"
    first, second = zip(*cells, strict=True)
    pl.DataFrame({"id": range(len(cells)), "a": first, "b": second}).write_parquet(path)
    expected = {n: "\n".join(cell for cell in pair if cell).strip() for n, pair in enumerate(cells)}
    expected = {n: text for n, text in expected.items() if text}
    if not expected:
        with pytest.raises(DataError, match="'a' and 'b'"):
            Catalog(path).texts(["a", "b"])
        return
    texts = Catalog(path).texts(["a", "b"])
    found = dict(texts.frame.iter_rows())
    assert found == expected
    assert sorted([*found, *texts.missing]) == list(range(len(cells)))


BAD: list[tuple[str, str, dict[str, Any], list[str]]] = [
    ("c.csv", "id,t\n", {}, ["no rows"]),
    ("c.csv", "sku,t\n1,a\n", {}, ["'item_id'", "'sku'", "`id_col`"]),
    ("c.csv", "sku,t\n1,a\n", {"id_col": "ean"}, ["'ean'", "'sku'", "`id_col`"]),
    ("c.csv", "id,t\n1,a\n,b\n", {}, ["no ID in row 1"]),
    ("c.csv", "id,t\n1,a\n1,b\n", {}, ["1", "more than once"]),
    ("c.xlsx", "PK\x03\x04xl/workbook.xml", {}, ["Excel", "CSV"]),
    ("c.json", '[{"id": 1, "t": "a"}]', {}, ["JSON array", "lines=True"]),
    ("c.jsonl", '{"id": 1.5}\n', {}, ["integers"]),
    ("c.jsonl", '{"id": [1]}\n{"id": [2]}\n', {}, ["List(Int64)", "integers or text"]),
    *(
        ("c.jsonl", f'{{"id": 1, "t": "a"}}\n\n{line}\n{{"id": 3, "t": "c"}}\n', {}, ["Line 3 of"])
        for line in ("{'id': 2}", "[2]", '{"id": 2', "id,t", "\x00")
    ),
]


@pytest.mark.parametrize(("name", "text", "arguments", "named"), BAD)
def test_invalid_catalogs(
    write: Callable[..., Path], name: str, text: str, arguments: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        Catalog(write(text, name), **arguments)
    for word in [name, *named]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_invalid_columns(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        Catalog(tmp_path / "nothing.csv")
    catalog = Catalog(write('{"id": 1, "t": "a", "o": {"x": 1}, "e": null}\n', "c.jsonl"))
    for column, named in {"title": "No column 'title'", "o": "'o'.*not text", "e": "'e'"}.items():
        with pytest.raises(DataError, match=named):
            catalog.texts([column])
    for columns in ("a,,b", "a,b,a"):
        with pytest.raises(ConfigError, match=r"`text_cols`.*each once"):
            split_columns(columns)
    assert split_columns("title, description") == ["title", "description"]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "https://shop/a.png"])
def test_paths_do_not_leave_their_folder(write: Callable[..., Path], path: str) -> None:
    catalog = Catalog(write(f"id,p\n1,a.png\n2,{path}\n"))
    with pytest.raises(DataError, match="item 2"):
        catalog.files("p")


def test_paths_are_relative_to_root(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "a.png").touch()
    absolute = tmp_path / "images" / "deep" / "a.png"
    catalog = Catalog(write(f"id,p\n1,deep/a.png\n2,./deep/../deep/a.png\n3,{absolute}\n"))
    assert set(catalog.files("p", tmp_path / "images").frame["entry"]) == {str(absolute)}
    with pytest.raises(DataError, match=r"None of the files.*`root`"):
        Catalog(write("id,p\n1,deep/a.png\n")).files("p")
    with pytest.raises(DataError, match=r"item 2 in column 'p' of .* several paths"):
        Catalog(write('id,p\n1,deep/a.png\n2,"[""a.png"", ""b.png""]"\n')).files("p")
    with pytest.raises(DataError, match=r"`root` is .*nowhere"):
        catalog.files("p", tmp_path / "nowhere")
