import json
import re
from pathlib import Path

import pytest
from commands import assert_refused, lirdrec

from lirdrec_pyg.serving import Recommender


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


def test_nothing_near_is_asked_for(run: Path) -> None:
    result = lirdrec("explain", run, "--user", "user-2", "--item", "item-7", "--nearest", 0)
    assert result.exit_code == 0, result.output
    assert "most like it" not in result.output


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--user", "x", "--item", "item-1"], "no user with the ID 'x'"),
        (["--user", "user-1", "--item", "x"], "no item with the ID 'x'"),
        (["--user", "user-1"], "--item"),
        (["--item", "item-1"], "--user"),
        (["--user", "user-1", "--item", "item-1", "--nearest", "-1"], "--nearest"),
    ],
)
def test_each_mistake_is_one_error(run: Path, options: list[str], named: str) -> None:
    assert_refused(lirdrec("explain", run, *options), named)


def test_a_folder_that_is_no_run_is_one_error(tmp_path: Path) -> None:
    assert_refused(lirdrec("explain", tmp_path, "--user", "x", "--item", "y"), "no run folder")


def test_help_names_every_option() -> None:
    text = re.sub(r"\s+", " ", lirdrec("explain", "--help").output)
    for option in ("--user", "--item", "--nearest", "--json", "--device", "[default: 3"):
        assert option in text
