"""``fit`` and ``resume`` in Python: in memory, with and without a validation split, with callbacks."""

import copy
import importlib
import inspect
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from runs import contents

from lirdrec_pyg import (
    Callback,
    DataConfig,
    Dataset,
    EASEConfig,
    LIRDRecConfig,
    Recommender,
    Trainer,
    TrainingConfig,
    VBPRConfig,
    build_graph,
    fit,
    resume,
)
from lirdrec_pyg.callback import CallbackList
from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    NewItems,
    Split,
    Vocabulary,
    held_out_edges,
    item_features,
    known_interactions,
    modalities,
    set_new_items,
)
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.recommender import Evaluator, Run
from lirdrec_pyg.training import EpochResult, Journal, make_fabric, preset
from lirdrec_pyg.transforms import item_graph

MODEL = LIRDRecConfig(embedding_dim=8, knn_k=4)
SMALL = TrainingConfig(epochs=2, batch_size=64, lr=0.01, device="cpu", seed=1)


def graph_without_held_out_edges() -> Any:
    rng = np.random.default_rng(0)
    pairs = np.stack([np.repeat(np.arange(20), 5), np.concatenate([rng.permutation(15)[:5] for _ in range(20)])])
    return build_graph(pairs, {"image": rng.standard_normal((15, 6)), "text": rng.standard_normal((15, 5))})


class Recorder(Callback):
    """Notes every call; stops after a given step."""

    def __init__(self, calls: list[Any], name: str = "", stop_at: tuple[int, int] | None = None) -> None:
        self.calls, self.name, self.stop_at = calls, name, stop_at
        self.last: tuple[int, int] | None = None

    def note(self, *call: Any) -> None:
        self.calls.append((self.name, *call) if self.name else call)

    def on_fit_start(self, trainer: Trainer) -> None:
        self.note("start", trainer.steps_per_epoch)

    def on_step_end(self, epoch: int, step: int) -> None:
        self.last = epoch, step
        self.note("step", epoch, step)

    def on_epoch_end(self, result: EpochResult) -> None:
        self.note("epoch", result.epoch)

    def should_stop(self) -> bool:
        return self.last is not None and self.last == self.stop_at


def test_fit_in_memory_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = synthetic_data(40, 60)
    for config in (MODEL, EASEConfig()):
        recommender = fit(dataset, config, SMALL)
        assert recommender.path is None
        assert recommender.metrics is not None
        assert {"valid", "test", "best_epoch", "stopped", "parameters"} <= recommender.metrics.keys()
        assert len(recommender.recommend(["user-1"], k=3)) == 3
        assert recommender.evaluate() == recommender.metrics["test"]
        for split in ("train", "both"):
            with pytest.raises(ConfigError, match=f"`split` is '{split}'. Choose 'valid' or 'test'"):
                recommender.evaluate(split)
    assert not list(tmp_path.iterdir())


def test_fit_takes_datasets_configs_and_paths(shop: Path) -> None:
    short = replace(SMALL, epochs=1)
    made = [fit(data, MODEL, short) for data in (Dataset.from_path(shop), DataConfig(data=str(shop)), shop, str(shop))]
    for other in made[1:]:
        assert other.metrics["test"] == made[0].metrics["test"]
        assert other.dataset.config == DataConfig(data=str(shop))


def test_a_table_is_no_data_set() -> None:
    with pytest.raises(ConfigError, match=r"`data` is a DataFrame\. Pass .* `Dataset.from_frames`"):
        fit(pl.DataFrame({"user": ["a"], "item": ["b"]}))  # type: ignore[arg-type]


def test_configs_of_another_kind_are_refused(shop: Path) -> None:
    for configs, named in (
        ((SMALL,), "`model_config` is of type TrainingConfig"),
        ((None, 3), "`training_config` is of type int"),
    ):
        with pytest.raises(ConfigError, match=named):
            fit(shop, *configs)  # type: ignore[arg-type]


def test_defaults_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[TrainingConfig] = []

    def stop(config: TrainingConfig) -> None:
        used.append(config)
        raise InterruptedError

    monkeypatch.setattr(importlib.import_module("lirdrec_pyg.recommender.fit"), "make_fabric", stop)
    for config in (None, LIRDRecConfig(), VBPRConfig()):
        with pytest.raises(InterruptedError):
            fit(synthetic_data(40, 60), config)
    assert used == [preset("best")[1], TrainingConfig(), TrainingConfig(**VBPRConfig.training_defaults)]


