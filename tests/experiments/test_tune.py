import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from lightning_fabric import seed_everything

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import DataConfig, Dataset
from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.evaluation import RankingTask
from lirdrec_pyg.experiments import Range, Space, Study, TrialResult, tune
from lirdrec_pyg.models import EASEConfig, LightGCNConfig, LIRDRec, LIRDRecConfig
from lirdrec_pyg.recommender import fit
from lirdrec_pyg.training import EpochResult, Trainer, TrainingConfig

optuna = pytest.importorskip("optuna")

MODEL = LIRDRecConfig(embedding_dim=8)
TRAINING = TrainingConfig(epochs=2, lr=1e-2, batch_size=512, device="cpu")
SPACE = Space({"num_layers": (1, 2), "lr": (1e-2, 3e-2)})


class Recorder(Callback):
    """Keeps the results, and stops after so many epochs."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.results: list[TrialResult] = []
        self.best: list[bool] = []
        self._left = stop_after

    def on_epoch_end(self, result: EpochResult) -> None:
        self._left -= 1

    def on_trial_end(self, result: TrialResult, is_best: bool) -> None:
        self.results.append(result)
        self.best.append(is_best)

    def should_stop(self) -> bool:
        return self._left <= 0


def outcome(study: Study) -> list[tuple[Any, ...]]:
    return [(result.state, *result.settings.values(), result.value) for result in study.finished()]


def by_hand(dataset: Dataset, model: LIRDRecConfig, training: TrainingConfig) -> float:
    """Best validation Recall@20 of one training."""
    seed_everything(training.seed, verbose=False)
    data = LIRDRec.graph_transform(model)(dataset.graph.clone())
    data = LIRDRec.input_transform(model)(data)
    history = Trainer(LIRDRec.from_config(model, data), data, training).fit().history
    return max(epoch.valid["recall@20"] for epoch in history)


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Every point of the grid."""
    return tune(dataset, tmp_path_factory.mktemp("whole"), MODEL, TRAINING, 99, SPACE)


def test_a_trial_reduces_features_as_a_fit_does(dataset: Dataset, tmp_path: Path) -> None:
    model = dataclasses.replace(MODEL, feature_dim=3)
    study = tune(dataset, tmp_path, model, TRAINING, 1, Space({"lr": (1e-2,)}))
    fitted = fit(dataset, model, dataclasses.replace(TRAINING, lr=1e-2))
    assert study.finished()[0].value == fitted.metrics["valid"]["recall@20"]


def test_every_point_is_tried_once_and_the_best_one_is_found(whole: Study) -> None:
    results = whole.finished()
    assert {tuple(result.settings.values()) for result in results} == {(n, lr) for n in (1, 2) for lr in (1e-2, 3e-2)}
    assert len(results) == 4
    best = whole.best()
    assert best is not None
    assert best.value == max(result.value for result in results if result.value is not None)

    table = pl.read_csv(whole.path / "trials.csv")
    assert table.columns == ["trial", "state", "num_layers", "lr", "valid_recall@20", "best_epoch", "epochs", "seconds"]
    assert table["trial"].to_list() == list(range(4))
    assert table.sort("valid_recall@20")["valid_recall@20"][-1] == best.value
    settings = yaml.safe_load((whole.path / "best.yaml").read_text())
    assert {name: settings[name] for name in best.settings} == best.settings
    assert settings["embedding_dim"] == 8
    assert "data" not in settings
    assert {p.name for p in whole.path.iterdir() if not p.name.startswith(".")} == {
        "best.yaml",
        "study.db",
        "trials.csv",
    }


def test_a_trial_is_a_training_with_a_graph_of_its_own(dataset: Dataset, tmp_path: Path) -> None:
    training = dataclasses.replace(TRAINING, epochs=1)
    space = Space({"item_graph": (False, True), "only_modality": ("image", None)})
    for result in tune(dataset, tmp_path, MODEL, training, 99, space).finished():
        model, _ = Space.configs(result.settings, MODEL, training)
        assert result.value == by_hand(dataset, model, training), result.settings


