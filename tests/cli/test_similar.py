from pathlib import Path

import polars as pl
import pytest
from commands import assert_refused, lirdrec

from lirdrec_pyg import Recommender


def test_similar_items_are_printed(run: Path) -> None:
    recommender = Recommender.load(run)
    for by in ("vectors", "image", "text"):
        result = lirdrec("similar", run, "--item", "item-7", "-k", 4, "--by", by)
        assert result.exit_code == 0, result.output
        rows = [line.split() for line in result.output.splitlines()]
        assert rows[0] == ["item", "rank", "cosine"]
        frame = recommender.similar_items("item-7", 4, by)
        assert rows[1:] == [[item, str(rank), f"{cosine:.4f}"] for item, rank, cosine in frame.rows()]


def test_similar_items_are_written(run: Path, tmp_path: Path) -> None:
    result = lirdrec("similar", run, "--item", "item-7", "--out", tmp_path / "a.parquet")
    assert result.exit_code == 0, result.output
    assert "10 items are in" in result.output
    assert pl.read_parquet(tmp_path / "a.parquet").equals(Recommender.load(run).similar_items("item-7"))


def test_similar_items_of_all_items_are_written(run: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(run)
    expected = pl.concat(recommender.similar_items_blocks(3, "text"))
    for suffix, read in ((".parquet", pl.read_parquet), (".csv", pl.read_csv), (".jsonl", pl.read_ndjson)):
        out = (tmp_path / "similar").with_suffix(suffix)
        result = lirdrec("similar", run, "--all", "-k", 3, "--by", "text", "--out", out)
        assert result.exit_code == 0, result.output
        assert f"180 pairs of items are in {out}" in result.output
        found = read(out)
        assert found.columns == ["item", "similar_item", "rank", "cosine"]
        assert found.select("item", "similar_item", "rank").rows() == expected.select(pl.exclude("cosine")).rows()
        assert found["cosine"].to_list() == pytest.approx(expected["cosine"].to_list())


def test_titles_are_shown(run: Path, tmp_path: Path) -> None:
    ids = Recommender.load(run).items.ids
    catalog = pl.DataFrame({"item_id": ids, "title": "The " + ids, "label": ids + "!", "price": range(len(ids))})
    catalog.write_csv(tmp_path / "catalog.csv")
    shown = ("--items", tmp_path / "catalog.csv", "--columns", "price", "-k", 2)
    for options, title in (((), "The {}"), (("--title", "label"), "{}!")):
        result = lirdrec("similar", run, "--item", "item-7", *shown, *options)
        assert result.exit_code == 0, result.output
        header, *rows = [line.split() for line in result.output.splitlines()]
        assert header == ["item", "rank", "cosine", options[1] if options else "title", "price"]
        for item, _, _, *named, price in rows:
            assert " ".join(named) == title.format(item)
            assert catalog["item_id"][int(price)] == item
    result = lirdrec("similar", run, "--all", *shown, "--out", tmp_path / "a.csv")
    assert result.exit_code == 0, result.output
    found = pl.read_csv(tmp_path / "a.csv")
    assert found.columns[4:] == ["item_title", "item_price", "similar_item_title", "similar_item_price"]
    assert found["similar_item_title"].to_list() == ("The " + found["similar_item"]).to_list()


def test_each_mistake_is_one_error_and_writes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, named in (
        (("--item", "x"), "'x'"),
        (("--item", "item-1", "--by", "smell"), "image, text"),
        (("--item", "item-1", "--out", "a.txt"), "--out is a.txt"),
        (("--item", "item-1", "-k", "0"), "-k"),
        ((), "--item and --all"),
        (("--item", "item-1", "--all"), "--item and --all"),
        (("--all",), "--out similar.parquet"),
        (("--item", "item-1", "--columns", "price"), "--columns needs an item catalog"),
    ):
        assert_refused(lirdrec("similar", run, *options), named)
    assert not list(tmp_path.iterdir())
