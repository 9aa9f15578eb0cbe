"""A race among variants of a model: which one wins, how long it takes, and what it leaves behind."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lirdrec_pyg import Callback, Dataset, LIRDRecConfig, Recommender, Trainer, TrainingConfig, fit, resume
from lirdrec_pyg.data import INTERACTS, Split
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import ModelConfig
from lirdrec_pyg.recommender import Run
from lirdrec_pyg.recommender.race import race
from lirdrec_pyg.training import make_fabric

RACE = "lirdrec_pyg.recommender.race"
GIVEN, WITHOUT = "as given", "item_graph=False"
MODEL = LIRDRecConfig(embedding_dim=8, knn_k=4)
SMALL = TrainingConfig(epochs=5, batch_size=64, lr=0.01, device="cpu", seed=1)
RACING = replace(SMALL, race=True)


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{RACE}._ROUNDS", (2, 4))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return synthetic_data(20, 30)


def scored(monkeypatch: pytest.MonkeyPatch, values: dict[int, list[float]]) -> list[int]:
    """Let the validation of a model with so many layers reach ``values``, the last of which stays; return the layers of
    all models in the order of their epochs."""
    epochs: list[int] = []

    def evaluate(trainer: Trainer, _: Any) -> dict[str, float]:
        layers = trainer.model.module.bipartite_conv.num_layers
        epochs.append(layers)
        return {"recall@20": values[layers][min(len(trainer.result.history), len(values[layers]) - 1)]}

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    others = [{"num_layers": layers} for layers in values if layers != MODEL.num_layers]
    monkeypatch.setattr(LIRDRecConfig, "variants", lambda *_: others)
    return epochs


def raced(
    dataset: Dataset, config: TrainingConfig = RACING, model: ModelConfig = MODEL
) -> tuple[Any, Trainer, list[tuple[str, int, float]]]:
    """Race without the training that follows: return the winner, its training and the rounds."""
    winner, record = race(dataset, model, config, make_fabric(config), Callback())
    return winner.model_config, winner.trainer, [tuple(entry.values()) for entry in record]


def assert_same(one: Recommender, other: Recommender) -> None:
    torch.testing.assert_close(vars(one.vectors), vars(other.vectors), rtol=0, atol=0)


def rounds(recommender: Recommender) -> list[tuple[str, int, float]]:
    return [tuple(entry.values()) for entry in recommender.metrics["race"]]


def test_better_half_is_trained_further_and_the_winner_to_the_end(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Best after two epochs is 1, and after four 3; 4 never gets there.
    epochs = scored(monkeypatch, {2: [0.1], 1: [0.3], 3: [0.1, 0.2, 0.2, 0.4], 4: [0.1, 0.1, 0.9]})
    found = fit(dataset, MODEL, RACING, tmp_path / "run")
    assert rounds(found) == [
        *((GIVEN, 2, 0.1), ("num_layers=1", 2, 0.3), ("num_layers=3", 2, 0.2), ("num_layers=4", 2, 0.1)),
        *(("num_layers=1", 4, 0.3), ("num_layers=3", 4, 0.4), (GIVEN, 4, 0.1)),
    ]
    assert epochs == [2, 1, 3, 4] * 2 + [1, 3, 2] * 2 + [3]
    winner = replace(MODEL, num_layers=3)
    run = Run.open(tmp_path / "run")
    assert found.model_config == run.model_config() == winner
    assert not run.training_config().race
    assert len((run.path / "history.csv").read_text().splitlines()) == 1 + SMALL.epochs
    assert_same(found, fit(dataset, winner, SMALL))
    assert Recommender.load(tmp_path / "run").metrics["race"] == found.metrics["race"]


@pytest.mark.parametrize(("value", "winner", "num_epochs"), [(0.2015, 2, 8), (0.2025, 1, 8), (0.1, 2, 4)])
def test_settings_that_were_given_win_unless_another_is_better_by_one_percent(
    value: float, winner: int, num_epochs: int, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = scored(monkeypatch, {2: [0.2], 1: [value]})
    assert raced(dataset)[0].num_layers == winner
    # If they lead after the first round, there is nobody left to race with.
    assert len(epochs) == num_epochs


def test_race_is_no_longer_than_the_training(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = scored(monkeypatch, {2: [0.2], 1: [0.3]})
    _, _, record = raced(dataset, replace(RACING, epochs=1))
    assert epochs == [2, 1]
    assert [entry[1] for entry in record] == [1, 1]


def test_time_limit_ends_the_race_after_an_epoch_of_all(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = scored(monkeypatch, {2: [0.2], 1: [0.1, 0.3, 0.3, 0.4]})
    clock = SimpleNamespace(monotonic=lambda: 12.0 * len(epochs))  # seconds
    monkeypatch.setattr(f"{RACE}.time", clock)
    for minutes, done, left in ((2.0, 2, 1.2), (0.01, 1, 0.01), (60.0, 4, 58.4)):
        epochs.clear()
        winner, trainer, record = raced(dataset, replace(RACING, minutes=minutes))
        assert epochs == ([2, 1] * 2 + [1, 2] * 2)[: 2 * done]
        assert [entry[1] for entry in record] == ([2, 2, 4, 4] if done == 4 else [done, done])
        assert winner.num_layers == (1 if done > 1 else 2)
        assert trainer.config.minutes == pytest.approx(left + trainer.result.seconds / 60, abs=0.01)


def test_time_of_the_default_depends_on_the_data(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lirdrec_pyg"):
        raced(dataset, replace(RACING, epochs=1))
    assert f"at most a third of 3 minutes: as given, with `{WITHOUT}`" in caplog.text


class StopsAfter(Callback):
    """Stops when it has been asked some times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_race_that_is_stopped_leaves_a_run_that_resumes(dataset: Dataset, tmp_path: Path) -> None:
    trained = cache(lambda item_graph: fit(dataset, replace(MODEL, item_graph=item_graph), SMALL))
    for times, done in ((0, 0), (3, 1), (8, 2)):
        out = tmp_path / f"run{times}"
        stopped = fit(dataset, MODEL, RACING, out, callbacks=[StopsAfter(times)])
        assert (stopped.metrics["epochs"], stopped.metrics["stopped"]) == (done, "interrupted")
        assert {entry[:2] for entry in rounds(stopped)} == ({(GIVEN, 1), (WITHOUT, 1)} if times == 8 else set())
        resumed = resume(out)
        assert_same(resumed, trained(stopped.model_config.item_graph))
        assert resumed.metrics["race"] == stopped.metrics["race"]


