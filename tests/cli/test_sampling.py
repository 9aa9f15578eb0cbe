"""Training on sampled neighborhoods by the command line."""

import json
from pathlib import Path

import pytest
import torch
from commands import assert_refused, lirdrec
from safetensors.torch import load_file
from torch_geometric import typing as pyg
from trainers import needs_torch_sparse

from lirdrec_pyg import Recommender

OPTIONS = ("--embedding-dim", 8, "--epochs", 2, "--lr", 1e-2, "--batch-size", 50, "--sampling", "neighbors")


@needs_torch_sparse
def test_run_on_samples_is_used_as_any_other(shared_shop: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = lirdrec("fit", "--data", shared_shop, "--out", run, *OPTIONS, "--fanout", "3,2")
    assert result.exit_code == 0, result.output
    evaluated = lirdrec("evaluate", run, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    saved = json.loads((run / "metrics.json").read_text())
    assert json.loads(evaluated.stdout)["test"] == saved["test"]
    assert lirdrec("recommend", run, "--users", "1,2").exit_code == 0
    # The vectors are those of a full pass with these weights.
    recommender = Recommender.load(run)
    full = recommender.model.vectors(recommender.graph)
    torch.testing.assert_close(full.item, recommender.vectors.item, rtol=0, atol=1e-5)
    again = lirdrec("fit", "--config", run / "config.yaml", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert torch.equal(load_file(tmp_path / "again" / "vectors.safetensors")["user"], recommender.vectors.user)


@needs_torch_sparse
def test_resumed_training_reaches_the_same_weights(shared_shop: Path, tmp_path: Path) -> None:
    options = (*OPTIONS, "--user-gradients", "sparse")
    assert lirdrec("fit", "--data", shared_shop, "--out", tmp_path / "whole", *options).exit_code == 0
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    parts = tmp_path / "parts"
    first = lirdrec("fit", "--data", shared_shop, "--out", parts, *options, "--sampling-workers", 1, "--epochs", 1)
    assert first.exit_code == 0, first.output
    resumed = lirdrec("fit", "--resume", parts, "--epochs", 2)
    assert resumed.exit_code == 0, resumed.output
    found = load_file(parts / "model.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@needs_torch_sparse
def test_impossible_combinations_are_refused_before_the_data_are_read(tmp_path: Path) -> None:
    for options, *named in (
        (("--fanout", "20"), "--fanout", "'20'", "--num-layers is 2"),
        (("--fanout", "20,10,5"), "--fanout", "one number per layer"),
        (("--fanout", "20,x"), "'20,x'"),
        (("--fanout", "20,1"), "at least 2"),
        (("--fanout", ""), "at least 2"),
        (("--edge-dropout", 0.1), "--edge-dropout cannot be combined with --sampling neighbors"),
        (("--user-gradients", "sparse", "--weight-decay", 0.1), "SparseAdam has none"),
        (("--id-branch",), "--id-branch"),
        (("--user-gradients", "sparse", "--sampling", "full"), "needs --sampling neighbors"),
    ):
        result = lirdrec("fit", "--data", tmp_path / "nowhere", "--out", tmp_path / "run", *OPTIONS, *options)
        assert_refused(result, *named)
        assert not (tmp_path / "run").exists()


def test_without_a_library_to_sample_there_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WITH_PYG_LIB", "WITH_TORCH_SPARSE"):
        monkeypatch.setattr(pyg, name, False)
    result = lirdrec("fit", "--data", tmp_path / "nowhere", "--out", tmp_path / "run", *OPTIONS)
    assert_refused(result, "--sampling neighbors", "pyg-lib or torch-sparse", "lirdrec-pyg[sparse]")
