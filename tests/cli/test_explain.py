import json
from pathlib import Path

import polars as pl
import pytest
from commands import assert_refused, lirdrec
from polars.testing import assert_frame_equal

from lirdrec_pyg import Recommender


def test_an_explanation_is_printed(run: Path) -> None:
    result = lirdrec("explain", run, "--user", "user-2", "--item", "item-7", "--nearest", 2)
    assert result.exit_code == 0, result.output
    explanation = Recommender.load(run).explain("user-2", "item-7", 2)
    lines = result.output.splitlines()
    assert lines[0] == f"score of item-7 for user-2: {explanation.score:.4f}"
    rows = [line.split() for line in lines]
    assert ["branch", "weight", "part"] in rows
    for branch, weight, part in explanation.branches.rows():
        assert [branch, f"{weight:.4f}", f"{part:.4f}"] in rows
    for modality, item, cosine in explanation.nearest.rows():
        assert [modality, item, f"{cosine:.4f}"] in rows
    best, second = explanation.items.rows()[:2]
    assert lines[1] == f"because of {best[0]}, {best[2]:.1%}, and {second[0]}, {second[2]:.1%}"
    for item, part, share in explanation.items.rows():
        assert [item, f"{part:.4f}", f"{100 * share:.1f}%"] in rows
    assert ["beyond", "the", "items", f"{explanation.user_part:.4f}", f"{100 * explanation.user_share:.1f}%"] in rows


def test_titles_are_shown_and_weak_items_summed_up(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.cli.explanation._SHOWN_ITEMS", 2)
    recommender = Recommender.load(run)
    ids = recommender.items.ids
    pl.DataFrame({"id": ids, "title": "The " + ids, "price": range(len(ids))}).write_csv(tmp_path / "catalog.csv")
    catalog = ("--items", tmp_path / "catalog.csv", "--columns", "price")
    result = lirdrec("explain", run, "--user", "user-2", "--item", "item-7", *catalog)
    assert result.exit_code == 0, result.output
    items = recommender.explain("user-2", "item-7").items
    lines = result.output.splitlines()
    assert lines[0].startswith("score of The item-7 (item-7) for user-2: ")
    assert lines[1].startswith(f"because of The {items['item'][0]} ({items['item'][0]}), ")
    assert lines[3].split() == ["item", "title", "price", "part", "share"]
    assert lines[4].split()[:4] == [items["item"][0], "The", items["item"][0], str(ids.index_of(items["item"][0]))]
    assert lines[6].split()[:3] == [str(len(items) - 2), "others", f"{items['part'][2:].sum():.4f}"]
    result = lirdrec("explain", run, "--user", "user-2", "--item", "item-7", *catalog, "--json")
    assert [i["title"] for i in json.loads(result.output)["items"]] == [f"The {i}" for i in items["item"]]


def test_json_holds_the_whole_explanation(run: Path) -> None:
    result = lirdrec("explain", run, "--user", "user-2", "--item", "item-7", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.output)
    explanation = Recommender.load(run).explain("user-2", "item-7")
    assert shown["score"] == explanation.score
    assert sum(branch["part"] for branch in shown["branches"]) == pytest.approx(shown["score"], abs=1e-5)
    assert shown["branches"] == explanation.branches.to_dicts()
    assert shown["nearest"] == explanation.nearest.to_dicts()
    assert shown["items"] == explanation.items.to_dicts()
    assert sum(item["part"] for item in shown["items"]) + shown["user_part"] == pytest.approx(shown["score"])
    assert len(shown["nearest"]) == 6


def test_nearest_items_may_be_left_out(run: Path) -> None:
    result = lirdrec("explain", run, "--user", "user-2", "--item", "item-7", "--nearest", 0)
    assert result.exit_code == 0, result.output
    assert "most similar" not in result.output


def test_recommendations_are_explained(run: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(run)
    expected = recommender.because(recommender.recommend(k=3))
    for suffix, read in ((".parquet", pl.read_parquet), (".csv", pl.read_csv), (".jsonl", pl.read_ndjson)):
        out = (tmp_path / "all").with_suffix(suffix)
        result = lirdrec("recommend", run, "--all", "-k", 3, "--explain", "--out", out)
        assert result.exit_code == 0, result.output
        assert_frame_equal(read(out), expected, check_dtypes=False, abs_tol=1e-6)
    result = lirdrec("recommend", run, "--users", "user-2", "-k", 3, "--explain")
    header, *rows = [line.split() for line in result.output.splitlines()]
    assert header == ["user", "item", "rank", "score", "because_1", "because_2"]
    for row, known in zip(rows, expected.filter(user="user-2").iter_rows(named=True), strict=True):
        reasons = [f"{100 * known[f'{name}_share']:.1f}% {known[name]}" for name in ("because_1", "because_2")]
        assert " ".join(row[4:]) == " ".join(reasons)


def test_recommendations_by_a_history_are_explained_by_it(run: Path) -> None:
    result = lirdrec("recommend", run, "--history", "item-3,item-9,nope", "-k", 2, "--explain")
    assert result.exit_code == 0, result.output
    assert result.output.count("Unknown items are left out") == 1
    for line in result.output.splitlines()[-2:]:
        assert {word for word in line.split() if word in ("item-3", "item-9")}


def test_each_mistake_is_one_error(run: Path) -> None:
    for options, *named in (
        (("--user", "x", "--item", "item-1"), "no user", "'x'"),
        (("--user", "user-1", "--item", "x"), "no item", "'x'"),
        (("--user", "user-1"), "--item"),
        (("--item", "item-1"), "--user"),
        (("--user", "user-1", "--item", "item-1", "--nearest", "-1"), "--nearest"),
    ):
        assert_refused(lirdrec("explain", run, *options), *named)
