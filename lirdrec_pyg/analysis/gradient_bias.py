"""How far a training moves ID vectors, and how far it moves what features are encoded to."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from lightning_fabric import seed_everything
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import feature_mask, item_features, modalities
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import evaluate_ranking
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.models.mode import eval_mode
from lirdrec_pyg.training import MONITOR, EpochResult, Hooks, Trainer, check_settings, make_fabric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID_BRANCH = "id"
# Whose features an item has in a training.
OWN, OTHERS = "own", "others"
# Of the best feature branch: an ID branch within this share of it is no worse.
_MARGIN = 0.05
_STANDARD_ERRORS = 2


class _Watched(LIRDRec):
    """LIRDRec with a record of the gradient that the last backward pass sent to the item vectors of every branch."""

    item_gradient: Tensor

    def encode_items(self, data: HeteroData, node_type: str = "item", rows: slice = slice(None)) -> Tensor:
        x = super().encode_items(data, node_type, rows)
        if x.requires_grad:
            x.register_hook(self._record)
        return x

    def _record(self, gradient: Tensor) -> None:
        self.item_gradient = gradient.detach()

    def branch_parameters(self) -> list[list[nn.Parameter]]:
        """What makes the item vectors of each branch."""
        ids = [] if self.item_id is None else [[self.item_id]]
        return [*(list(encoder.parameters()) for encoder in self.encoders), *ids]


@dataclass
class _Record:
    """Sums over the steps of an epoch, a row or entry for each branch."""

    squares: Tensor
    norms: Tensor
    steps: int = 0


class _Watch:
    """Measures a training by its hooks."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._model: _Watched = trainer.model.module
        self._record = self._empty()
        self._vectors = self._item_vectors()
        self.rows: list[dict[str, Any]] = []

    def _empty(self) -> _Record:
        zeros = torch.zeros(2, len(self._model.branches), device=self._trainer.fabric.device)
        return _Record(zeros[0], zeros[1])

    @torch.no_grad()
    def _item_vectors(self) -> Tensor:
        with eval_mode(self._model):
            return self._model.encode_items(self._trainer.data)

    @torch.no_grad()
    def step(self) -> None:
        """Looks at the gradients of the step that was just done."""
        record = self._record
        record.squares += torch.stack([_mean_square(p) for p in self._model.branch_parameters()])
        record.norms += torch.linalg.vector_norm(self._model.item_gradient, dim=-1).mean(dim=0)
        record.steps += 1

    @torch.no_grad()
    def epoch(self, epoch: int) -> None:
        """Looks at what an epoch has come to."""
        record, before, self._vectors = self._record, self._vectors, self._item_vectors()
        moved = torch.linalg.vector_norm(self._vectors - before, dim=-1).mean(dim=0)
        columns = {
            "branch": self._model.branches,
            "parameter_gradient": (record.squares / record.steps).sqrt().tolist(),
            "item_gradient": (record.norms / record.steps).tolist(),
            "item_change": moved.tolist(),
            f"valid_{MONITOR}": self._recall_alone(),
        }
        users = len(self._trainer.task.user_index)
        self.rows += [
            {"epoch": epoch, **dict(zip(columns, row, strict=True)), "valid_users": users}
            for row in zip(*columns.values(), strict=True)
        ]
        self._record = self._empty()

    def _recall_alone(self) -> list[float]:
        """Of the ranking by one branch, without the others."""
        with eval_mode(self._model):
            user, item = (self._model.split_branches(x) for x in self._model(self._trainer.data))
        task = self._trainer.task
        return [
            evaluate_ranking(user[:, b].contiguous(), item[:, b].contiguous(), task, (20,))[MONITOR]
            for b in range(user.size(1))
        ]


