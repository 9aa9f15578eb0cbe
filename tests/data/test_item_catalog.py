from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from lirdrec_pyg.data import ItemCatalog
from lirdrec_pyg.errors import ConfigError, DataError


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


def test_a_condition_compares_numbers_and_texts() -> None:
    frame = pl.DataFrame(
        {
            "sku": ["a", "b", "c", "d"],
            "title": ["1", "2", "3", "4"],
            "stock": ["10", "9", "-1.5", None],
            "zone": ["007", "7", "8", "9"],
            "size": ["1", "2", "L", None],
        }
    )
    catalog = ItemCatalog.of(frame, id_col="sku")
    for condition, ids in (
        ("stock > 9", ["a"]),  # not as texts, where "9" is more than "10"
        ("stock < 0", ["c"]),
        ("NOT stock > 9", ["b", "c"]),  # null is neither
        ("stock IS NULL OR id = 'a'", ["a", "d"]),
        ("zone = '007'", ["a"]),
        ("title = '2' AND size = '2'", ["b"]),
        ("stock > AVG(stock) AND size LIKE '_'", ["a", "b"]),
        ("COUNT(*) = 4", ["a", "b", "c", "d"]),
        ("stock = 11", []),
    ):
        assert catalog.matching(condition).to_list() == ids, condition
    with pytest.raises(ConfigError, match=r"not valid SQL for size: String \(cannot compare string with numeric"):
        catalog.matching("size > 1")
    assert catalog.frame["stock"].to_list() == [10, 9, -1.5, None]


def test_texts_of_numbers_are_numbers_where_nothing_is_lost(tmp_path: Path) -> None:
    texts = {
        "stock": ["3", "+2"],
        "price": ["2.50", "-1"],
        "code": ["007", "8"],
        "ean": ["1" * 16, "2"],
        "fine": ["0.1234567890123456", "1"],
        "size": ["1", ""],
        "image": ["1", "2"],
    }
    catalog = ItemCatalog.of(pl.DataFrame({"item_id": ["1", "2"], "title": ["1", "2"], **texts}))
    catalog.save(tmp_path / "catalog.parquet")
    assert ItemCatalog.load(tmp_path / "catalog.parquet").frame.equals(catalog.frame)
    old = catalog.frame.with_columns(pl.Series("stock", texts["stock"]))  # as earlier versions kept it
    replace(catalog, frame=old).save(tmp_path / "old.parquet")
    assert ItemCatalog.load(tmp_path / "old.parquet").matching("stock > 2").to_list() == [1]
    frame = catalog.frame
    assert frame.drop("id").to_dict(as_series=False) == {
        "title": ["1", "2"],
        **texts,
        "stock": [3, 2],
        "price": [2.5, -1.0],
    }
    assert frame["id"].to_list() == [1, 2]


@pytest.mark.parametrize("function", ["read_csv", "READ_PARQUET", '"read_json"'])
def test_a_condition_reads_no_file(tmp_path: Path, function: str) -> None:
    (tmp_path / "secret.csv").write_text("id,stock\na,3\n")
    catalog = ItemCatalog.of(pl.DataFrame({"id": ["a"], "stock": [3]}))
    with pytest.raises(ConfigError, match="cannot read files"):
        catalog.matching(f"stock IN (SELECT stock FROM {function}('{tmp_path / 'secret.csv'}'))")


def test_rows_of_unknown_items_are_null() -> None:
    catalog = ItemCatalog.of(pl.DataFrame({"id": [1, 2], "title": ["A", "B"]}))
    for ids, titles in (([2, 5, 1], ["B", None, "A"]), ([5, 6], [None, None]), ([], [])):
        assert catalog.titles(pl.Series(ids, dtype=pl.Int64)).to_list() == titles
