import re
from pathlib import Path

import polars as pl
import pytest
from commands import assert_refused, lirdrec

from lirdrec_pyg.serving import Recommender


@pytest.mark.parametrize("by", ["vectors", "image", "text"])
def test_similar_items_are_printed(run: Path, by: str) -> None:
    result = lirdrec("similar", run, "--item", "item-7", "-k", 4, "--by", by)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    frame = Recommender.load(run).similar_items("item-7", 4, by)
    assert rows[0] == ["item", "rank", "cosine"]
    assert rows[1:] == [[item, str(rank), f"{cosine:.4f}"] for item, rank, cosine in frame.rows()]


def test_similar_items_go_into_a_file(run: Path, tmp_path: Path) -> None:
    result = lirdrec("similar", run, "--item", "item-7", "--out", tmp_path / "a.parquet")
    assert result.exit_code == 0, result.output
    assert "10 items are in" in result.output
    assert pl.read_parquet(tmp_path / "a.parquet").equals(Recommender.load(run).similar_items("item-7"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--item", "x"], "'x'"),
        (["--item", "item-1", "--by", "smell"], "image, text"),
        (["--item", "item-1", "--out", "a.txt"], "unknown ending"),
        (["--item", "item-1", "-k", "0"], "-k"),
        ([], "--item"),
    ],
)
def test_each_mistake_is_one_error_and_writes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(lirdrec("similar", run, *options), named)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_one_error(tmp_path: Path) -> None:
    assert_refused(lirdrec("similar", tmp_path, "--item", "x"), "no run folder")
    assert_refused(lirdrec("similar", "--item", "x"), "RUN")


def test_help_names_every_option() -> None:
    text = re.sub(r"\s+", " ", lirdrec("similar", "--help").output)
    for option in ("--item", "-k", "--by", "--out", "--device", "[default: 10", "[default: vectors]"):
        assert option in text
