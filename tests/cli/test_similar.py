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


def test_each_mistake_is_one_error_and_writes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, named in (
        (("--item", "x"), "'x'"),
        (("--item", "item-1", "--by", "smell"), "image, text"),
        (("--item", "item-1", "--out", "a.txt"), "--out is a.txt"),
        (("--item", "item-1", "-k", "0"), "-k"),
        ((), "--item"),
    ):
        assert_refused(lirdrec("similar", run, *options), named)
    assert not list(tmp_path.iterdir())