def test_race_measures_what_a_training_reaches_and_changes_nothing_else(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lirdrec_pyg.models.lirdrec.MAX_NEGATIVES", 20)  # drawn by torch's global generator
    model = replace(MODEL, loss="softmax", fusion="mean", feature_dim=4)
    found = fit(dataset, model, replace(RACING, ema=0.9, refit=True))
    reached = {}
    for name, config in ((GIVEN, model), (WITHOUT, replace(model, item_graph=False))):
        fit(dataset, config, replace(SMALL, ema=0.9), tmp_path / name)
        valid = [epoch.valid["recall@20"] for epoch in Run.open(tmp_path / name).checkpoint().history]
        reached[name] = {epochs: max(valid[:epochs]) for epochs in (2, 4)}
    assert {(GIVEN, 2), (WITHOUT, 2)} <= {entry[:2] for entry in rounds(found)}
    assert all(value == reached[name][epochs] for name, epochs, value in rounds(found))
    for refit in (False, True):
        settings = {"ema": 0.9, "refit": refit}
        alone = fit(dataset, found.model_config, replace(SMALL, **settings))
        assert_same(fit(dataset, model, replace(RACING, **settings)), alone)


def test_race_needs_a_validation_split(dataset: Dataset, tmp_path: Path) -> None:
    graph = dataset.graph.clone()
    del graph[INTERACTS][Split.VALID.edge_label_key]
    with pytest.raises(ConfigError, match=r"`race=True` compares by validation.*`race=False`"):
        fit(Dataset.from_graph(graph), MODEL, RACING, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_variant_whose_patience_is_over_waits_for_the_others(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = scored(monkeypatch, {2: [0.2], 1: [0.3, 0.1, 0.1, 0.4]})
    monkeypatch.setattr(f"{RACE}._ROUNDS", (4,))
    winner, _, record = raced(dataset, replace(RACING, patience=2))
    assert (winner.num_layers, record) == (1, [(GIVEN, 4, 0.2), ("num_layers=1", 4, 0.3)])
    assert epochs == [2, 1] * 3
