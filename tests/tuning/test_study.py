import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.evaluation import RankingTask
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training import Trainer
from lirdrec_pyg.tuning import Range, Space, Study, TrialResult, TuneHooks, tune

pytest.importorskip("optuna")

CONFIGS = DataConfig(), LIRDRecConfig(embedding_dim=8), TrainingConfig(epochs=3, lr=1e-2, batch_size=512, device="cpu")
SPACE = Space({"num_layers": (1, 2), "lr": (1e-4, 1e-2, 3e-2)})


@pytest.fixture(scope="module")
def graph() -> HeteroData:
    return synthetic_data(60, 80, cold_share=0.0).graph


def outcome(study: Study) -> list[tuple[Any, ...]]:
    return [(t.state.name, *t.params.values(), t.user_attrs["value"]) for t in study.finished()]


@pytest.fixture(scope="module")
def whole(graph: HeteroData, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Every point of the grid."""
    return tune(graph, tmp_path_factory.mktemp("whole"), CONFIGS, 99, SPACE)


def test_every_point_is_tried_once_and_then_it_ends(whole: Study) -> None:
    points = SPACE.points()
    assert points is not None
    tried = [trial.params for trial in whole.finished()]
    assert len(tried) == len(points) == 6
    assert all(point in tried for point in points)


def test_the_value_is_the_best_validation_figure_of_such_a_training(whole: Study, graph: HeteroData) -> None:
    best = whole.best()
    assert best is not None
    model_config, training_config = SPACE.configs(best.params, *CONFIGS[1:])
    seed_everything(training_config.seed, verbose=False)
    fresh = synthetic_data(60, 80, cold_share=0.0).graph
    data = LIRDRec.input_transform(model_config)(LIRDRec.graph_transform(model_config)(fresh))
    trainer = Trainer(LIRDRec.from_config(model_config, data), data, training_config)
    result = trainer.fit()
    assert best.value == max(epoch.valid["recall@20"] for epoch in result.history)
    assert best.value == max(t.value for t in whole.finished() if t.state.name == "COMPLETE" and t.value is not None)


def test_ablations_are_tried_on_graphs_of_their_own(graph: HeteroData, tmp_path: Path) -> None:
    space = Space({"item_graph": (False, True), "only_modality": ("image", "text", None)})
    found = tune(graph, tmp_path, CONFIGS, 99, space)
    for trial in found.finished():
        model_config = Space.configs(trial.params, *CONFIGS[1:])[0]
        fresh = synthetic_data(60, 80, cold_share=0.0).graph
        seed_everything(CONFIGS[2].seed, verbose=False)
        data = LIRDRec.input_transform(model_config)(LIRDRec.graph_transform(model_config)(fresh))
        result = Trainer(LIRDRec.from_config(model_config, data), data, CONFIGS[2]).fit()
        assert trial.user_attrs["value"] == max(epoch.valid["recall@20"] for epoch in result.history)


def test_files_tell_of_the_trials_and_the_best(whole: Study) -> None:
    table = pl.read_csv(whole.path / "trials.csv")
    assert table.columns == ["trial", "state", "num_layers", "lr", "valid_recall@20", "best_epoch", "epochs", "seconds"]
    assert table["trial"].to_list() == list(range(6))
    best = whole.best()
    assert best is not None
    settings = yaml.safe_load((whole.path / "best.yaml").read_text())
    assert {name: settings[name] for name in best.params} == best.params
    assert settings["embedding_dim"] == 8
    row = table.filter(pl.col("state") == "complete").sort("valid_recall@20").row(-1, named=True)
    assert row["valid_recall@20"] == best.value
    assert not any("test" in column for column in table.columns)
    assert {p.name for p in whole.path.iterdir() if not p.name.startswith(".")} == {
        *("best.yaml", "study.db", "trials.csv")
    }


def test_the_test_split_plays_no_part(graph: HeteroData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = []
    original = RankingTask.from_graph.__func__  # type: ignore[attr-defined]

    def from_graph(cls: type[RankingTask], data: HeteroData, split: str) -> RankingTask:
        splits.append(split)
        return original(cls, data, split)

    monkeypatch.setattr(RankingTask, "from_graph", classmethod(from_graph))
    tune(graph, tmp_path, CONFIGS, 2, SPACE)
    assert splits == ["val", "val"]


def test_a_study_goes_on_as_if_it_had_not_been_left(whole: Study, graph: HeteroData, tmp_path: Path) -> None:
    for trials in (2, 2, 5, 99):
        study = tune(graph, tmp_path, CONFIGS, trials, SPACE)
        assert len(study.finished()) == min(trials, 6)
    assert outcome(study) == outcome(whole)


def test_another_seed_takes_another_order(whole: Study, graph: HeteroData, tmp_path: Path) -> None:
    training = TrainingConfig(**{**vars(CONFIGS[2]), "seed": 1})
    study = tune(graph, tmp_path, (*CONFIGS[:2], training), 6, SPACE)
    assert [t.params for t in study.finished()] != [t.params for t in whole.finished()]


def test_an_interrupted_trial_is_tried_again(whole: Study, graph: HeteroData, tmp_path: Path) -> None:
    epochs, told = [], []
    hooks = TuneHooks(
        on_epoch=epochs.append,
        on_end=lambda result, best: told.append((result.state, best)),
        should_stop=lambda: len(epochs) >= 4,
    )
    study = tune(graph, tmp_path, CONFIGS, 6, SPACE, hooks)
    assert told == [("complete", True), ("interrupted", False)]
    assert len(study.finished()) == 1
    assert outcome(tune(graph, tmp_path, CONFIGS, 6, SPACE)) == outcome(whole)


def test_a_trial_of_a_program_that_is_gone_is_tried_again(whole: Study, graph: HeteroData, tmp_path: Path) -> None:
    tune(graph, tmp_path, CONFIGS, 2, SPACE)
    killed = Study(tmp_path, CONFIGS, SPACE)
    asked = killed.ask(6)
    assert asked is not None
    alive = Study(tmp_path, CONFIGS, SPACE)
    other = alive.ask(6)
    assert other is not None
    assert other[1] != asked[1]  # under way elsewhere, so left alone
    killed._alive.release()  # as the system does for a program that is killed
    again = alive.ask(6)
    assert again is not None
    assert again[1] == asked[1]
    alive.close()


def test_ranges_are_sampled_and_repeated_by_the_seed(graph: HeteroData, tmp_path: Path) -> None:
    space = Space({"lr": Range(1e-3, 1e-1, log=True), "num_layers": Range(1, 3)})
    first = tune(graph, tmp_path / "first", CONFIGS, 4, space)
    second = tune(graph, tmp_path / "second", CONFIGS, 2, space)
    second = tune(graph, tmp_path / "second", CONFIGS, 4, space)
    assert outcome(first) == outcome(second)
    for trial in first.finished():
        assert 1e-3 <= trial.params["lr"] <= 1e-1
        assert trial.params["num_layers"] in (1, 2, 3)
    assert len({trial.params["lr"] for trial in first.finished()}) == 4


def test_a_trial_below_the_median_ends_early(graph: HeteroData, tmp_path: Path) -> None:
    training = TrainingConfig(epochs=12, patience=12, batch_size=512, device="cpu")
    space = Space({"lr": (1e-2, 1.1e-2, 1.2e-2, 1.3e-2, 1.4e-2, 1e-7)})
    results: list[TrialResult] = []
    study = Study(tmp_path, (*CONFIGS[:2], training), space)
    # The good ones first.
    for rate in space.entries["lr"]:  # type: ignore[union-attr]
        study._study.enqueue_trial({"lr": rate})
    study.close()
    tune(graph, tmp_path, (*CONFIGS[:2], training), 6, space, TuneHooks(on_end=lambda r, _: results.append(r)))
    assert [result.state for result in results] == 5 * ["complete"] + ["pruned"]
    assert 4 <= results[-1].epochs < 12
    table = pl.read_csv(tmp_path / "trials.csv")
    assert table["state"].to_list()[-1] == "pruned"


def test_a_trial_that_diverges_is_one_that_failed(graph: HeteroData, tmp_path: Path) -> None:
    results: list[TrialResult] = []
    space = Space({"lr": (1e30, 1e-2)})
    study = tune(graph, tmp_path, CONFIGS, 2, space, TuneHooks(on_end=lambda r, _: results.append(r)))
    assert {result.settings["lr"]: result.state for result in results} == {1e30: "failed", 1e-2: "complete"}
    best = study.best()
    assert best is not None
    assert best.params == {"lr": 1e-2}
    assert len(tune(graph, tmp_path, CONFIGS, 9, space).finished()) == 2


@pytest.mark.parametrize(
    ("configs", "space", "named"),
    [
        ((CONFIGS[0], LIRDRecConfig(embedding_dim=16), CONFIGS[2]), SPACE, "--embedding-dim"),
        ((DataConfig(k_core=2), *CONFIGS[1:]), SPACE, "--k-core"),
        (CONFIGS, Space({"num_layers": (1, 2)}), "--space"),
    ],
)
def test_trials_of_other_settings_are_not_mixed(whole: Study, configs: Any, space: Space, named: str) -> None:
    with pytest.raises(ConfigError, match=f"has trials with another {named}"):
        Study(whole.path, configs, space)


def test_a_study_from_before_a_setting_has_its_default(whole: Study) -> None:
    settings = whole._study.user_attrs["settings"]
    whole._study.set_user_attr("settings", {name: value for name, value in settings.items() if name != "negatives"})
    Study(whole.path, CONFIGS, SPACE)
    several = (*CONFIGS[:2], dataclasses.replace(CONFIGS[2], negatives=2))
    with pytest.raises(ConfigError, match="has trials with another --negatives"):
        Study(whole.path, several, SPACE)


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database at all, but long enough to look at")
    with pytest.raises(RunError, match=r"study\.db can't be used"):
        Study(tmp_path, CONFIGS, SPACE)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be written"):
        Study(tmp_path / "file", CONFIGS, SPACE)


def test_without_optuna_the_extra_is_named(graph: HeteroData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr("lirdrec_pyg.tuning.study.find_spec", lambda name: None if name == "optuna" else original(name))
    with pytest.raises(ConfigError, match=r"pip install 'lirdrec-pyg\[tune\]'"):
        tune(graph, tmp_path / "x", CONFIGS, 1)
    assert not (tmp_path / "x").exists()
