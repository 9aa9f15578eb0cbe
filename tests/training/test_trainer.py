import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from trainers import BATCH, KINDS, Stop, make_trainer, needs_torch_sparse, small_graph

from lirdrec_pyg import Callback
from lirdrec_pyg.data import INTERACTS, Split
from lirdrec_pyg.devices import resolve_device
from lirdrec_pyg.errors import LIRDRecError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.training import (
    MONITOR,
    EpochResult,
    Trainer,
    TrainingDivergedError,
    make_optimizer,
    trainer,
    training_step,
)


@pytest.fixture(scope="module")
def graph() -> HeteroData:
    return small_graph()


def weights(result: Trainer) -> dict[str, Tensor]:
    return copy.deepcopy(result.model.state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_times(history: list[EpochResult]) -> list[tuple[int, float, dict[str, float], bool]]:
    return [(r.epoch, r.loss, r.valid, r.improved) for r in history]


@pytest.mark.parametrize("settings", KINDS)
def test_seed_determines_everything(graph: HeteroData, settings: dict[str, Any]) -> None:
    first, again, other = (make_trainer(graph, epochs=1, seed=seed, **settings) for seed in (1, 1, 2))
    histories = [without_times(each.fit().history) for each in (first, again, other)]
    assert equal(weights(first), weights(again))
    assert histories[0] == histories[1]
    assert not equal(weights(first), weights(other))


def test_the_loss_falls(graph: HeteroData) -> None:
    history = make_trainer(graph, epochs=12).fit().history
    assert history[-1].loss < 0.9 * history[0].loss


def test_epoch_is_start_epoch_and_one_step_per_batch(graph: HeteroData) -> None:
    """Training by hand, with the same parts, leads to the same weights."""
    fitted = make_trainer(graph, epochs=2, weight_decay=1e-3)
    by_hand = make_trainer(graph, epochs=2, weight_decay=1e-3)
    steps = Stop()
    result = fitted.fit(steps)

    model, sampler = by_hand.model.module, by_hand.sampler
    optimizer = make_optimizer(model, by_hand.config)
    for epoch in range(2):
        model.train()
        model.start_epoch()
        batches = sampler.sample_epoch().split(BATCH, dim=1)
        losses = [float(training_step(model, by_hand.data, triples, optimizer)) for triples in batches]
        assert result.history[epoch].loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert equal(weights(fitted), weights(by_hand))
    per_epoch = fitted.steps_per_epoch
    assert per_epoch == math.ceil(graph[INTERACTS].edge_index.size(1) / BATCH) == len(batches)
    assert steps.steps == [(epoch, step) for epoch in (1, 2) for step in range(1, per_epoch + 1)]


def test_edge_dropout_trains_on_a_new_part_each_epoch_and_validates_on_the_whole(
    graph: HeteroData, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[HeteroData] = []

    def step(model: Any, data: HeteroData, *rest: Any) -> Tensor:
        used.append(data)
        return training_step(model, data, *rest)

    monkeypatch.setattr(trainer, "training_step", step)
    dropping = make_trainer(graph, epochs=2, edge_dropout=0.4)
    whole = dropping.data[INTERACTS].edge_index
    result = dropping.fit()

    epochs = [used[0], used[dropping.steps_per_epoch]]
    kept = [data[INTERACTS].edge_index for data in epochs]
    for data, edge_index in zip(epochs, kept, strict=True):
        assert edge_index.size(1) == math.floor(0.6 * whole.size(1))
        assert data[INTERACTS].adj_t.shape == dropping.data[INTERACTS].adj_t.shape
        assert data[INTERACTS].adj_t._matrix._nnz() == edge_index.size(1)
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(dropping.data[INTERACTS].edge_index, whole)
    assert len(dropping.sampler) == whole.size(1)
    assert evaluate_ranker(dropping.model.module.ranker(dropping.data), dropping.task) == result.history[-1].valid


@needs_torch_sparse
def test_backends_train_alike(graph: HeteroData) -> None:
    trained = [make_trainer(graph, edge_dropout=0.3, sparse_backend=b) for b in ("torch", "torch-sparse")]
    for each in trained:
        each.fit()
    torch.testing.assert_close(weights(trained[0]), weights(trained[1]), rtol=1e-3, atol=1e-4)


def test_steps_run_in_the_requested_precision(graph: HeteroData) -> None:
    for precision, linear, parameter in (
        ("32-true", torch.float32, torch.float32),
        ("bf16-mixed", torch.bfloat16, torch.float32),
        ("64-true", torch.float64, torch.float64),
    ):
        training = make_trainer(graph, epochs=1, precision=precision)
        seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

        def note(module: nn.Module, inputs: Any, output: Tensor, seen: Any = seen) -> None:
            seen[module.training].add(output.dtype)

        training.model.module.encoders[0].lin1.register_forward_hook(note)
        training.fit()
        # Validation is never in mixed precision.
        assert seen == {True: {linear}, False: {parameter}}
        assert training.model.module.user.dtype == parameter


class Weights(Callback):
    """Notes the weights at the end of each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_fit_start(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_end(self, result: EpochResult) -> None:
        self.states.append(weights(self.trainer))


def test_early_stopping(graph: HeteroData, monkeypatch: pytest.MonkeyPatch) -> None:
    for recalls, patience, epochs, best in (
        ((0.1, 0.3, 0.2, 0.3, 0.25, 0.9), 3, 5, 2),
        ((0.1, 0.3, 0.2, 0.4, 0.3, 0.3), 2, 6, 4),
        ((0.0, 0.0, 0.0), 1, 2, 1),
        ((0.1, 0.2, 0.3), 1, 3, 3),
    ):
        training, noted, scripted = (
            make_trainer(graph, epochs=len(recalls), patience=patience),
            Weights(),
            iter(recalls),
        )
        monkeypatch.setattr(training, "evaluate", lambda task, scripted=scripted: {MONITOR: next(scripted)})
        result = training.fit(noted)
        assert len(result.history) == epochs
        assert result.best_epoch == best
        assert equal(result.best_state, noted.states[best - 1])
        assert [r.improved for r in result.history] == [
            recall > max(recalls[:n], default=-1.0) for n, recall in enumerate(recalls[:epochs])
        ]
        ran_out = epochs - best >= patience
        assert result.stopped == (f"no better recall@20 in {patience} epochs" if ran_out else "all epochs done")


def test_average_of_the_weights_is_validated_and_kept_while_the_training_is_the_same(graph: HeteroData) -> None:
    plain, averaging = make_trainer(graph), make_trainer(graph, ema=0.4)
    expected: dict[str, Tensor] = {}
    kept: list[dict[str, Tensor]] = []

    class Recursion(Callback):
        steps = 0

        def on_step_end(self, epoch: int, step: int) -> None:
            decay = min(0.4, self.steps / (9 + self.steps))  # the first weights are forgotten
            for name, x in averaging.model.module.named_parameters():
                expected[name] = (decay * expected[name] if self.steps else 0) + (1 - decay) * x.detach()
            self.steps += 1

        def on_epoch_end(self, result: EpochResult) -> None:
            kept.append({name: x.clone() for name, x in expected.items()})

    plain.fit()
    result = averaging.fit(recursion := Recursion())
    assert recursion.steps > 8  # the limit of the decay is reached
    assert equal(weights(plain), weights(averaging))
    best = {name: result.best_state[name] for name in expected}
    torch.testing.assert_close(best, kept[result.best_epoch - 1])

    model = averaging.model.module
    assert evaluate_ranker(model.ranker(averaging.data), averaging.task) != result.history[-1].valid
    model.load_state_dict({**model.state_dict(), **averaging.average})
    torch.testing.assert_close(averaging.average, kept[-1])
    assert evaluate_ranker(model.ranker(averaging.data), averaging.task) == result.history[-1].valid


def test_time_limit_ends_the_training_after_an_epoch(graph: HeteroData, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make_trainer(graph, minutes=1e-9)
    result = training.fit()
    assert (len(result.history), result.best_epoch, result.stopped) == (1, 1, "1e-09 minutes are over")
    resumed, rest = make_trainer(graph, minutes=1e-9), Stop()
    resumed.restore(training.checkpoint())
    assert resumed.fit(rest).stopped == "1e-09 minutes are over"
    assert not rest.steps
    assert make_trainer(graph, minutes=1e9).fit().stopped == "all epochs done"
    # Of several processes, the first one decides.
    told = make_trainer(graph, minutes=60)
    monkeypatch.setattr(told.fabric, "broadcast", lambda over: not over)
    assert told.fit().stopped == "60 minutes are over"


def test_without_a_validation_split_the_last_epoch_is_best(graph: HeteroData) -> None:
    without = copy.copy(graph)
    del without[INTERACTS][Split.VALID.edge_label_key]
    training, noted = make_trainer(without, epochs=4, patience=1), Weights()
    assert training.task is None
    result = training.fit(noted)
    assert (result.best_epoch, len(result.history), result.stopped) == (4, 4, "all epochs done")
    assert all(epoch.improved and epoch.valid == {} for epoch in result.history)
    assert equal(result.best_state, noted.states[-1])
    assert equal(result.best_state, weights(training))


def test_should_stop_ends_within_an_epoch(graph: HeteroData) -> None:
    training, stop = make_trainer(graph), Stop((2, 1))
    result = training.fit(stop)
    assert stop.steps[-1] == (2, 1)
    assert [r.epoch for r in result.history] == [1]
    assert result.best_epoch == 1
    assert result.stopped == "interrupted"
    assert not equal(result.best_state, weights(training))


def test_stopping_before_the_first_validation_keeps_the_weights(graph: HeteroData) -> None:
    training = make_trainer(graph)
    start = weights(training)
    result = training.fit(Stop((1, 1)))
    assert (result.best_epoch, result.history, result.stopped) == (0, [], "interrupted")
    assert equal(result.best_state, weights(training))
    assert not torch.equal(result.best_state["user"], start["user"])


def test_stopping_before_the_first_step_trains_nothing(graph: HeteroData) -> None:
    class StopAtOnce(Callback):
        def should_stop(self) -> bool:
            return True

    training = make_trainer(graph)
    start = weights(training)
    result = training.fit(StopAtOnce())
    assert (result.best_epoch, result.history, result.stopped) == (0, [], "interrupted")
    assert torch.equal(result.best_state["user"], start["user"])
    assert int(result.best_state["fusion.epoch"]) == 0


def test_infinite_or_nan_loss_is_an_error(graph: HeteroData) -> None:
    for value in (float("nan"), float("inf")):
        training = make_trainer(graph)

        class Poison(Callback):
            def on_step_end(self, epoch: int, step: int, training: Any = training, value: float = value) -> None:
                if epoch == 2:
                    training.model.module.encoders[0].lin1.weight.data.fill_(value)

        with pytest.raises(TrainingDivergedError, match=r"nan in epoch 2, step 2\. Lower `lr`"):
            training.fit(Poison())


def test_task_is_the_validation_split(graph: HeteroData) -> None:
    training = make_trainer(graph)
    expected = RankingTask.from_graph(graph, "valid")
    assert torch.equal(training.task.label_index, expected.label_index)
    assert torch.equal(training.task.user_index, expected.user_index)


def test_missing_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    with pytest.raises(LIRDRecError, match="no CUDA device"):
        resolve_device("cuda")
