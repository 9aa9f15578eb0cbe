import json
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec_pyg.data.texts import cell_texts
from lirdrec_pyg.errors import DataError

# Cells, and their texts in a column that also holds plain ones.
WRITTEN = {
    '["a", "b"]': "a\nb",
    "['a', \"it's\", None]": "a\nit's",
    "['a' 'b c'\n 'd']": "a\nb c\nd",
    '[["Toys", "Games"], ["\\ud83e\\ude91 \\u00e9"]]': "Toys\nGames\n🪑 é",
    "['\\xe9', 'a\\nb', nan]": "é\na\nb",
    '[""]': None,
    " [ ] ": None,
    "[NEW] toy [2]": "[NEW] toy [2]",
    '["un"closed]': '["un"closed]',
    "[1, 2]": "[1, 2]",
    "{'a': 'b'}": "{'a': 'b'}",
    " <p>a  b</p>\n": " <p>a  b</p>\n",
    "[" + "\\'" * 100_000 + "]": "[" + "\\'" * 100_000 + "]",  # in linear time
}


def test_lists_that_are_written_as_text() -> None:
    column = pl.Series("t", [*WRITTEN, None])
    assert cell_texts(column, "column 't'").to_list() == [*WRITTEN.values(), None]
    assert column.to_list() == [*WRITTEN, None]  # not changed in place


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).map("x{}".format), min_size=1, max_size=5))
def test_lists_are_read_as_json_python_and_numpy_write_them(texts: list[str]) -> None:
    by_numpy = str(np.array(texts, dtype=object))  # several lines if the list is long
    written = [json.dumps(texts), json.dumps(texts, ensure_ascii=False), repr(texts), by_numpy]
    assert cell_texts(pl.Series(written), "").to_list() == ["\n".join(texts)] * 4


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pl.Series([["a", None, "b"], [], None, ["nan"], ["  "]]), ["a\nb", None, None, None, None]),
        (pl.Series([[["a"], ["b", "c"]], [], [[]]]), ["a\nb\nc", None, None]),
        (pl.Series([["a", "b"]], dtype=pl.Array(pl.String, 2)), ["a\nb"]),
        (pl.Series([["a"]], dtype=pl.List(pl.Categorical)), ["a"]),
        (pl.Series([[], []]), [None, None]),
        (pl.Series(["a", "NULL"], dtype=pl.Categorical), ["a", None]),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_columns_of_other_types(column: pl.Series, texts: list[str | None]) -> None:
    assert cell_texts(column, "").to_list() == texts


def test_words_for_a_missing_text_are_counted() -> None:
    words = ["nan", "NaN", "None", "NULL", "NA", "n/a", "<NA>", "\\N", '""', " null "]
    with pytest.warns(UserWarning, match=r"10 of 13 cells in column 't' hold .*, such as 'nan', and count"):
        found = cell_texts(pl.Series([*words, "", "Nano", "none of these"]), "column 't'")
    assert found.to_list() == [*[None] * 11, "Nano", "none of these"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a number that is missing is no word
        assert cell_texts(pl.Series([1.5, float("nan"), None]), "").to_list() == ["1.5", None, None]


@pytest.mark.parametrize("cells", [[{"a": 1}], [[{"a": 1}]], [[1.5, 2.0]], [b"a"]])
def test_other_types_are_refused(cells: list[Any]) -> None:
    with pytest.raises(DataError, match=r"The type of column 't' is .*, not text"):
        cell_texts(pl.Series(cells), "column 't'")


def test_words_for_missing_texts_inside_of_lists_are_left_out() -> None:
    lists = pl.Series([["nan", "None"], [None], ["x", "nan", "y"], []])
    assert cell_texts(lists, "t").to_list() == [None, None, "x\ny", None]
    written = pl.Series(['["nan", "None"]', "['x', 'NULL']"])
    assert cell_texts(written, "t").to_list() == [None, "x"]
