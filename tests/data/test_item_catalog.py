import polars as pl
import pytest

from lirdrec_pyg.data import ItemCatalog
from lirdrec_pyg.errors import DataError


def test_titles_are_texts() -> None:
    frame = pl.DataFrame({"asin": ["a", "b", "c", "d"], "title": ["A lamp", "NULL", "['A chair', 'in red']", " "]})
    with pytest.warns(UserWarning, match=r"1 of 4 cells in column 'title' of the item catalog .* 'NULL'"):
        catalog = ItemCatalog.of(frame.with_columns(brand=pl.lit("NULL")))
    titles = catalog.titles(pl.Series(["d", "c", "b", "a", "x"]))
    assert titles.to_list() == [None, "A chair\nin red", None, "A lamp", None]
    assert catalog.frame["brand"].to_list() == ["NULL"] * 4  # other columns are as given


def test_a_repeated_header_is_refused() -> None:
    with pytest.raises(DataError, match="repeats its header in row 1"):
        ItemCatalog.of(pl.DataFrame({"item_id": ["a", "item_id"], "title": ["A", "title"]}))