def test_the_test_split_is_not_used(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = set()
    original = RankingTask.from_graph.__func__  # type: ignore[attr-defined]

    def from_graph(cls: type[RankingTask], data: Any, split: str) -> RankingTask:
        splits.add(str(split))
        return original(cls, data, split)

    monkeypatch.setattr(RankingTask, "from_graph", classmethod(from_graph))
    tune(dataset, tmp_path, MODEL, TRAINING, 1, SPACE)
    assert len(splits) == 1
    assert "test" not in splits.pop()


def test_a_study_is_resumed_after_anything(whole: Study, dataset: Dataset, tmp_path: Path) -> None:
    recorder = Recorder(stop_after=3)  # in the second trial
    study = tune(dataset, tmp_path, MODEL, TRAINING, 4, SPACE, recorder)
    assert [(result.state, best) for result, best in zip(recorder.results, recorder.best)] == [
        ("complete", True),
        ("interrupted", False),
    ]
    assert outcome(study) == outcome(whole)[:1]
    interrupted = recorder.results[-1].settings

    class Broken(Callback):
        def on_fit_start(self, trainer: Trainer) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(dataset, tmp_path, MODEL, TRAINING, 4, SPACE, Broken())
    recorder = Recorder()
    for trials in (2, 2, 3, 99):
        study = tune(dataset, tmp_path, MODEL, TRAINING, trials, SPACE, recorder)
        assert len(study.finished()) == min(trials, 4)
    assert recorder.results[0].settings == interrupted
    assert sorted(outcome(study)) == sorted(outcome(whole))


def test_the_seed_determines_the_order(whole: Study, dataset: Dataset, tmp_path: Path) -> None:
    study = tune(dataset, tmp_path, MODEL, dataclasses.replace(TRAINING, epochs=1, seed=1), 2, SPACE)
    assert [result.settings for result in study.finished()] != [result.settings for result in whole.finished()][:2]


def test_ranges_are_sampled_and_repeated_by_the_seed(dataset: Dataset, tmp_path: Path) -> None:
    training = dataclasses.replace(TRAINING, epochs=1)
    space = Space({"lr": Range(1e-3, 1e-1, log=True), "num_layers": Range(1, 3)})
    first = tune(dataset, tmp_path / "first", MODEL, training, 3, space)
    for trials in (1, 3):
        second = tune(dataset, tmp_path / "second", MODEL, training, trials, space)
    assert outcome(first) == outcome(second)
    for result in first.finished():
        assert 1e-3 <= result.settings["lr"] <= 1e-1
        assert result.settings["num_layers"] in (1, 2, 3)
    assert len({result.settings["lr"] for result in first.finished()}) == 3


def test_a_trial_below_the_median_ends_early(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = (1e-2, 1.1e-2, 1.2e-2, 1.3e-2, 1.4e-2, 1e-7)
    samplers = optuna.samplers
    monkeypatch.setattr(
        Study, "_sampler", lambda _, n: samplers.PartialFixedSampler({"lr": rates[n]}, samplers.RandomSampler())
    )
    recorder = Recorder()
    training = dataclasses.replace(TRAINING, epochs=6)
    tune(dataset, tmp_path, MODEL, training, 6, Space({"lr": rates}), recorder)
    assert [result.state for result in recorder.results] == 5 * ["complete"] + ["pruned"]
    assert 4 <= recorder.results[-1].epochs < 6
    assert pl.read_csv(tmp_path / "trials.csv")["state"].to_list()[-1] == "pruned"


def test_a_diverged_trial_counts_as_failed(dataset: Dataset, tmp_path: Path) -> None:
    recorder = Recorder()
    space = Space({"lr": (1e30, 1e-2)})
    study = tune(dataset, tmp_path, MODEL, TRAINING, 2, space, recorder)
    assert {result.settings["lr"]: result.state for result in recorder.results} == {1e30: "failed", 1e-2: "complete"}
    best = study.best()
    assert best is not None
    assert best.settings == {"lr": 1e-2}
    assert len(tune(dataset, tmp_path, MODEL, TRAINING, 9, space).finished()) == 2


def test_any_model_that_is_trained_in_epochs_can_be_tuned(dataset: Dataset, tmp_path: Path) -> None:
    space = Space({"num_layers": (1, 2)})
    study = tune(dataset, tmp_path, LightGCNConfig(embedding_dim=8), dataclasses.replace(TRAINING, epochs=1), 2, space)
    assert len(study.finished()) == 2
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["model"] == "lightgcn"
    with pytest.raises(ConfigError, match="Pass `space`"):
        tune(dataset, tmp_path, LightGCNConfig(), TRAINING, 1)
    with pytest.raises(ConfigError, match="`model='ease'` cannot be tuned"):
        tune(dataset, tmp_path, EASEConfig(), TRAINING, 1, Space({"lr": (1, 2)}))


def test_trials_of_other_settings_are_not_mixed(whole: Study) -> None:
    for arguments, named in (
        ((SPACE, LIRDRecConfig(embedding_dim=16), TRAINING), "embedding_dim"),
        ((SPACE, MODEL, TRAINING, DataConfig(data="shop")), "data"),
        ((Space({"num_layers": (1, 2)}), MODEL, TRAINING), "space"),
        ((SPACE, LightGCNConfig(embedding_dim=8), TRAINING), "model"),
    ):
        with pytest.raises(ConfigError, match=f"has trials with another `{named}`"):
            Study(whole.path, *arguments)  # type: ignore[arg-type]
    Study(whole.path, SPACE, MODEL, dataclasses.replace(TRAINING, device="auto"))


def test_the_final_training_is_not_as_short_as_a_trial(dataset: Dataset, tmp_path: Path, whole: Study) -> None:
    text = (whole.path / "best.yaml").read_text()
    assert yaml.safe_load(text)["epochs"] == 1000
    assert "# 'epochs' is the default, not the 2 of a trial" in text
    for training, space, epochs in (
        (dataclasses.replace(TRAINING, epochs=2000, patience=1), Space({"lr": (1e-12,)}), 2000),
        (TRAINING, Space({"epochs": (1,)}), 1),
    ):
        text = (tune(dataset, tmp_path / str(epochs), MODEL, training, 1, space).path / "best.yaml").read_text()
        assert yaml.safe_load(text)["epochs"] == epochs
        assert "# 'epochs'" not in text


def test_a_study_older_than_a_setting_has_its_default(whole: Study) -> None:
    settings = whole._study.user_attrs["settings"]
    whole._study.set_user_attr("settings", {name: value for name, value in settings.items() if name != "negatives"})
    Study(whole.path, SPACE, MODEL, TRAINING)
    with pytest.raises(ConfigError, match="has trials with another `negatives`"):
        Study(whole.path, SPACE, MODEL, dataclasses.replace(TRAINING, negatives=2))


def test_unusable_folders_and_data_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, but long enough to look at")
    with pytest.raises(RunError, match=r"study\.db"):
        Study(tmp_path, SPACE, MODEL, TRAINING)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*file"):
        Study(tmp_path / "file", SPACE, MODEL, TRAINING)
    graph = dataset.graph.clone()
    for edge_type in graph.edge_types:
        for name in [name for name in graph[edge_type] if name.startswith("val")]:
            graph[edge_type][name] = graph[edge_type][name][:, :0]
    with pytest.raises(DataError, match="validation"):
        tune(dataclasses.replace(dataset, graph=graph), tmp_path / "x", MODEL, TRAINING, 1, SPACE)
    assert not (tmp_path / "x").exists()


def test_without_optuna_the_extra_is_named(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    module = "lirdrec_pyg.experiments.tune"
    monkeypatch.setattr(importlib.import_module(module), "find_spec", lambda n: None if n == "optuna" else original(n))
    with pytest.raises(ConfigError, match=r"pip install 'lirdrec-pyg\[tune\]'"):
        tune(dataset, tmp_path / "x", MODEL, TRAINING, 1)
    assert not (tmp_path / "x").exists()
