"""Tables as people have them: each is read right, or the message names the line and the cause."""

import gzip
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lirdrec_pyg.data.column_names import find_column
from lirdrec_pyg.data.tables import line_of, read_table

FRAME = {"user_id": ["7", "007", "ü"], "item_id": ["1", "2", "3"], "title": ["a, b", None, "c"]}


def write(path: Path, content: str | bytes) -> Path:
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path, content: str | bytes, **options: Any) -> dict[str, list[str | None]]:
    """Write and read a table; no warning may be raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_table(write(path, content), **options).to_dict(as_series=False)


# --- What stands above and between -----------------------------------------------------------------------------------

COMMAS = 'user_id,item_id,title\n7,1,"a, b"\n007,2,\nü,3,c\n'
TABS = "user_id\titem_id\ttitle\n7\t1\ta, b\n007\t2\t\nü\t3\tc\n"
SAME: dict[str, tuple[str, str]] = {
    "commas": ("t.csv", COMMAS),
    "in gzip": ("t.csv.gz", COMMAS),
    "tabs": ("t.tsv", TABS),
    "tabs in a .csv": ("t.csv", TABS),
    "commas in a .tsv": ("t.tsv", COMMAS),
    "commas in a .txt": ("t.txt", COMMAS),
    "semicolons": ("t.csv", TABS.replace("\t", ";")),
    "semicolons and a comma in the header": ("t.csv", "user_id;item_id;title\n7;1;a, b\n007;2;\nü;3;c\n"),
    "bars": ("t.dat", TABS.replace("\t", "|")),
    "double colons": ("t.dat", TABS.replace("\t", "::")),
    "a declared separator": ("t.csv", "sep=;\n" + TABS.replace("\t", ";")),
    "a declared separator in quotes": ("t.csv", '\ufeff"sep=\t"\r\n' + TABS.replace("\n", "\r\n")),
    "a mark": ("t.csv", "\ufeff" + COMMAS),
    "old line ends": ("t.csv", COMMAS.replace("\n", "\r")),
    "comments": ("t.tsv", "% bip weighted\n%\tof\tMay\n\n# 3 40 40\n" + TABS),
    "comments of as many entries": ("t.csv", "# written by Ann, Bob, and Eve\n" + COMMAS),
    "empty lines above": ("t.csv", "\n  \n\n" + COMMAS),
    "empty lines below": ("t.csv", COMMAS + "\n\n,\n"),
    "a separator at the ends of lines": ("t.csv", 'user_id,item_id,title\n7,1,"a, b",\n007,2,,\nü,3,c,\n'),
    "two separators at one end": ("t.csv", COMMAS.replace("c\n", "c,,\n")),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_table_in_many_forms(name: str, tmp_path: Path) -> None:
    file, content = SAME[name]
    assert read(tmp_path / file, content) == FRAME


def test_spaces_separate_only_if_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    assert read(path, "user_id item_id\n7 1\n8 2\n") == {"user_id": ["7", "8"], "item_id": ["1", "2"]}
    assert read(path, "  1 23   4\n 10  3  5  \n", header=False) == {
        "1": ["1", "10"],
        "2": ["23", "3"],
        "3": ["4", "5"],
    }
    assert read(path, "a title\nof a lamp\nof two\n") == {"a title": ["of a lamp", "of two"]}
    assert read(tmp_path / "t.csv", "user id;item id\n1;2 3\n") == {"user id": ["1"], "item id": ["2 3"]}


def test_the_header_decides_between_separators(tmp_path: Path) -> None:
    content = "user_id;item_id;price, EUR\n0;22;4,99\n1;23;5,99\n"
    assert read(tmp_path / "t.csv", content)["item_id"] == ["22", "23"]
    # With unknown names, it is that of the suffix.
    content = "customer,what;else\n0,22;4\n"
    assert read(tmp_path / "t.csv", content) == {"customer": ["0"], "what;else": ["22;4"]}


def test_a_passed_separator_counts(tmp_path: Path) -> None:
    path, content = tmp_path / "t.csv", "user_id,item;id\n1,2;3\n"
    assert read(path, content, separator=";") == {"user_id,item": ["1,2"], "id": ["3"]}
    assert read(path, "a<->b\n1<->2-3\n", separator="<->") == {"a": ["1"], "b": ["2-3"]}
    assert read(path, "a¦b\n1¦2\n", separator="¦") == {"a": ["1"], "b": ["2"]}
    assert read(path, "a::b\n1::2\n", separator=":") == {"a": ["1"], "b": ["2"]}
    assert read(path, "a\tb\n1\t2\n", separator="\\t") == {"a": ["1"], "b": ["2"]}


def test_a_mark_may_belong_to_the_first_name_or_id(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    assert read(path, "# of May\n#user_id\titem_id\n7\t1\n") == {"#user_id": ["7"], "item_id": ["1"]}
    assert find_column("user", ["#user_id", "item_id"]) == "#user_id"
    assert read(tmp_path / "t.csv", '#,user_id,title\n1,7,"a, b"\n')["user_id"] == ["7"]
    assert read(tmp_path / "t.csv", '#a,"1, 2"\nb,3\n', header=False) == {"1": ["#a", "b"], "2": ["1, 2", "3"]}
    assert read(path, "user_id\titem_id\n#a\t1\n") == {"user_id": ["#a"], "item_id": ["1"]}
    assert read(path, "% of May\n#a\t1\nb\t2\n", header=False) == {"1": ["#a", "b"], "2": ["1", "2"]}


def test_a_table_without_header(tmp_path: Path) -> None:
    wanted = {"1": ["1", "1", "2"], "2": ["23", "3", "23"], "3": ["4", "3.5", "4"], "4": ["160", None, "162"]}
    rows = [line.split() for line in ("1 23 4 160", "1 3 3.5", "2 23 4 162")]
    for separator in ("\t", "::", ",", ";", "|"):
        lines = [separator.join([*row, ""][:4]) for row in rows]
        for name in ("u.data", "t.csv", "t.tsv"):
            assert read(tmp_path / name, "\r\n".join(lines), header=False) == wanted, separator
    content = "1;22;4,99\n2;23;5,99\n"
    assert read(tmp_path / "t.csv", content, header=False) == {
        "1": ["1", "2"],
        "2": ["22", "23"],
        "3": ["4,99", "5,99"],
    }
    content = "% bip weighted\n% 4 2 2\n1 2 1 1082040961\n2 2 1 1082040961\n"
    assert read(tmp_path / "out.x", content, header=False)["4"] == ["1082040961"] * 2


# --- Quotes ----------------------------------------------------------------------------------------------------------


def test_quotes_within_entries_are_text(tmp_path: Path) -> None:
    for name, sep in (("t.csv", ","), ("t.tsv", "\t")):
        lines = [("a", "b"), ('5" x', '"1"" y"'), ("1", '7"'), (' "z"', '"q\nr"'), ('""', "1")]
        content = "\n".join(map(sep.join, lines))
        assert read(tmp_path / name, content) == {
            "a": ['5" x', "1", ' "z"', ""],
            "b": ['1" y', '7"', "q\nr", "1"],
        }


@pytest.mark.parametrize(
    ("content", "line", "wanted"),
    [
        ('a,b\n1,2\n3,"12 inch\n4,5\n', 3, [("1", "2"), ("3", '"12 inch'), ("4", "5")]),
        ('a,b\n1,5" x\n3,"12 inch\n4,"5, 6"\n', 3, [("1", '5" x'), ("3", '"12 inch'), ("4", "5, 6")]),
        ('a,b\n1,"x\n3,"y\n4,5\n', 2, [("1", '"x'), ("3", '"y'), ("4", "5")]),
        # The first quote could be closed by the second one.
        ('a,b\n1,"x\n3,y"\n4,5\n', 2, [("1", '"x'), ("3", 'y"'), ("4", "5")]),
        ('# c\na\tb\n1\t"x\n4\t5\n', 3, [("1", '"x'), ("4", "5")]),
    ],
)
def test_a_lone_quote_is_text_and_its_line_is_named(content: str, line: int, wanted: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", content)
    with pytest.warns(UserWarning, match=f"Line {line} of {path} has a quote"):
        assert read_table(path).rows() == wanted


def test_a_carriage_return_within_a_line_is_named(tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / "t.csv", 'a,b\n1,"x\ry"\n2,3\r4,5\n')
    with pytest.warns(UserWarning, match="Line 3 of .* has a carriage return"), refuses("Line 3 of", "3 entries"):
        read_table(path)
    path = write(tmp_path / "t.csv", "a,b\n1,2\r3\n")
    with pytest.warns(UserWarning, match="Line 2 of .* has a carriage return"):
        assert read_table(path).rows() == [("1", "2\r3")]


# --- Lines -----------------------------------------------------------------------------------------------------------


def test_rows_are_named_by_their_lines(tmp_path: Path) -> None:
    head, rows = 'user,"the\nitem"\n', ['"a\nb",1\n', "c,2\n", "\n", '"d""\n\n",3\n', "e,4\n"]
    lines = [1, 3, 4, 5, 8]
    for above, more in [("", 0), ("# c\n", 1), ("sep=,\n\n", 2), ("\ufeff", 0)]:
        for header in (True, False):
            for name in ("t.csv", "t.csv.gz"):
                path = write(tmp_path / name, above + head * header + "".join(rows))
                assert [line_of(path, n, header=header) for n in range(5)] == [n + more + 2 * header for n in lines]
    path = write(tmp_path / "t.jsonl", '\n{"a": 1}\n\n{"a": 2}\n')
    assert [line_of(path, row) for row in (0, 1)] == [2, 4]
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.parquet")
    assert line_of(tmp_path / "t.parquet", 0) is None


LONG: dict[str, tuple[str, str]] = {
    "a line": ("a,b\n1,2\n1,2,3\n", "Line 3 of {} has 3 entries, but the header has 2. Quote a text that contains ','"),
    "with quotes": (
        'a,b\n1,"2" x,3\n4,5\n',
        "Line 2 of {} has 3 entries, but the header has 2. Quote a text that contains ',', and",
    ),
    "below comments": ("# x\n# y\na,b\n1,2\n1,2,,4\n", "Line 5 of {} has 4 entries"),
    "after an entry of two lines": ('a,b\n1,"2\n2"\n3,4\n1,2,3\n', "Line 5 of {} has 3 entries"),
    "all lines": (
        "a,b\nx,1,2\ny,1,2\n",
        "Line 2 of {} has 3 entries, but the header has 2, as all lines do. Add a name",
    ),
    "a title above": (
        "Orders of May\na,b\n1,2\n",
        "Line 2 of {} has 2 entries, but the header has 1. Remove the lines",
    ),
}


@pytest.mark.filterwarnings("ignore:Line 2 of .* has a quote")
@pytest.mark.parametrize("name", LONG)
def test_a_line_that_is_too_long_is_named(name: str, tmp_path: Path, refuses: Any) -> None:
    content, text = LONG[name]
    path = write(tmp_path / "t.csv", content)
    with refuses(text.format(path)):
        read_table(path)


def test_a_long_line_without_header(tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / "t.csv", "1,2\n1,2,3\n")
    with refuses(f"Line 2 of {path} has 3 entries, but the first line has 2"):
        read_table(path, header=False)


# --- Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "user_id,item_id,user_id\n1,2,3\n"),
        ("t.tsv", "user_id\titem_id\t user_id\n1\t2\t3\n"),
        ("t.inter", "user_id:token\titem_id:token\tuser_id:float\n1\t2\t3\n"),
        ("t.csv", 'user_id,"item_id",price,"user_id",user_id_duplicated_0\n1,2,3,4,5\n'),
        ("t.jsonl", '{"user_id": 1, "item_id": 2, "user_id": 3}\n'),
    ],
)
def test_two_columns_of_one_name_are_refused(name: str, content: str, tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / name, content)
    with refuses(f"Two columns of {path} have the name 'user_id'", "Rename one"):
        read_table(path)


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["user_id", "user_id"]), path)
    with refuses(path, "two columns of one name", "user_id"):
        read_table(path)


@pytest.mark.parametrize("other", ["user_id_duplicated_0", "user_id.1", "USER_ID", "user_id:token"])
def test_two_columns_that_may_hold_the_users_are_refused(other: str, refuses: Any) -> None:
    with refuses(f"'user_id' and {other!r} have one name"):
        find_column("user", ["item_id", "user_id", other])
    assert find_column("item", ["item_id", "user_id", other]) == "item_id"


def test_columns_without_a_name_may_repeat(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", "user,,\n1,2,3\n")["user"] == ["1"]
    assert read(tmp_path / "t.csv", "5,5,3\n1,2,3\n")["5"] == ["1"]  # data: the names of the columns are missing


# --- Other formats ---------------------------------------------------------------------------------------------------

ZIP = b"PK\x03\x04\x14\x00\x00\x00\x08\x00"
FORMATS: dict[str, tuple[bytes, str, str]] = {
    "orders.xlsx": (ZIP + b"[Content_Types].xml", "an Excel workbook", "Save it as CSV"),
    "orders.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an Excel workbook", "Save it as CSV"),
    "orders.ods": (ZIP + b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "OpenDocument", "Save it as CSV"),
    "orders.csv": (ZIP + b"xl/workbook.xml", "an Excel workbook", "Save it as CSV"),
    "clicks.csv.zip": (ZIP + b"clicks.csv", "a zip archive", "Unzip it"),
    "clicks.7z": (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Decompress it"),
    "clicks.csv.bz2": (b"BZh91AY&SY", "bzip2", "Decompress it"),
    "clicks.csv.xz": (b"\xfd7zXZ\x00", "xz", "Decompress it"),
    "clicks.csv.zst": (b"\x28\xb5\x2f\xfd", "zstd", "Decompress it"),
    "clicks.tar.gz": (gzip.compress(bytes(257) + b"ustar" + bytes(99)), "a tar archive", "Unpack it"),
    "shop.db": (b"SQLite format 3\x00", "an SQLite database", "Export its table"),
    "clicks.feather": (b"ARROW1\x00\x00", "Feather", "Save it as CSV"),
    "clicks.pq": (b"PAR1\x15\x04", "a Parquet file", "the suffix .parquet"),
    "clicks.sav": (b"$FL2@(#)", "an SPSS file", "Save it as CSV"),
    "clicks.dta": (b"<stata_dta>", "a Stata file", "Save it as CSV"),
    "clicks.rds": (gzip.compress(b"X\n\x00\x00\x00\x03"), "an R data file", "Save it as CSV"),
    "clicks.h5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Save it as CSV"),
    "clicks.pkl": (b"\x80\x04\x95", "a Python pickle", "Save it as CSV"),
    "clicks.npy": (b"\x93NUMPY", "a NumPy array", "Save it as CSV"),
    "u16.csv": ("a,b\n1,2\n".encode("utf-16"), "UTF-16", "UTF-8"),
    "table.html": (b"<table border=1>", "a web page", "Download the table"),
    "page.csv": (b"\n<!DOCTYPE html><html>", "a web page", "Download the table"),
    "clicks.txt": (b'{"user": 1, "item": 2}\n', "JSON", ".jsonl"),
    "clicks.json": (b' [{"user": 1, "item": 2}]', "one JSON array", "one object per line"),
    "columns.json": (b'{"user": {"0": 1}, "item": {"0": 2}}', "one JSON object", "one object per line"),
    "split.json": (b'{"columns": ["user", "item"], "data": [[1, 2]]}', "one JSON object", "one object per line"),
    "array.csv": (b'[{"user": 1, "item": 2}]', "one JSON array", "one object per line"),
    "lfs.csv": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
    "noise.csv": (b"\x07\x00\x12,\x03\x00\n1,2\n", "a binary file", "Save it as CSV"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_are_refused_by_what_they_are(name: str, tmp_path: Path, refuses: Any) -> None:
    content, kind, advice = FORMATS[name]
    (tmp_path / name).write_bytes(content)
    with refuses(tmp_path / name, kind, advice):
        read_table(tmp_path / name)
