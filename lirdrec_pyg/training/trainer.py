import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import TrainingConfig
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.errors import ConfigError, LIRDRecError, RunError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.sampler import BPRSampler
from lirdrec_pyg.training.checkpoint import Checkpoint, EpochResult, optimizer_state, restore_optimizers
from lirdrec_pyg.training.passes import FullPass, SampledPass
from lirdrec_pyg.training.processes import make_fabric, noticing_lost_processes, share_of
from lirdrec_pyg.training.step import make_optimizers, training_step

MONITOR = "recall@20"


# Losses are looked at together: to look at each would have the host wait for the device in every step.
_STEPS_BETWEEN_CHECKS = 64
# Several processes ask each other so often whether one of them was told to stop.
_STEPS_BETWEEN_QUESTIONS = 16


class TrainingDivergedError(LIRDRecError):
    """The loss is no number any more.

    Attributes:
        epoch: in which, counted from 1.
        step: in which first, counted from 1.
        triples: of that step, int64, shape ``(3, N)`` or with further rows of negatives.
    """

    exit_code = 1

    def __init__(self, loss: float, epoch: int, step: int, triples: Tensor) -> None:
        super().__init__(
            f"The loss is {loss} in epoch {epoch}, step {step}: try a smaller --lr, --precision 32-true, "
            "or look for extreme values in the features."
        )
        self.epoch = epoch
        self.step = step
        self.triples = triples


@dataclass
class FitResult:
    """What a training brought.

    Attributes:
        best_epoch: epoch with the best validation Recall@20, 0 if none was finished.
        best_state: ``state_dict`` at its end; that at the end of the training if no epoch was finished.
        history: all epochs.
        stopped: why the training ended.
    """

    best_epoch: int
    best_state: dict[str, Tensor]
    history: list[EpochResult] = field(default_factory=list)
    stopped: str = "all epochs done"


