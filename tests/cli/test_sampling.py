"""Training on sampled neighbourhoods by the command line."""

import json
from pathlib import Path

import pytest
import torch
from commands import assert_refused, lirdrec
from safetensors.torch import load_file
from torch_geometric import typing as pyg
from trainers import needs_torch_sparse

from lirdrec_pyg.training import Run

OPTIONS = ("--embedding-dim", 8, "--epochs", 2, "--lr", 1e-2, "--batch-size", 50, "--sampling", "neighbors")


@pytest.fixture
def run(shop: Path, tmp_path: Path) -> Path:
    result = lirdrec("fit", "--data", shop, "--out", tmp_path / "run", *OPTIONS, "--fanout", "3,2")
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


@needs_torch_sparse
def test_a_run_on_samples_is_used_as_any_other(run: Path, shop: Path, tmp_path: Path) -> None:
    evaluated = lirdrec("evaluate", run, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    saved = json.loads((run / "metrics.json").read_text())
    assert json.loads(evaluated.stdout)["test"] == saved["test"]
    recommended = lirdrec("recommend", run, "--users", "1,2")
    assert recommended.exit_code == 0, recommended.output
    # The same vectors as those of a full pass with these weights.
    vectors, graph = Run.open(run).vectors(), Run.open(run).graph()
    assert vectors is not None
    torch.testing.assert_close(Run.open(run).model(graph).vectors(graph).item, vectors.item, rtol=0, atol=1e-5)
    again = lirdrec("fit", "--config", run / "config.yaml", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert torch.equal(load_file(tmp_path / "again" / "vectors.safetensors")["user"], vectors.user)


@needs_torch_sparse
@pytest.mark.parametrize("workers", [0, 1])
def test_it_goes_on_to_the_same_weights(shop: Path, tmp_path: Path, workers: int) -> None:
    options = (*OPTIONS, "--user-gradients", "sparse")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert lirdrec("fit", "--data", shop, "--out", whole, *options).exit_code == 0
    first = lirdrec("fit", "--data", shop, "--out", parts, *options, "--sampling-workers", workers, "--epochs", 1)
    assert first.exit_code == 0, first.output
    resumed = lirdrec("fit", "--resume", parts, "--epochs", 2)
    assert resumed.exit_code == 0, resumed.output
    expected, found = (load_file(path / "model.safetensors") for path in (whole, parts))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@needs_torch_sparse
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--fanout", "20"), "--fanout 20 has 1 number, and --num-layers is 2"),
        (("--fanout", "20,10,5"), "has 3 numbers"),
        (("--fanout", "20,x"), "'20,x'"),
        (("--fanout", "20,1"), "numbers from 2 on"),
        (("--fanout", ""), "numbers from 2 on"),
        (("--edge-dropout", 0.1), "--edge-dropout can't go with --sampling neighbors"),
        (("--user-gradients", "sparse", "--weight-decay", 0.1), "SparseAdam has none"),
        (("--id-branch",), "without --id-branch"),
        (("--user-gradients", "sparse", "--sampling", "full"), "goes with --sampling neighbors"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_before_the_data_are_read(
    tmp_path: Path, options: tuple[object, ...], named: str
) -> None:
    result = lirdrec("fit", "--data", tmp_path / "nowhere", "--out", tmp_path / "run", *OPTIONS, *options)
    assert_refused(result, named)
    assert not (tmp_path / "run").exists()


def test_without_a_library_to_sample_there_is_one_error(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WITH_PYG_LIB", "WITH_TORCH_SPARSE"):
        monkeypatch.setattr(pyg, name, False)
    result = lirdrec("fit", "--data", shop, "--out", tmp_path / "run", *OPTIONS)
    assert_refused(result, "--sampling neighbors needs pyg-lib or torch-sparse", "lirdrec-pyg[sparse]")


def test_a_run_without_the_later_settings_has_their_defaults(shop: Path, tmp_path: Path) -> None:
    assert lirdrec("fit", "--data", shop, "--out", tmp_path / "run", "--epochs", 1, "--embedding-dim", 8).exit_code == 0
    config = tmp_path / "run" / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith(("sampling", "fanout", "user_gradients"))))
    settings = Run.open(tmp_path / "run").training_config()
    assert (settings.sampling, settings.fanout, settings.user_gradients) == ("full", None, "dense")
