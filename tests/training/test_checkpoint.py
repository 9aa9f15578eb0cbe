import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_geometric.data import HeteroData
from trainers import KINDS, Stop, make_trainer, small_graph

from lirdrec_pyg import Callback
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.training import Checkpoint, EpochResult, Trainer, TrainingDivergedError


@pytest.fixture(scope="module")
def graph() -> HeteroData:
    return small_graph()


def everything(trainer: Trainer) -> dict[str, Tensor]:
    optimizer = trainer.checkpoint().optimizer
    return {
        **copy.deepcopy(trainer.model.state_dict()),
        **{f"{n}/{name}": value.clone() for n, state in optimizer.items() for name, value in state.items()},
        "generator": trainer.generator.get_state(),
        **{f"best/{name}": value for name, value in trainer.result.best_state.items()},
        **{f"average/{name}": value.clone() for name, value in trainer.average.items()},
    }


def assert_same(one: Trainer, other: Trainer) -> None:
    expected, actual = everything(one), everything(other)
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    for a, b in zip(one.result.history, other.result.history, strict=True):
        assert (a.epoch, a.loss, a.valid, a.improved) == (b.epoch, b.loss, b.valid, b.improved)
    assert one.result.best_epoch == other.result.best_epoch


@pytest.mark.parametrize("settings", KINDS)
def test_training_resumes_as_if_it_had_never_stopped(
    graph: HeteroData, settings: dict[str, Any], tmp_path: Path
) -> None:
    uninterrupted = make_trainer(graph, **settings)
    uninterrupted.fit()
    trainer = make_trainer(graph, **settings)
    for stop_at in ((1, 1), (2, 2), (3, 1)):
        assert trainer.fit(Stop(stop_at)).stopped == "interrupted"
        trainer.checkpoint().save(tmp_path / "checkpoint.safetensors")
        trainer = make_trainer(graph, seed=99, **settings)
        trainer.restore(Checkpoint.load(tmp_path / "checkpoint.safetensors"))
    rest = Stop()
    trainer.fit(rest)
    assert rest.steps[0] == (3, 2)
    assert_same(uninterrupted, trainer)


def half_precision() -> Fabric:
    """``16-mixed``, which Fabric offers on a GPU only, with a loss scale that rises and falls."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=2)
    return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))


def test_loss_scale_is_resumed(graph: HeteroData, tmp_path: Path) -> None:
    uninterrupted, stopped, resumed = (make_trainer(graph, half_precision()) for _ in range(3))
    uninterrupted.fit()
    stopped.fit(Stop((2, 3)))
    checkpoint = stopped.checkpoint()
    assert checkpoint.precision["scale"] < 2.0**30
    checkpoint.save(tmp_path / "checkpoint.safetensors")
    resumed.restore(Checkpoint.load(tmp_path / "checkpoint.safetensors"))
    resumed.fit()
    assert resumed.checkpoint().precision == uninterrupted.checkpoint().precision
    assert_same(uninterrupted, resumed)
    # On a device without such a scale it is not needed.
    make_trainer(graph).restore(checkpoint)


class SaveAtEndOf(Callback):
    """Saves a checkpoint at the end of each epoch, as the callback of a run does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Trainer) -> None:
        self.trainer = trainer
        trainer.checkpoint().save(self.folder / "0.safetensors")

    def on_epoch_end(self, result: EpochResult) -> None:
        self.trainer.checkpoint().save(self.folder / f"{result.epoch}.safetensors")


def test_training_resumes_from_the_end_of_an_epoch(graph: HeteroData, tmp_path: Path) -> None:
    uninterrupted, first = make_trainer(graph), make_trainer(graph)
    uninterrupted.fit()
    first.fit(SaveAtEndOf(tmp_path))
    # Making a checkpoint changes nothing.
    assert_same(uninterrupted, first)
    for epoch in range(3):
        again = make_trainer(graph, seed=5)
        again.restore(Checkpoint.load(tmp_path / f"{epoch}.safetensors"))
        again.fit()
        assert_same(uninterrupted, again)