def test_without_a_validation_split_all_epochs_are_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = Dataset.from_graph(graph_without_held_out_edges())
    config = TrainingConfig(epochs=3, patience=1, batch_size=32, lr=0.01, device="cpu")
    with caplog.at_level("INFO", "lirdrec_pyg"):
        recommender = fit(dataset, MODEL, config, tmp_path / "run")
    assert "exactly 3 epochs" in caplog.text
    metrics = recommender.metrics
    assert metrics is not None
    assert (metrics["epochs"], metrics["best_epoch"], metrics["stopped"]) == (3, 3, "all epochs done")
    assert not {"valid", "test"} & metrics.keys()
    checkpoint = Run.open(tmp_path / "run").checkpoint()
    assert all(torch.equal(checkpoint.model[name], value) for name, value in recommender.model.state_dict().items())
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.recommend([0, 7], k=4).equals(recommender.recommend([0, 7], k=4))
    with pytest.raises(DataError, match="trained on all interactions"):
        loaded.evaluate()

    longer = resume(tmp_path / "run", {"epochs": 5})
    assert longer.metrics["best_epoch"] == 5
    expected = fit(dataset, MODEL, TrainingConfig(**{**vars(config), "epochs": 5}))
    assert torch.equal(longer.vectors.user, expected.vectors.user)
    in_memory = expected.save(tmp_path / "saved")
    assert Recommender.load(tmp_path / "saved").recommend(k=3).equals(in_memory.recommend(k=3))


def test_a_validation_split_alone_is_enough() -> None:
    graph = synthetic_data(40, 60).graph
    del graph["user", "interacts", "item"][Split.TEST.edge_label_key]
    metrics = fit(Dataset.from_graph(graph), MODEL, SMALL).metrics
    assert metrics is not None
    assert "valid" in metrics
    assert "test" not in metrics


# --- Refit -----------------------------------------------------------------------------------------------------------

REFIT = replace(SMALL, epochs=3, refit=True)


def on_all(dataset: Dataset) -> Dataset:
    """The same data without held-out interactions."""
    graph = copy.copy(dataset.graph)
    pairs = known_interactions(graph)
    features = {m: item_features(graph, m) for m in modalities(graph)}
    return replace(dataset, graph=build_graph(pairs, features, num_users=graph["user"].num_nodes))


def second_of_three(trainer: Trainer, _: Any) -> dict[str, float]:
    return {"recall@20": [0.1, 0.3, 0.2][len(trainer.result.history)]}


@pytest.fixture
def second_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every training with validation have its best epoch second."""
    monkeypatch.setattr(Trainer, "evaluate", second_of_three)


@pytest.fixture(scope="module")
def refitted() -> Recommender:
    """A refit in memory, after a training whose second epoch was the best."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "evaluate", second_of_three)
        return fit(synthetic_data(20, 30), MODEL, REFIT)


