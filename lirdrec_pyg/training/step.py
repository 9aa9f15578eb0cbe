from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import TrainingConfig


class Trainable(Protocol):
    """What the training loop needs of a model besides being a ``torch.nn.Module``."""

    def __call__(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        """Representations of all users and all items."""

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        """Loss of a batch of triples (user, positive, negative), whose own part has a weight."""

    def start_epoch(self) -> None:
        """Called once before each epoch."""


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Adam:
    """Adam with the settings of the paper."""
    return Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)


def training_step(
    model: Trainable,
    data: HeteroData,
    triples: Tensor,
    optimizer: Optimizer,
    backward: Callable[[Tensor], None] = Tensor.backward,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    weight: float = 1.0,
) -> Tensor:
    """One step of training: loss of the batch, gradients, update.

    Args:
        model: in training mode.
        data: the training graph.
        triples: users, positives and negatives, int64, shape ``(3, N)``.
        optimizer: of the model's parameters.
        backward: ``Fabric.backward`` when Fabric runs the training.
        autocast: ``Fabric.autocast`` then; the loss is computed in its precision.
        weight: of the triples against the regulariser, see :func:`~lirdrec_pyg.training.processes.share_of`.

    Returns:
        The loss before the update, detached, a scalar on the model's device.
    """
    optimizer.zero_grad(set_to_none=True)
    with autocast():
        loss = model.loss(data, triples, weight)
    backward(loss)
    optimizer.step()
    return loss.detach()