def test_same_trainer_may_continue(graph: HeteroData) -> None:
    uninterrupted, stopped = make_trainer(graph), make_trainer(graph)
    uninterrupted.fit()
    stopped.fit(Stop((2, 1)))
    stopped.fit()
    assert_same(uninterrupted, stopped)


def test_finished_training_is_not_trained_further(graph: HeteroData) -> None:
    trainer = make_trainer(graph, epochs=2)
    trainer.fit()
    before = everything(trainer)
    other, steps = make_trainer(graph, epochs=2), Stop()
    other.restore(trainer.checkpoint())
    assert other.fit(steps).stopped == "all epochs done"
    assert not steps.steps
    assert all(torch.equal(before[name], value) for name, value in everything(other).items())


def test_no_checkpoint_holds_nan(graph: HeteroData) -> None:
    trainer = make_trainer(graph)

    class Poison(Callback):
        def on_step_end(self, epoch: int, step: int) -> None:
            if step == 2:
                with pytest.raises(TrainingDivergedError) as caught:
                    trainer.checkpoint()
                assert (caught.value.epoch, caught.value.step) == (1, 2)
                assert torch.equal(caught.value.triples, trainer._batches[1])
            trainer.model.module.encoders[0].lin1.weight.data.fill_(torch.nan)

    with pytest.raises(TrainingDivergedError):
        trainer.fit(Poison())


@pytest.fixture(scope="module")
def saved(graph: HeteroData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; never to be changed."""
    trainer = make_trainer(graph, epochs=1)
    trainer.fit()
    path = tmp_path_factory.mktemp("saved") / "checkpoint.safetensors"
    trainer.checkpoint().save(path)
    return path


def test_damaged_checkpoint_is_named(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    for size in (0, 5, 1000, -1):
        path.write_bytes(saved.read_bytes()[:size])
        with pytest.raises(RunError, match=r"checkpoint\.safetensors"):
            Checkpoint.load(path)
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    for name in ("losses", "generator", "random"):
        tensors = load_file(saved)
        del tensors[name]
        save_file(tensors, path, metadata)
        with pytest.raises(RunError, match=r"checkpoint\.safetensors"):
            Checkpoint.load(path)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_flipped_bit_is_noticed_or_changes_nothing(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(saved.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(content)
    try:
        found = Checkpoint.load(flipped)
    except RunError:
        return
    expected = Checkpoint.load(saved)
    assert repr(found) == repr(expected)
    assert all(torch.equal(found.model[name], value) for name, value in expected.model.items())


def test_checkpoint_without_a_checksum_is_read(saved: Path, tmp_path: Path) -> None:
    """Those of earlier releases have none."""
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    for key in ("sha256", "precision"):
        del metadata[key]
    save_file(load_file(saved), tmp_path / "checkpoint.safetensors", metadata)
    assert Checkpoint.load(tmp_path / "checkpoint.safetensors").precision == {}


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="format"):
        Checkpoint.load(tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="nothing"):
        Checkpoint.load(tmp_path / "nothing.safetensors")


def test_checkpoint_of_another_training_is_refused(graph: HeteroData, saved: Path) -> None:
    checkpoint = Checkpoint.load(saved)
    model = {**checkpoint.model, "user": torch.zeros(3, 3, 8)}
    for other in (replace(checkpoint, model=model), replace(checkpoint, losses=torch.zeros(100))):
        with pytest.raises(RunError, match="another model, graph, batch size"):
            make_trainer(graph).restore(other)
    averaging = make_trainer(graph, ema=0.9)
    for trainer, state in ((averaging, checkpoint), (make_trainer(graph), averaging.checkpoint())):
        with pytest.raises(RunError, match="`ema`"):
            trainer.restore(state)
