import re
from pathlib import Path

import pytest
import torch
import yaml
from commands import assert_refused, lirdrec

from lirdrec_pyg.data import SIMILAR, modalities
from lirdrec_pyg.recommender import Run

SMALL = ["--data", "synthetic", "--embedding-dim", "8", "--epochs", "1"]


@pytest.mark.usefixtures("small_synthetic")
def test_search_is_shown_and_stored(tmp_path: Path) -> None:
    for search in ("approximate", "exact"):
        result = lirdrec("fit", *SMALL, "--out", tmp_path / search, "--knn-search", search)
        assert result.exit_code == 0, result.output
        shown = re.findall(r"neighbors by (\w+): (exact|approximate) search among 60 items(.*)", result.output)
        names = modalities(Run.open(tmp_path / search).dataset().graph)
        assert [(name, how) for name, how, _ in shown] == [(name, search) for name in names]
        recall = (
            ", 1 of 1 cells each; 100.0 % of the exact neighbors of 60 items found" if search == "approximate" else ""
        )
        assert all(rest == recall for *_, rest in shown)
        assert yaml.safe_load((tmp_path / search / "config.yaml").read_text())["knn_search"] == search
    # So few items are compared with all others.
    approximate, exact = (Run.open(tmp_path / search).dataset().graph[SIMILAR] for search in ("approximate", "exact"))
    assert torch.equal(approximate.edge_index, exact.edge_index)
    torch.testing.assert_close(approximate.edge_weight, exact.edge_weight)


def test_unknown_search_is_refused(tmp_path: Path) -> None:
    result = lirdrec("fit", *SMALL, "--out", tmp_path / "run", "--knn-search", "nonsense")
    assert_refused(result, "--knn-search", "'nonsense'", "'auto', 'exact', 'approximate'")
    assert not (tmp_path / "run").exists()


def test_approximate_search_without_faiss_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.transforms.knn_search.find_spec", lambda name: None)
    result = lirdrec("fit", *SMALL, "--out", tmp_path / "run", "--knn-search", "approximate")
    assert_refused(result, "--knn-search approximate needs faiss", "pip install 'lirdrec-pyg[faiss]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_synthetic")
def test_slow_search_is_one_warning_per_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.transforms.knn_search.find_spec", lambda name: None)
    monkeypatch.setattr("lirdrec_pyg.transforms.knn_search._EXACT_WORK", {"cpu": 0})
    result = lirdrec("fit", *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    names = modalities(Run.open(tmp_path / "run").dataset().graph)
    warnings = [line for line in result.output.splitlines() if line.startswith("Warning: neighbors by ")]
    assert len(warnings) == len(names)
    assert all("3,600 comparisons" in line and "lirdrec-pyg[faiss]" in line for line in warnings)
