import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import Compose

from lirdrec_pyg.config import Device, TrainingConfig
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.errors import ConfigError, LIRDRecError
from lirdrec_pyg.evaluation import RankingTask, evaluate_model
from lirdrec_pyg.sampler import BPRSampler
from lirdrec_pyg.training.step import make_optimizer, training_step
from lirdrec_pyg.transforms import CacheAdjacency, DropEdges, NormalizeBipartite

MONITOR = "recall@20"


class TrainingDivergedError(LIRDRecError):
    """The loss is no number any more."""

    exit_code = 1


@dataclass(frozen=True)
class EpochResult:
    """What an epoch brought.

    Attributes:
        epoch: counted from 1.
        loss: mean over the steps.
        valid: validation metrics, ``{"recall@20": ...}``.
        improved: whether the validation Recall@20 is the best so far.
        train_seconds: time of sampling and training.
        eval_seconds: time of the validation.
    """

    epoch: int
    loss: float
    valid: dict[str, float]
    improved: bool
    train_seconds: float
    eval_seconds: float


@dataclass
class FitResult:
    """What a training brought.

    Attributes:
        best_epoch: epoch with the best validation Recall@20, 0 if none was finished.
        best_state: ``state_dict`` at its end.
        history: all epochs.
        stopped: why the training ended.
    """

    best_epoch: int
    best_state: dict[str, Tensor]
    history: list[EpochResult] = field(default_factory=list)
    stopped: str = "all epochs done"


class Trainer:
    """Trains a model by BPR on a graph, with early stopping on the validation Recall@20.

    Args:
        model: a :class:`torch.nn.Module` that is a :class:`~lirdrec_pyg.training.Trainable`.
        data: a graph as the model's ``input_transform`` leaves it.
        config: how to train.
    """

    def __init__(self, model: nn.Module, data: HeteroData, config: TrainingConfig) -> None:
        self.config = config
        self.fabric = Fabric(accelerator=resolve_device(config.device), devices=1, precision=config.precision)
        self.data = copy.copy(data).to(self.fabric.device)
        self.model, self.optimizer = self.fabric.setup(model, make_optimizer(model, config))
        self.generator = torch.Generator(self.fabric.device).manual_seed(config.seed)
        self.sampler = BPRSampler(
            self.data[INTERACTS].edge_index,
            data["user"].num_nodes,
            data["item"].num_nodes,
            alpha=config.popularity_alpha,
            generator=self.generator,
        )
        self.task = RankingTask.from_graph(self.data, "val")
        self._drop_edges = Compose(
            [
                DropEdges(config.edge_dropout, self.generator),
                NormalizeBipartite(),
                CacheAdjacency(config.sparse_backend),
            ]
        )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.sampler) / self.config.batch_size)

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
        """
        result = FitResult(0, copy.deepcopy(self.model.state_dict()))
        best = -math.inf
        for epoch in range(1, self.config.epochs + 1):
            if should_stop():
                result.stopped = "interrupted"
                break
            start = time.perf_counter()
            loss = self._train_epoch(epoch, on_step, should_stop)
            if loss is None:
                result.stopped = "interrupted"
                break
            if not math.isfinite(loss):
                raise TrainingDivergedError(
                    f"The loss is {loss} in epoch {epoch}: try a smaller --lr, --precision 32-true, "
                    "or look for extreme values in the features."
                )
            trained = time.perf_counter()
            valid = self.evaluate(self.task)
            improved = valid[MONITOR] > best
            if improved:
                best = valid[MONITOR]
                result.best_epoch = epoch
                result.best_state = copy.deepcopy(self.model.state_dict())
            result.history.append(
                EpochResult(epoch, loss, valid, improved, trained - start, time.perf_counter() - trained)
            )
            if on_epoch is not None:
                on_epoch(result.history[-1])
            if epoch - result.best_epoch >= self.config.patience:
                result.stopped = f"no better {MONITOR} in {self.config.patience} epochs"
                break
        if result.best_epoch == 0:
            result.best_state = copy.deepcopy(self.model.state_dict())
        self.model.eval()
        return result

    def _train_epoch(
        self, epoch: int, on_step: Callable[[int, int], None] | None, should_stop: Callable[[], bool]
    ) -> float | None:
        """Mean loss of the epoch, or ``None`` if it was cut short."""
        self.model.train()
        self.model.start_epoch()
        data = self._drop_edges(self.data) if self.config.edge_dropout else self.data
        total = torch.zeros((), device=self.fabric.device)
        batches = self.sampler.sample_epoch().split(self.config.batch_size, dim=1)
        for step, triples in enumerate(batches, start=1):
            total += training_step(
                self.model, data, triples, self.optimizer, self.fabric.backward, self.fabric.autocast
            )
            if on_step is not None:
                on_step(epoch, step)
            if should_stop():
                return None
        return float(total) / len(batches)

    def evaluate(self, task: RankingTask) -> dict[str, float]:
        """Metrics of the model as it is now, see :func:`~lirdrec_pyg.evaluation.evaluate_model`."""
        # Not through Fabric's wrapper: figures are computed in full precision.
        return evaluate_model(self.model.module, self.data, task)


def resolve_device(device: str) -> str:
    """``cuda`` or ``cpu`` for ``auto``, whichever there is.

    Raises:
        LIRDRecError: if CUDA is asked for and not there.
    """
    if device not in (known := get_args(Device)):
        raise ConfigError(f"--device is {device!r}: choose one of {', '.join(known)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise LIRDRecError("--device cuda: this machine has no CUDA device that torch can use; take --device cpu.")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
