import copy
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import INTERACTS, Split, held_out_edges
from lirdrec_pyg.errors import LIRDRecError, RunError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking, trained_users_only
from lirdrec_pyg.models import Model, ModelConfig, model_class
from lirdrec_pyg.nn import RowShards, SeenItems
from lirdrec_pyg.sampler import BPRSampler, UserSampler
from lirdrec_pyg.training.checkpoint import Checkpoint, EpochResult, optimizer_state, restore_optimizers
from lirdrec_pyg.training.config import TrainingConfig
from lirdrec_pyg.training.distributed import ProcessLostError, make_fabric, noticing_lost_processes, share_of
from lirdrec_pyg.training.loaders import (
    FullGraphLoader,
    SampledGraphLoader,
    ShardedGraphLoader,
    input_transform,
    part_of_users,
)
from lirdrec_pyg.training.step import CapturedStep, Step, make_optimizers, training_step

MONITOR = "recall@20"

# Losses are checked together: checking each would make the host wait for the device in every step.
_STEPS_BETWEEN_CHECKS = 64
# How often several processes agree on whether to stop.
_STEPS_BETWEEN_AGREEMENTS = 16


class TrainingDivergedError(LIRDRecError):
    """The loss became infinite or NaN.

    Attributes:
        epoch: epoch, counted from 1.
        step: first such step, counted from 1.
        triples: triples of that step, int64, shape ``(3, N)`` or with further rows of negatives.
    """

    exit_code = 1

    def __init__(self, loss: float, epoch: int, step: int, triples: Tensor) -> None:
        super().__init__(
            f"The loss became {loss} in epoch {epoch}, step {step}. Lower `lr`, pass `precision='32-true'`, or check "
            "the features for extreme values."
        )
        self.epoch = epoch
        self.step = step
        self.triples = triples


@dataclass
class FitResult:
    """Result of a training.

    Attributes:
        best_epoch: epoch with the best validation Recall@20, or the last one without a validation split; 0 if no epoch
            was finished.
        best_state: ``state_dict`` at the end of that epoch; the final one if no epoch was finished.
        history: all finished epochs.
        stopped: why the training ended.
    """

    best_epoch: int
    best_state: dict[str, Tensor]
    history: list[EpochResult] = field(default_factory=list)
    stopped: str = "all epochs done"

    @property
    def seconds(self) -> float:
        """Time that these epochs took."""
        return sum(epoch.seconds for epoch in self.history)


