from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from lirdrec_pyg.analysis.fusion import draw, fusion_weights
from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.training import Run, fit

EPOCHS = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fusion") / "run"
    model = LIRDRecConfig(embedding_dim=8, network_weight=0.95, decay_base=0.8)
    training = TrainingConfig(epochs=EPOCHS, lr=1e-2, device="cpu")
    fit(synthetic_data(num_users=40, num_items=60), out, DataConfig(), model, training)
    return out


def test_the_schedule_is_that_of_the_model_in_every_epoch(run: Path) -> None:
    found = fusion_weights(Run.open(run))
    assert found.schedule["epoch"].to_list() == [1, 2, 3, 4]
    network, memory = 0.95, 0.05
    for epoch, row in enumerate(found.schedule.iter_rows(named=True), start=1):
        network *= 0.8**epoch
        network, memory = network / (network + memory), memory / (network + memory)
        assert row["network_weight"] == pytest.approx(network, rel=1e-12)
        assert row["memory_weight"] == pytest.approx(memory, rel=1e-12)
    state = load_file(run / "model.safetensors")
    assert int(state["fusion.epoch"]) == found.best_epoch
    assert float(state["fusion.network_weight"]) == found.schedule["network_weight"][found.best_epoch - 1]


def test_the_weights_are_those_that_the_run_ranks_by(run: Path) -> None:
    opened = Run.open(run)
    found, vectors = fusion_weights(opened), opened.vectors()
    assert vectors is not None
    assert found.branches.columns == ["image", "text", "shared"]
    assert torch.equal(found.branches.to_torch(), vectors.user_weight)
    assert found.by_user().columns == ["user", "weight_image", "weight_text", "weight_shared"]
    assert found.by_user()["user"].to_list() == [f"user-{n}" for n in range(40)]


def test_the_summary_is_the_distribution_over_the_users(run: Path) -> None:
    found = fusion_weights(Run.open(run))
    weights, summary = found.branches.to_torch().double(), found.summary()
    assert summary["branch"].to_list() == ["image", "text", "shared"]
    expected = {
        "mean": weights.mean(dim=0),
        "std": weights.std(dim=0, correction=0),
        "q05": weights.quantile(0.05, dim=0),
        "q50": weights.median(dim=0).values / 2 + weights.sort(dim=0).values[20] / 2,
        "q95": weights.quantile(0.95, dim=0),
        "heaviest": weights.argmax(dim=1).bincount(minlength=3) / 40,
    }
    for column, values in expected.items():
        assert summary[column].to_list() == pytest.approx(values.tolist(), abs=1e-6), column
    assert summary["heaviest"].sum() == pytest.approx(1)


def test_a_run_that_was_cut_off_is_refused(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    copied.mkdir()
    for file in run.iterdir():
        if file.name != "metrics.json":
            (copied / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RunError, match=r"is not finished: lirdrec-pyg fit --resume"):
        fusion_weights(Run.open(copied))


def test_the_figure_shows_schedule_and_branches(run: Path) -> None:
    pytest.importorskip("matplotlib")
    found = fusion_weights(Run.open(run))
    left, right = draw(found).axes
    assert [line.get_label() for line in left.lines] == ["network", "memory", "best epoch"]
    labels = {text.get_text() for text in right.get_legend().get_texts()}
    assert labels == set(found.branches.columns)
    assert isinstance(found.schedule, pl.DataFrame)
