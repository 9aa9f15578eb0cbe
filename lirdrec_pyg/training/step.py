from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Adam, Optimizer, SparseAdam
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import TrainingConfig
from lirdrec_pyg.models import LIRDRec


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
    return _adam(model.parameters(), config)


def make_optimizers(model: nn.Module, config: TrainingConfig) -> list[Optimizer]:
    """As :func:`make_optimizer`, but the users' vectors have SparseAdam where their gradients are to be sparse."""
    if config.user_gradients == "dense":
        return [make_optimizer(model, config)]
    assert isinstance(model, LIRDRec)
    model.sparse_user_gradients = True
    others = [parameter for parameter in model.parameters() if parameter is not model.user]
    return [_adam(others, config), SparseAdam([model.user], lr=config.lr)]


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
        weight: of the triples against the regulariser, see :func:`~lirdrec_pyg.training.processes.share_of`.

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