@pytest.mark.usefixtures("second_is_best")
def test_refit_is_a_training_on_everything_for_as_many_epochs(
    refitted: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = synthetic_data(20, 30)
    first = fit(dataset, MODEL, replace(REFIT, refit=False), tmp_path / "first")
    expected = fit(on_all(dataset), MODEL, replace(SMALL, epochs=2))
    searches: list[Any] = []
    search = item_graph.knn_edges
    monkeypatch.setattr(item_graph, "knn_edges", lambda *of: searches.append(of) or search(*of))
    found = fit(dataset, MODEL, REFIT, tmp_path / "run")
    assert len(searches) == len(dataset.summary()["modalities"])  # not again for the refit
    assert_same_vectors(found, expected)
    assert found.training_config == REFIT
    measured = ("best_epoch", "epochs", "valid", "test", "interactions", "stopped", "parameters", "data")
    assert found.metrics["best_epoch"] == 2
    assert {name: found.metrics[name] for name in measured} == {name: first.metrics[name] for name in measured}
    num_known = known_interactions(dataset.graph).size(1)
    assert (
        found.metrics["refit"].items() > {"interactions": num_known, "epochs": 2, "stopped": "all epochs done"}.items()
    )
    assert contents(tmp_path / "run").keys() == contents(tmp_path / "first").keys() | {
        "selection.json",
        "selection.csv",
    }
    assert len((tmp_path / "run" / "selection.csv").read_text().splitlines()) == 4
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 3

    loaded = Recommender.load(tmp_path / "run")
    assert_same_vectors(loaded, expected)
    assert loaded.metrics == found.metrics
    assert torch.equal(loaded.graph[INTERACTS].edge_index, known_interactions(dataset.graph).unique(dim=1))
    with pytest.raises(DataError, match=r"trained on all interactions.*metrics\.json"):
        loaded.evaluate()
    assert_same_vectors(refitted, expected)


def assert_same_vectors(one: Recommender, other: Recommender) -> None:
    torch.testing.assert_close(vars(one.vectors), vars(other.vectors), rtol=0, atol=0)


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.usefixtures("second_is_best")
def test_refit_resumes_from_any_moment(refitted: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refit that is killed again and again."""
    out = tmp_path / "run"
    run_module = importlib.import_module("lirdrec_pyg.recommender.run")
    start: Callable[[], Recommender] = partial(fit, synthetic_data(20, 30), MODEL, REFIT, out)
    for owner, name, last in (
        (Run, "keep_selection", 1),
        (Run, "start_refit", 1),
        (run_module, "save_graph", 1),  # within the former
        (Journal, "on_fit_start", 1),
        (Journal, "on_epoch_end", 2),  # at the end of the refit
    ):
        real, calls = getattr(owner, name), iter(range(1, last))

        def killed(*given: Any, real: Any = real, calls: Any = calls) -> Any:
            if next(calls, None) is None:
                raise Killed
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            with pytest.raises(Killed):
                start()
        start = partial(resume, out)
    found = start()
    assert_same_vectors(found, refitted)
    assert_same_vectors(Recommender.load(out), refitted)
    assert found.metrics["refit"]["epochs"] == 2
    assert found.metrics["valid"] == refitted.metrics["valid"]


@pytest.mark.slow
@pytest.mark.usefixtures("second_is_best")
def test_interrupted_refit_is_a_run_that_resumes(refitted: Recommender, tmp_path: Path) -> None:
    dataset = synthetic_data(20, 30)

    class Second(Recorder):
        """Stops in the second epoch of the training whose number is given."""

        def __init__(self, number: int) -> None:
            super().__init__([], stop_at=(2, 1))
            self.number = number

        def should_stop(self) -> bool:
            return [call[0] for call in self.calls].count("start") == self.number and super().should_stop()

    for number, held_out in ((1, True), (2, False)):
        out = tmp_path / f"run{number}"
        stopped = fit(dataset, MODEL, REFIT, out, callbacks=[Second(number)])
        assert ("refit" in stopped.metrics) is not held_out
        assert (stopped.metrics if held_out else stopped.metrics["refit"])["stopped"] == "interrupted"
        assert (held_out_edges(Run.open(out).dataset().graph, "valid").numel() > 0) is held_out
        warned = nullcontext() if held_out else pytest.warns(UserWarning, match=r"refit of .* was interrupted after")
        with warned:
            assert len(Recommender.load(out).recommend(["user-1"], k=3)) == 3
        assert_same_vectors(resume(out), refitted)
    with pytest.raises(ConfigError, match=r"2 epochs that validation found.*`patience`"):
        resume(out, {"patience": 9})
    assert_same_vectors(resume(out, {"lr": 1.0}), refitted)  # it has ended

    plain = fit(dataset, MODEL, replace(REFIT, refit=False), tmp_path / "plain")
    assert_same_vectors(resume(tmp_path / "plain", {"refit": True}), refitted)
    assert Run.open(tmp_path / "plain").training_config().refit
    assert plain.metrics["best_epoch"] == 2


def test_refit_in_closed_form(tmp_path: Path) -> None:
    dataset = synthetic_data(40, 60)
    first, expected = fit(dataset, EASEConfig(), SMALL), fit(on_all(dataset), EASEConfig(), SMALL)
    found = fit(dataset, EASEConfig(), REFIT, tmp_path / "run")
    for recommender in (found, Recommender.load(tmp_path / "run")):
        assert recommender.recommend(k=5).equals(expected.recommend(k=5))
        assert recommender.metrics["test"] == first.metrics["test"]
        assert recommender.metrics["refit"]["interactions"] == known_interactions(dataset.graph).size(1)


def test_without_validation_the_number_of_epochs_must_be_given(text_shop: Path, tmp_path: Path) -> None:
    dataset, out = synthetic_data(40, 60), tmp_path / "run"
    for data, config, named in (
        (on_all(dataset), REFIT, "`refit=True`.*no interactions are held out"),
        (on_all(dataset), TrainingConfig(device="cpu"), "`epochs=1000`.*`refit=True`"),
        (Dataset.from_path(text_shop, split="cold-items"), REFIT, "`split='cold-items'`"),
    ):
        with pytest.raises(ConfigError, match=named):
            fit(data, MODEL, config, out)
        assert not out.exists()
    fit(on_all(dataset), EASEConfig(), TrainingConfig(device="cpu"))
    fit(on_all(dataset), MODEL, SMALL, out)
    with pytest.raises(ConfigError, match="no interactions are held out"):
        resume(out, {"refit": True})


# --- Items without training interactions -----------------------------------------------------------------------------


def test_unclicked_items_are_served_as_new_items_are(text_shop: Path, tmp_path: Path) -> None:
    dataset = Dataset.from_path(text_shop)
    paper = fit(dataset, replace(MODEL, unclicked_items="trained"), SMALL)
    served = fit(dataset, MODEL, SMALL, tmp_path / "run")
    assert torch.equal(paper.vectors.item, paper.model.vectors(LIRDRec.input_transform(MODEL)(paper.graph)).item)
    assert served.metrics["test"] == paper.metrics["test"] == served.evaluate()

    unclicked = (served.popularity == 0).nonzero().view(-1)
    assert len(unclicked) > 5
    features = {m: item_features(served.graph, m)[unclicked] for m in modalities(served.graph)}
    added = served.add_items(
        NewItems(Vocabulary(pl.Series("id", [f"new-{n}" for n in unclicked]), "item"), features, {})
    )
    torch.testing.assert_close(served.vectors.item[unclicked], added.vectors.item[len(dataset.items) :])
    clicked = served.popularity > 0
    assert torch.equal(served.vectors.item[clicked], paper.vectors.item[clicked])
    assert not torch.allclose(served.vectors.item[unclicked], paper.vectors.item[unclicked], atol=0.1)
    assert torch.equal(served.vectors.item_layers, paper.vectors.item_layers)

    loaded, resumed = Recommender.load(tmp_path / "run"), resume(tmp_path / "run")
    for name in ("vectors.safetensors", "metrics.json", "SHA256SUMS"):  # as if killed before the end
        (tmp_path / "run" / name).unlink()
    with pytest.warns(UserWarning, match="unfinished"):
        computed = Recommender.load(tmp_path / "run")
    for other in (loaded, resumed, computed):
        torch.testing.assert_close(other.vectors.item, served.vectors.item)


def test_callbacks_are_called_in_order(tmp_path: Path) -> None:
    calls: list[Any] = []
    fit(synthetic_data(40, 60), MODEL, SMALL, callbacks=[Recorder(calls, "a"), Recorder(calls, "b")])
    of_a = [call[1:] for call in calls if call[0] == "a"]
    assert of_a == [call[1:] for call in calls if call[0] == "b"]
    assert [call[0] for call in calls] == ["a", "b"] * len(of_a)
    steps = of_a[0][1]
    of_epochs = [[*(("step", epoch, step) for step in range(1, steps + 1)), ("epoch", epoch)] for epoch in (1, 2)]
    assert of_a == [("start", steps), *of_epochs[0], *of_epochs[1]]


def test_any_callback_may_stop_the_training(tmp_path: Path) -> None:
    for callbacks in ([Recorder([]), Recorder([], stop_at=(1, 2))], [Recorder([], stop_at=(1, 2)), Recorder([])]):
        recommender = fit(synthetic_data(40, 60), MODEL, SMALL, callbacks=callbacks)
        assert recommender.metrics["stopped"] == "interrupted"
        assert recommender.metrics["epochs"] == recommender.metrics["best_epoch"] == 0
        assert callbacks[0].last == callbacks[1].last == (1, 2)
        assert len(recommender.recommend(["user-1"], k=3)) == 3
    assert CallbackList([]).should_stop() is False


def test_callback_list_passes_on_every_method() -> None:
    called: list[str] = []

    class Everything(Callback):
        def __getattribute__(self, name: str) -> Any:
            return lambda *_: called.append(name)

    both = CallbackList([Everything(), Everything()])
    methods = [name for name in vars(Callback) if not name.startswith("_")]
    for name in methods:
        getattr(both, name)(*inspect.signature(getattr(both, name)).parameters)
    assert called == [name for name in methods for _ in range(2)]


def test_resume_continues_in_memory_what_a_callback_stopped(tmp_path: Path) -> None:
    dataset = synthetic_data(20, 30)
    whole = fit(dataset, MODEL, SMALL)
    stopped = fit(dataset, MODEL, SMALL, tmp_path / "run", callbacks=[Recorder([], stop_at=(2, 1))])
    assert stopped.metrics["stopped"] == "interrupted"
    calls: list[Any] = []
    resumed = resume(tmp_path / "run", callbacks=[Recorder(calls)])
    assert calls[1] == ("step", 2, 2)
    assert torch.equal(resumed.vectors.user, whole.vectors.user)
    assert resumed.metrics["test"] == whole.metrics["test"]
    assert Recommender.load(tmp_path / "run").metrics == resumed.metrics


def test_best_epoch_counts_and_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recalls = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: {"recall@20": next(recalls)})
    config = TrainingConfig(**{**vars(SMALL), "epochs": 3})
    recommender = fit(synthetic_data(40, 60), MODEL, config, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.metrics()["best_epoch"] == recommender.metrics["best_epoch"] == 1
    evaluator = Evaluator(Recommender.load(tmp_path / "run"))
    assert torch.equal(evaluator.model.vectors(evaluator.data).user, recommender.vectors.user)
    checkpoint = run.checkpoint()
    assert torch.equal(checkpoint.best["user"], evaluator.model.user)
    assert not torch.equal(checkpoint.model["user"], evaluator.model.user)


def test_every_way_of_training_evaluates_held_out_items(text_shop: Path) -> None:
    dataset = Dataset.from_path(text_shop, split="cold-items")
    for settings in ({"precision": "bf16-mixed"}, {"precision": "64-true"}, {"edge_dropout": 0.3}):
        recommender = fit(dataset, MODEL, TrainingConfig(**{**vars(SMALL), "epochs": 1, **settings}))
        found = Evaluator(recommender).cold_start("test")["cold"]["recall@5"]
        assert found == pytest.approx(recommender.metrics["cold_start"]["test"]["cold"]["recall@5"], abs=0.02)


def test_impossible_trainings_are_refused_before_anything_is_written(text_shop: Path, tmp_path: Path) -> None:
    """All that can be checked is checked before the training, not hours later."""
    out = tmp_path / "run"
    dataset = Dataset.from_path(text_shop, split="cold-items")
    for data in (dataset, DataConfig(data=str(text_shop), split="cold-items")):
        for config, named in ((LIRDRecConfig(dct="2d"), "dct='feature'"), (VBPRConfig(), "'vbpr'.*new items")):
            with pytest.raises(ConfigError, match=named):
                fit(data, config, SMALL, out)
    dataset.graph[NEW_ITEM].test_edge_label_index = torch.empty(2, 0, dtype=torch.long)
    with pytest.raises(DataError, match="test split"):
        fit(dataset, MODEL, SMALL, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        fit(tmp_path / "nowhere", MODEL, SMALL, tmp_path / "file" / "run")
    assert [*contents(tmp_path)] == ["file"]


def test_run_that_another_program_finished_meanwhile_is_left_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run)
    for config in (MODEL, EASEConfig()):
        out = tmp_path / config.model

        def slow_start(config: TrainingConfig, out: Path = out) -> Any:
            shutil.copytree(run, out)
            return make_fabric(config)

        monkeypatch.setattr(importlib.import_module("lirdrec_pyg.recommender.fit"), "make_fabric", slow_start)
        with pytest.raises(RunError, match=r"not empty.*`resume`"):
            fit(synthetic_data(40, 60), config, SMALL, out)
        assert contents(out) == before


def test_smallest_data_with_new_items(tmp_path: Path) -> None:
    """One modality, two users, two items."""
    pair = np.array([[0], [1]])
    graph = build_graph(np.array([[0, 1], [0, 1]]), {"m": np.eye(2)}, val=pair, test=pair)
    held_out = {Split.VALID: torch.tensor([[0], [0]]), Split.TEST: torch.tensor([[0], [1]])}
    graph = set_new_items(graph, {"m": np.eye(2)}, held_out=held_out)
    users, items, new = (pl.Series("id", [f"{kind}-{n}" for n in range(2)]) for kind in ("user", "item", "new"))
    dataset = Dataset(graph, Vocabulary(users, "user"), Vocabulary(items, "item"), Vocabulary(new, "item"))
    recommender = fit(dataset, LIRDRecConfig(embedding_dim=8, knn_k=2), SMALL, tmp_path / "run")
    assert recommender.metrics["cold_start"]["test"]["cold"]["recall@5"] == 1.0
    assert Run.open(tmp_path / "run").verify()
