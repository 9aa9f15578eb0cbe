import json
from pathlib import Path

import pytest
from commands import assert_refused, lirdrec

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


def test_json_holds_the_whole_explanation(run: Path) -> None:
    result = lirdrec("explain", run, "--user", "user-2", "--item", "item-7", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.output)
    explanation = Recommender.load(run).explain("user-2", "item-7")
    assert shown["score"] == explanation.score
    assert sum(branch["part"] for branch in shown["branches"]) == pytest.approx(shown["score"], abs=1e-5)
    assert shown["branches"] == explanation.branches.to_dicts()
    assert shown["nearest"] == explanation.nearest.to_dicts()
    assert len(shown["nearest"]) == 6


def test_nearest_items_may_be_left_out(run: Path) -> None:
    result = lirdrec("explain", run, "--user", "user-2", "--item", "item-7", "--nearest", 0)
    assert result.exit_code == 0, result.output
    assert "most similar" not in result.output


def test_each_mistake_is_one_error(run: Path) -> None:
    for options, *named in (
        (("--user", "x", "--item", "item-1"), "no user", "'x'"),
        (("--user", "user-1", "--item", "x"), "no item", "'x'"),
        (("--user", "user-1"), "--item"),
        (("--item", "item-1"), "--user"),
        (("--user", "user-1", "--item", "item-1", "--nearest", "-1"), "--nearest"),
    ):
        assert_refused(lirdrec("explain", run, *options), *named)