def _mean_square(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Of all entries of the gradients."""
    gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    return gradients.float().square().mean()


def measure_gradient_bias(
    graph: HeteroData, model_config: LIRDRecConfig, training_config: TrainingConfig, hooks: Hooks | None = None
) -> pl.DataFrame:
    r"""Trains LIRDRec with a further branch of free item vectors, as IDs are elsewhere, and measures what each
    branch gets and comes to (paper, section 3).

    Then it does so again with the features of each item given to another one, by lot. They are as distinct as
    before, so that an encoder can make something like IDs of them, but say nothing of the item.

    Args:
        graph: of :func:`~lirdrec_pyg.data.build_graph`.
        model_config: of the model.
        training_config: of the trainings, with the early stopping that they have without the branch.
        hooks: for progress, and to stop early; ``on_start`` is called for each of the two.

    Returns:
        A row for each training, epoch and branch, the ID branch under the name ``id``:

        ======================  ==================================================================
        ``features``            ``own``, or in the second training ``others``
        ``epoch``, ``branch``   from 1 on; as in ``model.branches``
        ``parameter_gradient``  root mean square of the gradient of what makes the item vectors:
                                the encoder's parameters, or the free vectors; over all steps
        ``item_gradient``       mean norm of the gradient with respect to an item vector, which in
                                every branch has length 1 when the propagation starts; over all steps
        ``item_change``         mean norm of the change of an item vector since the epoch before
        ``valid_recall@20``     validation Recall@20 of the ranking by this branch alone
        ``valid_users``         users that this is the mean of
        ======================  ==================================================================

    Raises:
        ConfigError: if the settings can't go with the measurement.
        LIRDRecError: of the kind that fits, as for a training.
    """
    check_before(model_config, training_config)
    hooks = hooks or Hooks()
    model_config = replace(model_config, id_branch=True)
    rows = _measured(OWN, graph, model_config, training_config, hooks)
    if not hooks.should_stop():
        others = _measured(OTHERS, _dealt_out(graph, training_config.seed), model_config, training_config, hooks)
        if not hooks.should_stop():  # half a training is nothing to compare with
            rows += others
    return pl.DataFrame(rows)


def _measured(
    features: str, graph: HeteroData, model_config: LIRDRecConfig, training_config: TrainingConfig, hooks: Hooks
) -> list[dict[str, Any]]:
    fabric = make_fabric(training_config)
    seed_everything(training_config.seed, verbose=False)
    data = LIRDRec.graph_transform(model_config, progress=True)(copy.copy(graph).to(fabric.device))
    data = LIRDRec.input_transform(model_config, training_config.sparse_backend)(data)
    trainer = Trainer(_Watched.from_config(model_config, data), data, training_config, fabric)
    watch = _Watch(trainer)
    hooks.on_start(trainer)

    def on_step(epoch: int, step: int) -> None:
        watch.step()
        hooks.on_step(epoch, step)

    def on_epoch(result: EpochResult) -> None:
        watch.epoch(result.epoch)
        hooks.on_epoch(result)

    trainer.fit(on_step, on_epoch, hooks.should_stop)
    return [{"features": features, **row} for row in watch.rows]


def _dealt_out(graph: HeteroData, seed: int) -> HeteroData:
    """``graph`` with the features of each item given to another one; an item keeps all its modalities together."""
    graph = copy.copy(graph)
    names = modalities(graph)
    order = torch.randperm(graph["item"].num_nodes, generator=torch.Generator().manual_seed(seed))
    order = order.to(item_features(graph, names[0]).device)
    for name in names:
        graph["item"][f"x_{name}"] = item_features(graph, name)[order]
        if (mask := feature_mask(graph, name)) is not None:
            graph["item"][f"mask_{name}"] = mask[order]
    return graph


def check_before(model_config: LIRDRecConfig, training_config: TrainingConfig) -> None:
    """Raises what :func:`measure_gradient_bias` would raise whatever the data are."""
    if training_config.precision == "16-mixed":
        raise ConfigError(
            "--precision 16-mixed scales the gradients that are to be measured: take 32-true or bf16-mixed."
        )
    if training_config.sampling != "full":
        raise ConfigError(
            f"--sampling {training_config.sampling} has no ID branch, which is to be measured: take --sampling full."
        )
    check_settings(model_config, training_config)


@dataclass(frozen=True)
class _Comparison:
    """Features against IDs: ratios are geometric means over branches and epochs, Recall is that at the end."""

    epochs: int
    gradient_ratio: float
    change_ratio: float
    id_recall: float
    feature_recall: dict[str, float]
    others_recall: float | None
    num_users: int

    @classmethod
    def of(cls, table: pl.DataFrame) -> "_Comparison":
        of_id = pl.col("branch") == ID_BRANCH
        own, others = (table.filter(pl.col("features") == features) for features in (OWN, OTHERS))

        def ratio(column: str) -> float:
            log = pl.col(column).clip(lower_bound=1e-30).log()
            means = own.select(features=log.filter(~of_id).mean(), ids=log.filter(of_id).mean())
            return float((means["features"] - means["ids"]).exp()[0])

        recall = _final_recall(own)
        by_others = _final_recall(others)
        return cls(
            own["epoch"].n_unique(),
            ratio("parameter_gradient"),
            ratio("item_change"),
            recall.pop(ID_BRANCH),
            recall,
            max((value for name, value in by_others.items() if name != ID_BRANCH), default=None),
            int(own["valid_users"][0]),
        )

    @property
    def best(self) -> float:
        return max(self.feature_recall.values())

    @property
    def features_tell(self) -> bool:
        """Whether the features of the items themselves do more than those of others, and not by chance: the variance
        of a mean of figures between 0 and 1 is at most that of as many coins."""
        if self.others_recall is None:
            return True
        variance = sum(p * (1 - p) for p in (self.best, self.others_recall)) / self.num_users
        return self.best - self.others_recall > _STANDARD_ERRORS * math.sqrt(variance)


def _final_recall(table: pl.DataFrame) -> dict[str, float]:
    """Of each branch, in the order of the figures. One epoch alone is a draw of chance."""
    epochs = table["epoch"].n_unique()
    end = table.filter(pl.col("epoch") > epochs - max(1, epochs // 10))
    means = end.group_by("branch").agg(pl.col(f"valid_{MONITOR}").mean().alias("recall")).sort("recall", "branch")
    return dict(means.select("branch", "recall").iter_rows())


def verdict(table: pl.DataFrame) -> tuple[str, str]:
    """What the figures of :func:`measure_gradient_bias` say of the paper's finding, in two sentences.

    It holds if the features get the larger updates, by both ratios; if the ID vectors stay poor, which is more than 5 %
    below the best feature branch; and if that is a matter of what features say: if that branch is better than any
    with the features of other items, by two standard errors. The Recall@20 at the end is the mean over the last
    tenth of the epochs.
    """
    found = _Comparison.of(table)
    larger = found.gradient_ratio > 1 and found.change_ratio > 1
    poor = found.id_recall < (1 - _MARGIN) * found.best
    updates = (
        f"Over {found.epochs} epoch{'s'[: found.epochs != 1]}, what encodes the features got gradients "
        f"{found.gradient_ratio:.3g} times as large as the ID vectors (root mean square, geometric mean over epochs), "
        f"and in an epoch the item vectors of the features moved {found.change_ratio:.3g} times as far as those of the "
        "IDs."
    )
    if poor and not found.features_tell:
        reason = "the ID vectors stay poor, but features that say nothing of an item come as far as its own."
    elif larger:
        reason = "for all the larger updates of the features, the ID vectors come as far."
    elif poor:
        reason = "the ID vectors stay poor, but not for want of updates."
    else:
        reason = "the ID vectors neither lack updates nor stay poor."
    holds = larger and poor and found.features_tell
    recalls = ", ".join(f"{name} {recall:.4f}" for name, recall in found.feature_recall.items())
    control = (
        "not measured with the features of other items"
        if found.others_recall is None
        else f"with the features of other items at best {found.others_recall:.4f}"
    )
    return updates, (
        f"Alone, the ID branch ends at a validation Recall@20 of {found.id_recall:.4f}, the feature branches at "
        f"{recalls}, {control}: the paper's finding "
        + (
            "holds here: the features get the larger updates, and the ID vectors stay poor."
            if holds
            else f"does not hold here: {reason}"
        )
    )


def draw(table: pl.DataFrame) -> "Figure":
    """A figure of the table of :func:`measure_gradient_bias`."""
    from matplotlib.figure import Figure

    panels = {
        "parameter_gradient": "RMS gradient of what makes\nthe item vectors",
        "item_gradient": "mean gradient norm\nof an item vector",
        f"valid_{MONITOR}": "validation Recall@20\nof the branch alone",
    }
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        own = table.filter(pl.col("features") == OWN)
        for (branch,), rows in own.group_by("branch", maintain_order=True):
            line = {"color": "black", "linestyle": "--"} if branch == ID_BRANCH else {}
            axes.plot(rows["epoch"], rows[column], label=branch, **line)
        if column == f"valid_{MONITOR}":
            others = table.filter((pl.col("features") == OTHERS) & (pl.col("branch") != ID_BRANCH))
            best = others.group_by("epoch", maintain_order=True).agg(pl.col(column).max())
            axes.plot(best["epoch"], best[column], label="others' features, best", color="grey", linestyle=":")
        axes.set(xlabel="epoch", title=title, yscale="linear" if column.startswith("valid") else "log")
        axes.grid(alpha=0.3)
    axes.legend(title="branch")
    return figure
