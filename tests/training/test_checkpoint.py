import copy
from collections.abc import Iterator
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
from trainers import KINDS, make_trainer, one_thread, small_graph

from lirdrec_pyg.errors import RunError
from lirdrec_pyg.training import Checkpoint, Trainer, TrainingDivergedError


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


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
    }


def assert_same(one: Trainer, other: Trainer) -> None:
    expected, actual = everything(one), everything(other)
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    for a, b in zip(one.result.history, other.result.history, strict=True):
        assert (a.epoch, a.loss, a.valid, a.improved) == (b.epoch, b.loss, b.valid, b.improved)
    assert one.result.best_epoch == other.result.best_epoch


@pytest.mark.parametrize("stop_at", [(1, 1), (1, 3), (2, 2), (3, 1)])
@pytest.mark.parametrize("settings", KINDS)
def test_a_training_goes_on_as_if_it_had_never_stopped(
    graph: HeteroData, settings: dict[str, Any], stop_at: tuple[int, int], tmp_path: Path
) -> None:
    undisturbed = make_trainer(graph, **settings)
    undisturbed.fit()

    stopped = make_trainer(graph, **settings)
    steps: list[tuple[int, int]] = []
    result = stopped.fit(on_step=lambda *step: steps.append(step), should_stop=lambda: steps[-1:] == [stop_at])
    assert result.stopped == "interrupted"
    stopped.checkpoint().save(tmp_path / "checkpoint.safetensors")

    going_on = make_trainer(graph, seed=99, **settings)
    going_on.restore(Checkpoint.load(tmp_path / "checkpoint.safetensors"))
    steps.clear()
    going_on.fit(on_step=lambda *step: steps.append(step))
    assert steps[0] == (stop_at[0], stop_at[1] + 1)
    assert_same(undisturbed, going_on)


def half_precision() -> Fabric:
    """``16-mixed``, which Fabric has on a GPU only, with a loss scale that goes up and down."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=2)
    return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))


@pytest.mark.parametrize("stop_at", [(1, 2), (2, 3)])
def test_the_scale_of_the_loss_goes_on_too(graph: HeteroData, stop_at: tuple[int, int], tmp_path: Path) -> None:
    undisturbed, stopped, going_on = (make_trainer(graph, half_precision()) for _ in range(3))
    undisturbed.fit()
    steps: list[tuple[int, int]] = []
    stopped.fit(on_step=lambda *step: steps.append(step), should_stop=lambda: steps[-1:] == [stop_at])
    checkpoint = stopped.checkpoint()
    assert checkpoint.precision["scale"] < 2.0**30
    checkpoint.save(tmp_path / "checkpoint.safetensors")
    going_on.restore(Checkpoint.load(tmp_path / "checkpoint.safetensors"))
    going_on.fit()
    assert going_on.checkpoint().precision == undisturbed.checkpoint().precision
    assert_same(undisturbed, going_on)
    # On a device without such a scale it is not needed.
    make_trainer(graph).restore(checkpoint)


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_it_goes_on_from_the_end_of_an_epoch(graph: HeteroData, epochs: int, tmp_path: Path) -> None:
    undisturbed = make_trainer(graph)
    first = make_trainer(graph)

    def keep(result: Any) -> None:
        if result.epoch == epochs:
            first.checkpoint().save(tmp_path / "c.safetensors")

    if epochs == 0:
        first.checkpoint().save(tmp_path / "c.safetensors")
    undisturbed.fit()
    first.fit(on_epoch=keep)
    # To look at a checkpoint changes nothing.
    assert_same(undisturbed, first)
    again = make_trainer(graph, seed=5)
    again.restore(Checkpoint.load(tmp_path / "c.safetensors"))
    again.fit()
    assert_same(undisturbed, again)


def test_the_same_trainer_may_go_on(graph: HeteroData) -> None:
    undisturbed, stopped = make_trainer(graph), make_trainer(graph)
    undisturbed.fit()
    answers = iter([False] * 4 + [True])
    stopped.fit(should_stop=lambda: next(answers, True))
    stopped.fit()
    assert_same(undisturbed, stopped)


def test_a_finished_training_is_not_trained_further(graph: HeteroData) -> None:
    trainer = make_trainer(graph, epochs=2)
    trainer.fit()
    before = everything(trainer)
    other = make_trainer(graph, epochs=2)
    other.restore(trainer.checkpoint())
    assert other.fit(on_step=lambda *_: pytest.fail("trained")).stopped == "all epochs done"
    assert all(torch.equal(before[name], value) for name, value in everything(other).items())


def test_there_is_no_checkpoint_of_a_state_that_is_no_number(graph: HeteroData) -> None:
    trainer = make_trainer(graph)

    def poison(epoch: int, step: int) -> None:
        if step == 2:
            with pytest.raises(TrainingDivergedError) as caught:
                trainer.checkpoint()
            assert (caught.value.epoch, caught.value.step) == (1, 2)
            assert torch.equal(caught.value.triples, trainer._batches[1])
        trainer.model.module.encoders[0].lin1.weight.data.fill_(torch.nan)

    with pytest.raises(TrainingDivergedError):
        trainer.fit(on_step=poison)


@pytest.fixture
def saved(graph: HeteroData, tmp_path: Path) -> Path:
    trainer = make_trainer(graph, epochs=1)
    trainer.fit()
    trainer.checkpoint().save(tmp_path / "checkpoint.safetensors")
    return tmp_path / "checkpoint.safetensors"


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_a_damaged_checkpoint_is_named(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(RunError, match=r"checkpoint\.safetensors"):
        Checkpoint.load(saved)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_flipped_bit_is_noticed_or_changes_nothing(saved: Path, data: st.DataObject) -> None:
    content = bytearray(saved.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = saved.with_name("flipped.safetensors")
    flipped.write_bytes(content)
    try:
        found = Checkpoint.load(flipped)
    except RunError:
        return
    expected = Checkpoint.load(saved)
    assert repr(found) == repr(expected)
    assert all(torch.equal(found.model[name], value) for name, value in expected.model.items())


def test_a_checkpoint_without_a_checksum_is_read(saved: Path) -> None:
    """Those of earlier releases have none."""
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    for key in ("sha256", "precision"):
        del metadata[key]
    save_file(load_file(saved), saved, metadata)
    assert Checkpoint.load(saved).precision == {}


@pytest.mark.parametrize("name", ["losses", "generator", "random"])
def test_a_checkpoint_that_lacks_something_is_named(saved: Path, name: str) -> None:
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(saved)
    del tensors[name]
    save_file(tensors, saved, metadata)
    with pytest.raises(RunError, match=r"checkpoint\.safetensors"):
        Checkpoint.load(saved)


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="format"):
        Checkpoint.load(tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="nothing"):
        Checkpoint.load(tmp_path / "nothing.safetensors")
