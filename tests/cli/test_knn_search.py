import logging
import re
from pathlib import Path

import pytest
import torch
import yaml
from commands import assert_refused, lirdrec

from lirdrec_pyg.cli import _Log
from lirdrec_pyg.data import SIMILAR, modalities
from lirdrec_pyg.training import Run

SMALL = ["--data", "synthetic", "--embedding-dim", "8", "--epochs", "1"]


@pytest.fixture
def _small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from lirdrec_pyg import datasets

    def small(config: object, seed: int) -> object:
        return datasets.synthetic_data(num_users=40, num_items=60)

    monkeypatch.setattr(datasets, "load_data", small)


@pytest.mark.usefixtures("_small_data")
def test_the_search_is_shown_and_written_down(tmp_path: Path) -> None:
    for search in ("approximate", "exact"):
        result = lirdrec("fit", *SMALL, "--out", tmp_path / search, "--knn-search", search)
        assert result.exit_code == 0, result.output
        shown = re.findall(r"neighbours by (\w+): (exact|approximate) search among 60 items(.*)", result.output)
        names = modalities(Run.open(tmp_path / search).graph())
        assert [(name, how) for name, how, _ in shown] == [(name, search) for name in names]
        recall = (
            ", 1 of 1 cells each; 100.0 % of the exact neighbours of 60 items found" if search == "approximate" else ""
        )
        assert all(rest == recall for *_, rest in shown)
        assert yaml.safe_load((tmp_path / search / "config.yaml").read_text())["knn_search"] == search
    # So few items are compared with all others.
    approximate, exact = (Run.open(tmp_path / search).graph()[SIMILAR] for search in ("approximate", "exact"))
    assert torch.equal(approximate.edge_index, exact.edge_index)
    torch.testing.assert_close(approximate.edge_weight, exact.edge_weight)


def test_a_search_that_is_none_is_refused(tmp_path: Path) -> None:
    result = lirdrec("fit", *SMALL, "--out", tmp_path / "run", "--knn-search", "nonsense")
    assert_refused(result, "--knn-search", "'nonsense'", "'auto', 'exact', 'approximate'")
    assert not (tmp_path / "run").exists()


def test_an_approximate_search_without_faiss_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lirdrec_pyg.transforms.neighbours.find_spec", lambda name: None)
    result = lirdrec("fit", *SMALL, "--out", tmp_path / "run", "--knn-search", "approximate")
    assert_refused(result, "--knn-search approximate needs faiss", "pip install 'lirdrec-pyg[faiss]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_small_data")
def test_a_search_that_will_take_long_is_a_warning_once_a_modality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lirdrec_pyg.transforms.neighbours.find_spec", lambda name: None)
    monkeypatch.setattr("lirdrec_pyg.transforms.neighbours._EXACT_WORK", {"cpu": 0})
    result = lirdrec("fit", *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    names = modalities(Run.open(tmp_path / "run").graph())
    warnings = [line for line in result.output.splitlines() if line.startswith("Warning: neighbours by ")]
    assert len(warnings) == len(names)
    assert all("3,600 comparisons" in line and "lirdrec-pyg[faiss]" in line for line in warnings)


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
def test_logging_is_as_it_was_after_a_command(tmp_path: Path, level: int) -> None:
    logger = logging.getLogger("lirdrec_pyg")
    before = logger.level
    try:
        logger.setLevel(level)
        assert lirdrec("info", tmp_path / "none").exit_code == 2
        assert logger.level == level
        assert not [handler for handler in logger.handlers if isinstance(handler, _Log)]
    finally:
        logger.setLevel(before)


def test_what_is_done_goes_to_the_standard_output_and_what_is_amiss_to_the_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for level, text in ((logging.INFO, "done: %d"), (logging.WARNING, "amiss: %d")):
        _Log().handle(logging.LogRecord("lirdrec_pyg", level, __file__, 1, text, (3,), None))
    assert capsys.readouterr() == ("done: 3\n", "Warning: amiss: 3\n")
