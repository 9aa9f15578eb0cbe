from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, SparseAdam
from torch_geometric.data import HeteroData

from lirdrec_pyg.training.config import TrainingConfig

# Runs a step on a training graph, triples and their weight, and returns the loss.
Step = Callable[[HeteroData, Tensor, float], Tensor]


class Trainable(Protocol):
    """What the training loop needs of a model besides being a :class:`torch.nn.Module`.

    A model for ``sampling="neighbors"`` also has ``sampling_depth``, ``layerwise_vectors``, ``synchronize_users`` and
    ``use_sparse_user_gradients``, see :class:`~lirdrec_pyg.models.LIRDRec`.
    """

    def __call__(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        """Return the representations of all users and all items."""

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        """Return the loss of a batch of triples (user, positive, negative), scaled by ``weight``."""

    def start_epoch(self) -> None:
        """Called once before each epoch."""


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Adam:
    """Return Adam with the settings of the paper."""
    return _adam(model.parameters(), config)


def make_optimizers(model: Any, config: TrainingConfig) -> list[Optimizer]:
    """Return Adam, and SparseAdam for the user vectors where ``user_gradients`` are sparse."""
    if config.user_gradients == "dense":
        return [make_optimizer(model, config)]
    users = model.use_sparse_user_gradients()
    others = [parameter for parameter in model.parameters() if parameter is not users]
    return [_adam(others, config), SparseAdam([users], lr=config.lr)]


def _adam(parameters: Iterable[Tensor], config: TrainingConfig) -> Adam:
    return Adam(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def training_step(
    model: Trainable,
    data: HeteroData,
    triples: Tensor,
    optimizer: Optimizer | Sequence[Optimizer],
    backward: Callable[[Tensor], None] = Tensor.backward,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    weight: float = 1.0,
) -> Tensor:
    """One step of training: loss of the batch, gradients, update.

    Args:
        model: in training mode.
        data: the training graph.
        triples: users, positives and negatives, int64, shape ``(3, N)``, or with further rows of negatives.
        optimizer: of the model's parameters, or several, each of some of them.
        backward: ``Fabric.backward`` when Fabric runs the training.
        autocast: ``Fabric.autocast`` then; the loss is computed in its precision.
        weight: of the triples against the regularizer, see :func:`~lirdrec_pyg.training.distributed.share_of`.

    Returns:
        The loss before the update, detached, a scalar on the model's device.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
    for each in optimizers:
        each.zero_grad(set_to_none=True)
    with autocast():
        loss = model.loss(data, triples, weight)
    backward(loss)
    for each in optimizers:
        each.step()
    return loss.detach()


class CapturedStep:
    """A training step that is replayed as a CUDA graph, since its kernels take longer to launch than to run.

    The first three steps run as they are. The next one is captured, and from then on replayed for batches of the same
    shape; other batches run as they are. Another training graph or larger batches lead to a new capture.

    Args:
        step: runs a step without waiting for the device.
        optimizers: optimizers of the step, which will count their steps on the device.
    """

    def __init__(self, step: Step, optimizers: Iterable[Optimizer]) -> None:
        self._step, self._warm_up = step, 3
        self._data: HeteroData | None = None
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True

    def __call__(self, data: HeteroData, triples: Tensor, weight: float) -> Tensor:
        if self._warm_up:
            self._warm_up -= 1
            return self._beside(data, triples, weight)
        if data is not self._data or triples.size(1) > self._triples.size(1):
            self._capture(data, triples, weight)
        if triples.shape != self._triples.shape:
            return self._step(data, triples, weight)
        self._triples.copy_(triples)
        self._graph.replay()
        return self._loss

    def _beside(self, data: HeteroData, triples: Tensor, weight: float) -> Tensor:
        """Run a step on another stream, as must be done before a capture."""
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            loss = self._step(data, triples, weight)
        current.wait_stream(stream)
        return loss

    def _capture(self, data: HeteroData, triples: Tensor, weight: float) -> None:
        self._data, self._triples, self._graph = data, triples.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._step(data, self._triples, weight)
