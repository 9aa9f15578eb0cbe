from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import assert_refused, help_of, lirdrec

from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.recommender import Recommender

FIT = ("--epochs", 4, "--lr", 0.01, "--batch-size", 100, "--embedding-dim", 8)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with ratings below and above the bar, features by ID, and a catalog."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", 5 - n % 5, n) for n, (u, i) in enumerate(rng.integers(0, [30, 40], (800, 2)).tolist())]
    frame = pl.DataFrame(rows, schema=["customer", "sku", "stars", "day"], orient="row").unique(["customer", "sku"])
    frame.filter(pl.col("day") < 600).write_csv(folder / "clicks.csv")
    for number, first in enumerate((600, 700)):
        frame.filter(pl.col("day").is_between(first, first + 99)).write_csv(folder / f"night{number}.csv")
    ids = [f"i{n}" for n in range(44)]
    pl.DataFrame({"ean": ids, "headline": "x"}).write_csv(folder / "catalog.csv")
    for name, chosen in (("features", ids[:40]), ("more", ids)):
        (folder / name).mkdir()
        vectors = list(np.random.default_rng(1).standard_normal((44, 6)).astype(np.float32)[: len(chosen)])
        pl.DataFrame({"sku": chosen, "vector": vectors}).write_parquet(folder / name / "image_feat.parquet")
    return folder


@pytest.fixture(scope="module")
def run(shop: Path) -> Path:
    columns = ("--user-column", "customer", "--item-column", "sku", "--min-rating", "stars>=3", "--time-column", "day")
    features = ("--features", shop / "features")
    result = lirdrec("fit", "--data", shop / "clicks.csv", *features, *columns, *FIT, "--out", shop / "run")
    assert result.exit_code == 0, result.output
    return shop / "run"


def test_two_nights_with_the_columns_of_the_training(shop: Path, run: Path, tmp_path: Path) -> None:
    link, known = tmp_path / "current", Recommender.load(run).seen.item.numel()
    catalog = ("--items", shop / "catalog.csv")
    first = ("--features", shop / "more", *catalog, "--id-col", "ean", "--title", "headline")
    for number, (source, more) in enumerate(((run, first), (link, catalog))):
        data, out = shop / f"night{number}.csv", tmp_path / f"night{number}"
        result = lirdrec("update", source, "--data", data, *more, "--out", out, "--promote", link, "--max-drop", 1)
        assert result.exit_code == 0, result.output
        assert link.resolve() == out.resolve()
        known += pl.read_csv(data).filter(pl.col("stars") >= 3).height
        recommender = Recommender.load(link)
        assert recommender.seen.item.numel() == known
        assert recommender.items.ids.to_list()[-4:] == ["i40", "i41", "i42", "i43"]
        assert recommender.dataset.catalog.title == "headline"
        before, after = (recommender.metrics["update"]["test"][name]["recall@20"] for name in ("before", "after"))
        _, line = [line for line in result.output.splitlines() if line.startswith("recall@20")]
        assert line.split() == ["recall@20", f"{before:.4f}", f"{after:.4f}"]
        assert f"{link} points to {out}" in result.output
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    result = lirdrec("update", link, "--data", data, "--out", out, "--promote", link)
    assert (result.exit_code, result.output) == (
        0,
        f"{link} points to {out}, which has all interactions of {data}: nothing to do.\n",
    )
    more = tmp_path / "more.csv"
    more.write_text(data.read_text() + "u1,i43,5,900\n")
    again = ("--data", more, "--out", out, "--promote", link, "--overwrite")
    assert_refused(lirdrec("update", link, *again), "the folder of the run itself")
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    link.unlink()
    link.symlink_to(run)  # which holds no update
    again = ("--data", data, "--out", run, "--promote", link)
    assert_refused(lirdrec("update", link, *again), "the folder of the run itself")


def test_a_drop_is_written_but_not_promoted(
    shop: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "current"
    link.symlink_to(run)
    monkeypatch.setattr("lirdrec_pyg.recommender.update.Gate.drop", 0.25)
    common = ("--data", shop / "night0.csv", "--epochs", 1, "--promote", link, "--overwrite")
    result = lirdrec("update", link, *common, "--out", tmp_path / "run", "--max-drop", 0.2)
    assert result.exit_code == 3
    assert "Recall@20 fell by 25.0%, more than --max-drop 0.2: not promoted." in result.output
    assert link.resolve() == run.resolve()
    assert Recommender.load(tmp_path / "run").metrics["update"]["drop"] == 0.25
    with monkeypatch.context() as other_process:
        other_process.setattr("lirdrec_pyg.cli.update.is_first_process", lambda: False)
        result = lirdrec("update", link, *common, "--out", tmp_path / "run", "--max-drop", 0.2)
        assert (result.exit_code, "not promoted" in result.output) == (3, False)
    result = lirdrec("update", link, *common, "--out", tmp_path / "run", "--max-drop", 0.25)
    assert result.exit_code == 0
    assert link.resolve() == (tmp_path / "run").resolve()


def test_an_interrupted_update_is_not_promoted(
    shop: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(interrupt: Interrupt) -> bool:
        interrupt.signal = 2
        return True

    monkeypatch.setattr(Interrupt, "should_stop", stop)
    link = tmp_path / "current"
    link.symlink_to(run)
    out = tmp_path / "run"
    result = lirdrec("update", link, "--data", shop / "night0.csv", "--out", out, "--promote", link)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "The update was interrupted: not promoted."
    assert link.resolve() == run.resolve()
    assert Recommender.load(out).metrics["stopped"] == "interrupted"


def test_mistakes_are_refused_before_any_work(shop: Path, run: Path, tmp_path: Path) -> None:
    data = ("--data", shop / "night0.csv")
    assert_refused(lirdrec("update", run, *data, "--out", run, "--overwrite"), "--out", "the folder of the run itself")
    assert_refused(
        lirdrec("update", run, *data, "--out", tmp_path / "x", "--promote", run), "--promote", "symbolic link"
    )
    assert_refused(lirdrec("update", run, "--data", shop / "clicks.csv", "--out", tmp_path / "x"), "known already")
    assert_refused(lirdrec("update", run, *data, "--id-col", "ean", "--out", tmp_path / "x"), "--id-col is for --items")
    wrong = ("--user-column", "who")
    assert_refused(
        lirdrec("update", run, *data, *wrong, "--out", tmp_path / "x"), "'who'", "night0.csv", "--user-column"
    )
    assert not (tmp_path / "x").exists()
    assert "exit code is 3" in help_of("update")