class Trainer:
    """Trains a model by BPR on a graph, with early stopping on the validation Recall@20.

    Between two steps it can say where it stands, and another one can go on from there to the same
    weights; see :meth:`checkpoint`.

    With several processes, each has the whole graph and draws the same triples, of which it takes its share
    in every step; gradients are averaged, and users are shared out in a validation. All come to the same
    weights, which but for rounding are those of a single process.

    Args:
        model: a :class:`torch.nn.Module` that is a :class:`~lirdrec_pyg.training.Trainable`.
        data: a graph as the model's ``input_transform`` leaves it.
        config: how to train.
        fabric: what to train on; by default as :func:`~lirdrec_pyg.training.make_fabric` has it.
    """

    def __init__(
        self, model: nn.Module, data: HeteroData, config: TrainingConfig, fabric: Fabric | None = None
    ) -> None:
        self.config = config
        self.fabric = fabric or make_fabric(config)
        self.source = _source(model, data, config, self.fabric.device)
        self.data, self.generator = self.source.data, self.source.generator
        self.model, *self.optimizers = self.fabric.setup(model, *make_optimizers(model, config))
        self.model.mark_forward_method("loss")
        self.sampler = BPRSampler(
            self.data[INTERACTS].edge_index,
            data["user"].num_nodes,
            data["item"].num_nodes,
            alpha=config.popularity_alpha,
            generator=self.generator,
            num_negatives=config.negatives,
        )
        self.task = RankingTask.from_graph(self.data, "val")
        self.result = FitResult(0, {})
        # Of the epoch under way: the draws before it, its batches, their losses, the steps that are done.
        self._generator_before = self.generator.get_state()
        self._batches: tuple[Tensor, ...] = ()
        self._losses = torch.zeros(self.steps_per_epoch, device=self.fabric.device)
        self._step = 0
        self._seconds = 0.0

    @property
    def _bare_optimizers(self) -> list[Optimizer]:
        return [optimizer.optimizer for optimizer in self.optimizers]

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.sampler) / self.config.batch_size)

    @noticing_lost_processes()
    def fit(
        self,
        on_step: Callable[[int, int], None] | None = None,
        on_epoch: Callable[[EpochResult], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> FitResult:
        """Trains until the patience or the epochs are used up; leaves the model in eval mode.

        Args:
            on_step: called after each step with the epoch and the step, both counted from 1.
            on_epoch: called after each epoch, when the model holds that epoch's weights.
            should_stop: asked before each epoch and after each step; an unfinished epoch is not validated.

        Raises:
            TrainingDivergedError: if the loss turns infinite or NaN.
            ProcessLostError: if another of several processes has ended.
        """
        result = self.result
        while True:
            if (reason := self._reason_to_end()) is not None:
                result.stopped = reason
                break
            if self._agree_to(should_stop) or not self._train_epoch(on_step, should_stop):
                result.stopped = "interrupted"
                break
            self._end_epoch()
            if on_epoch is not None:
                on_epoch(result.history[-1])
        if result.best_epoch == 0:
            result.best_state = copy.deepcopy(self.model.state_dict())
        self.model.eval()
        return result

    def _reason_to_end(self) -> str | None:
        done = len(self.result.history)
        if done and done - self.result.best_epoch >= self.config.patience:
            return f"no better {MONITOR} in {self.config.patience} epochs"
        return "all epochs done" if done >= self.config.epochs else None

    def _train_epoch(self, on_step: Callable[[int, int], None] | None, should_stop: Callable[[], bool]) -> bool:
        """Trains the steps of the epoch that are not done yet; ``False`` if it was cut short."""
        start = time.perf_counter() - self._seconds
        epoch = len(self.result.history) + 1
        self.model.train()
        if self._step == 0:
            self._generator_before = self.generator.get_state()
            self.model.start_epoch()
        else:
            # The same draws as when the epoch was begun.
            self.generator.set_state(self._generator_before)
        self.source.start_epoch()
        self._batches = self.sampler.sample_epoch().split(self.config.batch_size, dim=1)
        batches = self._batches[self._step :]
        shares = [share_of(batch, self.fabric.global_rank, self.fabric.world_size) for batch in batches]
        steps = self.source.steps([part for part, _ in shares], self._step)
        for batch, (part, weight) in zip(batches, shares, strict=True):
            data, triples = next(steps)
            loss = training_step(
                self.model, data, triples, self.optimizers, self.fabric.backward, self.fabric.autocast, weight
            )
            del data, triples  # a sampled graph goes before the next one is made
            if self.fabric.world_size > 1:
                self.source.agree(self.model.module, batch, part, self._total)
            self._losses[self._step] = self._total(loss) / self.fabric.world_size
            self._step += 1
            self._seconds = time.perf_counter() - start
            if self._step % _STEPS_BETWEEN_CHECKS == 0:
                self._check_losses()
            if on_step is not None:
                on_step(epoch, self._step)
            if self._step < len(self._batches) and self._agree_to(should_stop, self._step):
                return False
        self._check_losses()
        self._seconds = time.perf_counter() - start
        return True

    def _total(self, value: Tensor) -> Tensor:
        """Over the processes."""
        if self.fabric.world_size == 1:
            return value
        total = self.fabric.all_reduce(value, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _agree_to(self, should_stop: Callable[[], bool], step: int = 0) -> bool:
        """Whether any process was told to stop; all come to the same answer."""
        if self.fabric.world_size == 1:
            return should_stop()
        if step % _STEPS_BETWEEN_QUESTIONS:
            return False
        told = torch.tensor(float(should_stop()), device=self.fabric.device)
        return bool(self._total(told) > 0)

    def _check_losses(self) -> None:
        wrong = (~self._losses[: self._step].isfinite()).nonzero()
        if len(wrong):
            step = int(wrong[0])
            epoch = len(self.result.history) + 1
            raise TrainingDivergedError(float(self._losses[step]), epoch, step + 1, self._batches[step])

    def _check_weights(self) -> None:
        """A loss that is a number may have a gradient that is none."""
        if not self._batches or all(bool(value.isfinite().all()) for value in self.model.parameters()):
            return
        epoch, step = len(self.result.history) + bool(self._step), self._step or len(self._batches)
        raise TrainingDivergedError(math.nan, epoch, step, self._batches[step - 1])

    def _end_epoch(self) -> None:
        result, loss, start = self.result, float(self._losses[: self._step].mean()), time.perf_counter()
        valid = self.evaluate(self.task)
        epoch = len(result.history) + 1
        improved = valid[MONITOR] > max((r.valid[MONITOR] for r in result.history), default=-math.inf)
        if improved:
            result.best_epoch = epoch
            result.best_state = copy.deepcopy(self.model.state_dict())
        result.history.append(EpochResult(epoch, loss, valid, improved, self._seconds, time.perf_counter() - start))
        self._step, self._seconds = 0, 0.0

    def checkpoint(self) -> Checkpoint:
        """Where the training stands. It may be asked for by the hooks of :meth:`fit`, and afterwards
        until the model is given other weights.

        Raises:
            TrainingDivergedError: if there is nothing good to go on from.
        """
        self._check_losses()
        self._check_weights()
        return Checkpoint(
            model=self.model.state_dict(),
            optimizer=optimizer_state(self._bare_optimizers, self.model.parameters()),
            best=self.result.best_state,
            best_epoch=self.result.best_epoch,
            history=self.result.history,
            losses=self._losses[: self._step],
            seconds=self._seconds,
            generator=self._generator_before if self._step else self.generator.get_state(),
            random=torch.get_rng_state(),
            precision=self.fabric.strategy.precision.state_dict(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes to where the trainer stood that gave ``checkpoint``. On the CPU, with as many threads, the
        weights will be the same to the last bit; on another kind of device, other triples are drawn.

        Raises:
            RunError: if it is of another model, graph or batch size.
        """
        if not self._fits(checkpoint):
            raise RunError(
                "The checkpoint is of another model, graph or batch size than the run: take the run from a backup, "
                "or train it anew."
            )
        self.model.load_state_dict(checkpoint.model)
        restore_optimizers(self._bare_optimizers, self.model.parameters(), checkpoint.optimizer)
        best = {name: value.to(self.fabric.device) for name, value in checkpoint.best.items()}
        self.result = FitResult(checkpoint.best_epoch, best, list(checkpoint.history))
        self._step = len(checkpoint.losses)
        self._losses[: self._step] = checkpoint.losses
        self._seconds = checkpoint.seconds
        if len(checkpoint.generator) == len(self.generator.get_state()):
            self.generator.set_state(checkpoint.generator)
        else:  # of another kind of device
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
        )

    def evaluate(self, task: RankingTask) -> dict[str, float]:
        """Metrics of the model as it is now, see :func:`~lirdrec_pyg.evaluation.evaluate_ranking`."""
        # Not through Fabric's wrapper: figures are computed in full precision.
        user, item = self.source.represent(self.model.module)
        if self.fabric.world_size == 1:
            return evaluate_ranking(user, item, task)
        part = task.part(self.fabric.global_rank, self.fabric.world_size)
        return evaluate_ranking(user, item, part, total=self._total)


def _source(model: nn.Module, data: HeteroData, config: TrainingConfig, device: torch.device) -> FullPass | SampledPass:
    if not isinstance(model, LIRDRec):
        if config.negatives > 1:
            raise ConfigError(f"--negatives {config.negatives} can't train {type(model).__name__}: take --negatives 1.")
        if config.sampling != "full":
            raise ConfigError(f"--sampling neighbors can't train {type(model).__name__}: take --sampling full.")
    if config.sampling == "full":
        return FullPass(data, config, device)
    assert isinstance(model, LIRDRec)
    return SampledPass(model, data, config, device)