class Trainer:
    """Trains a model by BPR on a graph, with early stopping on the validation Recall@20.

    Without a validation split, it trains for exactly ``config.epochs`` epochs and keeps the last one.

    :meth:`checkpoint` returns the state between two steps, from which another trainer reaches the same weights.

    With several processes, each has the whole graph and draws the same triples, and computes its share of every step;
    gradients are averaged, and validation is divided by user. All processes reach the same weights, which equal those
    of a single process up to rounding.

    Args:
        model: a :class:`torch.nn.Module` that is a :class:`~lirdrec_pyg.training.Trainable`.
        data: a graph as the model's ``input_transform`` leaves it.
        config: settings of the training.
        fabric: device and processes; by default that of :func:`~lirdrec_pyg.training.make_fabric`.

    Attributes:
        num_restored: number of epochs that a checkpoint had.
    """

    def __init__(
        self, model: nn.Module, data: HeteroData, config: TrainingConfig, fabric: Fabric | None = None
    ) -> None:
        self.config = config
        self.fabric = fabric or make_fabric(config)
        self.shards: RowShards | None = getattr(model, "shards", None)
        self.sharded: list[str] = [] if self.shards is None else model.user_tables  # type: ignore[assignment]
        # DDP averages the gradients of the others. Some of its code puts a dot before names of the outermost module.
        model._ddp_params_and_buffers_to_ignore = [*self.sharded, *(f".{name}" for name in self.sharded)]  # type: ignore[assignment]
        self.loader = self._loader(model, data)
        self.data, self.generator = self.loader.data, self.loader.generator
        self._bare_optimizers = make_optimizers(model, config)
        self.model, *self.optimizers = self.fabric.setup(model, *self._bare_optimizers)
        self.model.mark_forward_method("loss")
        self.average = {name: x.detach().clone() for name, x in model.named_parameters()} if config.ema else {}
        self.sampler = self._sampler(model)
        self._training_step: Step = self._run_step
        if self._is_capturable():
            self._training_step = CapturedStep(self._run_step, self._bare_optimizers)
        self.task = self.ranking_task(Split.VALID)
        self.result = FitResult(0, {})
        self.num_restored = 0
        # Of the current epoch: generator state before it, its batches, their losses, finished steps.
        self._generator_before = self.generator.get_state()
        self._batches: tuple[Tensor, ...] = ()
        self._losses = torch.zeros(self.steps_per_epoch, device=self.fabric.device)
        self._step = 0
        self._seconds = 0.0

    def _loader(self, model: Any, data: HeteroData) -> FullGraphLoader | SampledGraphLoader:
        config, device = self.config, self.fabric.device
        if config.sampling == "full":
            return FullGraphLoader(data, config, device)
        if self.shards is None:
            return SampledGraphLoader(model, data, config, device)
        return ShardedGraphLoader(model, data, config, device, self.shards, self._total)

    def ranking_task(self, split: Split) -> RankingTask | None:
        """Return the task of a split for all users, or for those of this process if they are sharded."""
        if not held_out_edges(self.data, split).numel():
            return None
        if self.shards is None:
            return RankingTask.from_graph(self.data, split)
        own = part_of_users(self.data, self.shards.rows)
        seen = SeenItems.of(own[INTERACTS].edge_index, own["user"].num_nodes)
        user, item = self.data[INTERACTS].edge_index
        first = int(torch.searchsorted(user, self.shards.start))
        seen = replace(seen, item=item[first : first + len(seen.item)])  # of the file, not of the copy
        return RankingTask.of(trained_users_only(held_out_edges(own, split), own), seen, own["item"].num_nodes)

    def _sampler(self, model: nn.Module) -> BPRSampler | UserSampler:
        edge_index, num_users = self.data[INTERACTS].edge_index, self.data["user"].num_nodes
        if not getattr(model, "samples_negatives", True):
            return UserSampler(edge_index, num_users, self.generator)
        return BPRSampler(
            edge_index,
            num_users,
            self.data["item"].num_nodes,
            alpha=self.config.popularity_alpha,
            generator=self.generator,
            num_negatives=self.config.negatives,
            known=self.data[INTERACTS].get("known_pairs"),
        )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)

    @property
    def batch_size(self) -> int:
        """Triples per step."""
        return self.config.triples_per_step(len(self.sampler))

    def fit(self, callback: Callback | None = None) -> FitResult:
        """Train until patience, epochs or time are used up; leave the model in eval mode.

        Args:
            callback: follows the training, and may stop it; an unfinished epoch is not validated.

        Raises:
            TrainingDivergedError: if the loss becomes infinite or NaN.
            ProcessLostError: if another of several processes has ended.
        """
        try:
            with noticing_lost_processes():
                return self._fit(callback or Callback())
        except ProcessLostError as error:
            # Before the first step, the first process has ended by a mistake that it names.
            error.is_for_each_process = self._step > 0 or bool(self.result.history)
            raise

    def _fit(self, callback: Callback) -> FitResult:
        callback.on_fit_start(self)
        result = self.result
        while (reason := self._reason_to_end()) is None:
            if self.any_stops(callback) or not self._train_epoch(callback):
                reason = "interrupted"
                break
            self._end_epoch()
            callback.on_epoch_end(result.history[-1])
        result.stopped = reason
        if result.best_epoch == 0:
            result.best_state = copy.deepcopy(self.model.state_dict())
        self.model.eval()
        return result

    def _reason_to_end(self) -> str | None:
        done = len(self.result.history)
        if done and done - self.result.best_epoch >= self.config.patience:
            return f"no better {MONITOR} in {self.config.patience} epochs"
        if done >= self.config.epochs:
            return "all epochs done"
        if (minutes := self.config.minutes) is None:
            return None
        over = self.fabric.broadcast(self.result.seconds >= 60 * minutes)  # each process has its own clock
        return f"{minutes:g} minutes are over" if over else None

    def allow_minutes(self, minutes: float) -> None:
        """Let the training go on for so many minutes, beside what it has taken."""
        self.config = replace(self.config, minutes=math.ceil(100 * (minutes + self.result.seconds / 60)) / 100)

    def _train_epoch(self, callback: Callback) -> bool:
        """Train the remaining steps of the epoch; return ``False`` if it was interrupted."""
        start = time.perf_counter() - self._seconds
        epoch = len(self.result.history) + 1
        self.model.train()
        if self._step == 0:
            self._generator_before = self.generator.get_state()
            self.model.start_epoch()
        else:
            # The same draws as when the epoch began.
            self.generator.set_state(self._generator_before)
        self.loader.start_epoch()
        self._batches = self.sampler.sample_epoch().split(self.batch_size, dim=1)
        shares = [share_of(batch, self.fabric.global_rank, self.fabric.world_size) for batch in self._batches]
        if self.shards is not None:  # the parts of the others would take memory
            shares = [(part.clone(), weight) for part, weight in shares]
            self._batches = tuple(part for part, _ in shares)
        batches, shares = self._batches[self._step :], shares[self._step :]
        steps = self.loader.steps([part for part, _ in shares], self._step)
        for batch, (part, weight) in zip(batches, shares, strict=True):
            data, triples = next(steps)
            loss = self._training_step(data, triples, weight)
            self._update_average()
            del data, triples  # free a sampled graph before the next one is made
            if self.fabric.world_size > 1:
                self.loader.synchronize(self.model.module, batch, part, self._total)
            self._losses[self._step] = self._total(loss) / self.fabric.world_size
            self._step += 1
            self._seconds = time.perf_counter() - start
            if self._step % _STEPS_BETWEEN_CHECKS == 0:
                self._check_losses()
            callback.on_step_end(epoch, self._step)
            if self._step < len(self._batches) and self.any_stops(callback, self._step):
                return False
        self._check_losses()
        self._seconds = time.perf_counter() - start
        return True

    def _run_step(self, data: HeteroData, triples: Tensor, weight: float) -> Tensor:
        fabric = self.fabric
        return training_step(self.model, data, triples, self.optimizers, fabric.backward, fabric.autocast, weight)

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average:
            step = len(self.result.history) * self.steps_per_epoch + self._step
            decay = min(self.config.ema, step / (9 + step))  # 0 in the first step: it starts with trained weights
            weights = [x.detach() for x in self.model.module.parameters()]
            torch._foreach_lerp_([*self.average.values()], weights, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the averaged weights temporarily, if there are any."""
        parameters = dict(self.model.module.named_parameters()) if self.average else {}
        trained = {name: x.data for name, x in parameters.items()}
        for name, x in parameters.items():
            x.data = self.average[name]
        try:
            yield
        finally:
            for name, x in parameters.items():
                x.data = trained[name]

    def _is_capturable(self) -> bool:
        """Return whether a step is the same work for each batch, without waiting for the device."""
        config, fabric = self.config, self.fabric
        return (
            fabric.device.type == "cuda"
            and fabric.world_size == 1
            and (config.sampling, config.sparse_backend) == ("full", "torch")
            and config.precision != "16-mixed"  # its loss scale is read in each step
            and getattr(self.model.module, "is_capturable", False)
        )

    def _total(self, value: Tensor) -> Tensor:
        """Sum ``value`` over the processes."""
        if self.fabric.world_size == 1:
            return value
        total = self.fabric.all_reduce(value, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def any_stops(self, callback: Callback, step: int = 0) -> bool:
        """Return whether the callback of any process asks to stop; all processes get the same answer."""
        if self.fabric.world_size == 1:
            return callback.should_stop()
        if step % _STEPS_BETWEEN_AGREEMENTS:
            return False
        asks = torch.tensor(float(callback.should_stop()), device=self.fabric.device)
        return bool(self._total(asks) > 0)

    def _check_losses(self) -> None:
        wrong = (~self._losses[: self._step].isfinite()).nonzero()
        if len(wrong):
            step = int(wrong[0])
            epoch = len(self.result.history) + 1
            raise TrainingDivergedError(float(self._losses[step]), epoch, step + 1, self._batches[step])

    def _check_weights(self) -> None:
        """Raise if weights are not finite: a finite loss may have a gradient that is not."""
        if not self._batches or all(bool(value.isfinite().all()) for value in self.model.parameters()):
            return
        epoch, step = len(self.result.history) + bool(self._step), self._step or len(self._batches)
        raise TrainingDivergedError(math.nan, epoch, step, self._batches[step - 1])

    def _end_epoch(self) -> None:
        result, loss, start = self.result, float(self._losses[: self._step].mean()), time.perf_counter()
        epoch = len(result.history) + 1
        best = max((r.valid[MONITOR] for r in result.history if r.valid), default=-math.inf)
        with self.averaged():
            valid = {} if self.task is None else self.evaluate(self.task)
            improved = not valid or valid[MONITOR] > best
            if improved:
                result.best_epoch = epoch
                result.best_state = copy.deepcopy(self.model.state_dict())
        result.history.append(EpochResult(epoch, loss, valid, improved, self._seconds, time.perf_counter() - start))
        self._step, self._seconds = 0, 0.0

    def checkpoint(self) -> Checkpoint:
        """Return the state of the training. Call it from callbacks of :meth:`fit`, or afterwards until the model gets
        other weights.

        Raises:
            TrainingDivergedError: if loss or weights are not finite.
        """
        self._check_losses()
        self._check_weights()
        optimizer = optimizer_state(self._bare_optimizers, self.model.parameters())
        for number in self._sharded_parameters():
            optimizer[number] = {
                name: x if x.dim() == 0 else self._distributed(x) for name, x in optimizer.get(number, {}).items()
            }
        return Checkpoint(
            model=self.distributed(self.model.state_dict()),
            optimizer=optimizer,
            best=self.distributed(self.result.best_state),
            best_epoch=self.result.best_epoch,
            history=self.result.history,
            losses=self._losses[: self._step],
            seconds=self._seconds,
            generator=self._generator_before if self._step else self.generator.get_state(),
            random=torch.get_rng_state(),
            precision=self.fabric.strategy.precision.state_dict(),
            average=self.distributed(self.average),
        )

    def _sharded_parameters(self) -> list[int]:
        """Return the numbers of the parameters with a row per user of this process."""
        return [n for n, (name, _) in enumerate(self.model.module.named_parameters()) if name in self.sharded]

    def _distributed(self, table: Tensor) -> Tensor:
        assert self.shards is not None
        return self.shards.distributed(table)

    def distributed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``state`` with tables of all users in place of those of this process, if users are sharded."""
        return {name: self._distributed(x) if name in self.sharded else x for name, x in state.items()}

    def _own(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the part of this process of ``checkpoint``."""
        assert self.shards is not None
        rows = self.shards.rows

        def own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: x[rows].clone() if name in self.sharded else x.clone() for name, x in state.items()}

        optimizer = dict(checkpoint.optimizer)
        for number in self._sharded_parameters():
            state = optimizer.get(number, {})
            optimizer[number] = {name: x[rows].clone() if x.dim() else x for name, x in state.items()}
        return replace(
            checkpoint,
            model=own(checkpoint.model),
            best=own(checkpoint.best),
            average=own(checkpoint.average),
            optimizer=optimizer,
        )

    def agreed(self, answer: bool) -> bool:
        """Return the answer of the first process if users are sharded, where all have to do the same."""
        return answer if self.shards is None else self.fabric.broadcast(answer)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of the trainer that made ``checkpoint``.

        On the CPU, with the same number of threads, the weights will be bit-identical; on another kind of device, other
        triples are drawn.

        Raises:
            RunError: if the checkpoint belongs to another model, graph or batch size, or was made with ``ema`` and the
                trainer has none, or the reverse.
        """
        if self.shards is not None:
            checkpoint = self._own(checkpoint)
        if not self._fits(checkpoint):
            raise RunError(
                "The checkpoint belongs to another model, graph, batch size or `ema` than the run. Restore the run "
                "from a backup, or train it again."
            )
        self.model.load_state_dict(checkpoint.model)
        for name, x in self.average.items():
            x.copy_(checkpoint.average[name])
        restore_optimizers(self._bare_optimizers, self.model.parameters(), checkpoint.optimizer)
        best = {name: value.to(self.fabric.device) for name, value in checkpoint.best.items()}
        self.result = FitResult(checkpoint.best_epoch, best, list(checkpoint.history))
        self.num_restored = len(checkpoint.history)
        self._step = len(checkpoint.losses)
        self._losses[: self._step] = checkpoint.losses
        self._seconds = checkpoint.seconds
        if len(checkpoint.generator) == len(self.generator.get_state()):
            self.generator.set_state(checkpoint.generator)
        else:  # another kind of device
            self.generator.manual_seed(self.config.seed + len(checkpoint.history))
        self._generator_before = self.generator.get_state()
        torch.set_rng_state(checkpoint.random)
        if checkpoint.precision:
            self.fabric.strategy.precision.load_state_dict(checkpoint.precision)

    def _fits(self, checkpoint: Checkpoint) -> bool:
        shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        parameters = dict(enumerate(self.model.parameters()))
        return (
            all(
                {name: value.shape for name, value in state.items()} == shapes
                for state in (checkpoint.model, checkpoint.best)[: 1 + (checkpoint.best_epoch > 0)]
            )
            and all(
                number in parameters and value.shape in (torch.Size(), parameters[number].shape)
                for number, state in checkpoint.optimizer.items()
                for value in state.values()
            )
            and len(checkpoint.losses) <= self.steps_per_epoch
            and {*checkpoint.average} == {*self.average}
        )

    def evaluate(self, task: RankingTask) -> dict[str, float]:
        """Return metrics of the current model, see :func:`~lirdrec_pyg.evaluation.evaluate_ranking`."""
        # Not through Fabric's wrapper: metrics are computed in full precision.
        user, item = self.loader.represent(self.model.module)
        if self.fabric.world_size == 1:
            return evaluate_ranking(user, item, task)
        if self.shards is None:
            task = task.part(self.fabric.global_rank, self.fabric.world_size)
        return evaluate_ranking(user, item, task, total=self._total)


def make_trainer(
    graph: HeteroData,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    fabric: Fabric,
    kind: type[Model] | None = None,
) -> Trainer:
    """Return a trainer of a new model on a graph that has what the model needs; ``kind`` may be a subclass of it."""
    data = input_transform(model_config, training_config)(graph)
    # Before the model is built, since a process may not hold the vectors of all users.
    shards = {"shards": RowShards(graph["user"].num_nodes, fabric.device.type)} if training_config.is_sharded else {}
    model = (kind or model_class(model_config)).from_config(model_config, data, **shards)
    model.prepare(data)
    return Trainer(model, data, training_config, fabric)
