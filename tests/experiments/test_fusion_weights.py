from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from layout import check_layout

from lirdrec_pyg.data import Dataset
from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.experiments import FusionWeights, fusion_weights
from lirdrec_pyg.experiments.plots import draw_fusion
from lirdrec_pyg.models import LightGCNConfig, LIRDRecConfig
from lirdrec_pyg.recommender import Recommender, fit
from lirdrec_pyg.training import TrainingConfig


@pytest.fixture(scope="module")
def recommender(dataset: Dataset) -> Recommender:
    model = LIRDRecConfig(embedding_dim=8, network_weight=0.95, decay_base=0.8)
    return fit(dataset, model, TrainingConfig(epochs=4, lr=1e-2, device="cpu"))


def test_schedule_is_that_of_the_model_in_every_epoch(recommender: Recommender) -> None:
    found = fusion_weights(recommender)
    assert found.schedule["epoch"].to_list() == [1, 2, 3, 4]
    network, memory = 0.95, 0.05
    for epoch, row in enumerate(found.schedule.iter_rows(named=True), start=1):
        network *= 0.8**epoch
        network, memory = network / (network + memory), memory / (network + memory)
        assert row["network_weight"] == pytest.approx(network, rel=1e-12)
        assert row["memory_weight"] == pytest.approx(memory, rel=1e-12)
    fusion = recommender.model.fusion
    assert int(fusion.epoch) == found.best_epoch
    assert float(fusion.network_weight) == found.schedule["network_weight"][found.best_epoch - 1]


def test_branches_and_their_distribution_over_the_users(recommender: Recommender) -> None:
    found = fusion_weights(recommender)
    assert found.branches.columns == ["image", "text", "shared"]
    assert torch.equal(found.branches.to_torch(), recommender.vectors.user_weight)
    assert found.by_user().columns == ["user", "weight_image", "weight_text", "weight_shared"]
    assert found.by_user()["user"].to_list() == [f"user-{n}" for n in range(60)]
    weights, summary = found.branches.to_torch().double(), found.summary()
    assert summary["branch"].to_list() == ["image", "text", "shared"]
    expected = {
        "mean": weights.mean(dim=0),
        "std": weights.std(dim=0, correction=0),
        "q05": weights.quantile(0.05, dim=0),
        "q50": weights.quantile(0.5, dim=0),
        "q95": weights.quantile(0.95, dim=0),
    }
    for column, values in expected.items():
        assert summary[column].to_list() == pytest.approx(values.tolist(), abs=1e-6), column


def test_weights_that_hardly_differ_count_as_equal() -> None:
    def heaviest(*rows: tuple[float, ...]) -> list[float]:
        branches = pl.DataFrame(rows, schema=["image", "text", "shared"][: len(rows[0])], orient="row")
        return FusionWeights(pl.DataFrame(), 1, branches, pl.Series(range(len(rows)))).summary()["heaviest"].to_list()

    assert heaviest((0.3333, 0.3334, 0.3333)) == [0, 0, 0]
    assert heaviest((0.30, 0.35, 0.35)) == [0, 0, 0]
    assert heaviest((0.30, 0.35, 0.30)) == [0, 1, 0]
    assert heaviest((0.34, 0.35, 0.31), (0.33, 0.36, 0.31), (0.4, 0.2, 0.4), (0.1, 0.1, 0.8)) == [0, 0.25, 0.25]
    assert heaviest((0.49, 0.51), (0.48, 0.52), (0.6, 0.4)) == pytest.approx([1 / 3, 1 / 3])
    assert heaviest((1.0,)) == [1]


def test_what_has_no_such_weights_is_refused(recommender: Recommender) -> None:
    with pytest.raises(RunError, match=r"is not finished.*`resume='run'`"):
        fusion_weights(replace(recommender, metrics=None, path=Path("run")))
    with pytest.raises(ConfigError, match="`fusion='mean'`"):
        fusion_weights(replace(recommender, model_config=LIRDRecConfig(fusion="mean")))
    with pytest.raises(ConfigError, match=r"'lightgcn'.*fusion weights"):
        fusion_weights(replace(recommender, model_config=LightGCNConfig()))


def test_plot_shows_schedule_and_branches(recommender: Recommender) -> None:
    pytest.importorskip("matplotlib")
    found = fusion_weights(recommender)
    left, right = draw_fusion(found).axes
    assert [line.get_label() for line in left.lines] == ["network", "memory", "best epoch"]
    assert [label.get_text() for label in right.get_yticklabels()] == found.branches.columns
    np.testing.assert_allclose(right.lines[0].get_xdata(), found.summary()["q50"])


def test_nothing_overlaps_in_the_plot(recommender: Recommender) -> None:
    pytest.importorskip("matplotlib")
    found = fusion_weights(recommender)
    check_layout(draw_fusion(found))
    many = pl.DataFrame({f"{n} a modality with a long name": [1 / 14] for n in range(14)})
    check_layout(draw_fusion(replace(found, schedule=found.schedule[:1], best_epoch=1, branches=many)))
    long = pl.concat([found.schedule] * 250).with_columns(epoch=pl.int_range(pl.len()))
    check_layout(draw_fusion(replace(found, schedule=long, branches=many.select(pl.first()))))
