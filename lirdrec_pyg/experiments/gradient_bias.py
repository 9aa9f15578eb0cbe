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

from lirdrec_pyg.callback import Callback, CallbackList
from lirdrec_pyg.data import Dataset, Split, feature_mask, item_features, modalities
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig, eval_mode
from lirdrec_pyg.training import (
    MONITOR,
    EpochResult,
    Trainer,
    TrainingConfig,
    check_settings,
    input_transform,
    make_fabric,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID_BRANCH = "id"
# Whose features an item has in a training.
OWN, OTHERS = "own", "others"
# The ID branch is poor if it is below the best feature branch by more than this share.
_MARGIN = 0.05
_STANDARD_ERRORS = 2


class _Watched(LIRDRec):
    """LIRDRec that records the gradient of the last backward pass with respect to the item vectors of all branches."""

    item_gradient: Tensor

    def encode_items(self, data: HeteroData, node_type: str = "item", rows: slice = slice(None)) -> Tensor:
        x = super().encode_items(data, node_type, rows)
        if x.requires_grad:
            x.register_hook(self._record)
        return x

    def _record(self, gradient: Tensor) -> None:
        self.item_gradient = gradient.detach()

    def branch_parameters(self) -> list[list[nn.Parameter]]:
        """Return the parameters behind the item vectors of each branch."""
        ids = [] if self.item_id is None else [[self.item_id]]
        return [*(list(encoder.parameters()) for encoder in self.encoders), *ids]


class _Watch(Callback):
    """Measures a training of :class:`_Watched`, one row per epoch and branch."""

    def __init__(self, features: str) -> None:
        self.rows: list[dict[str, Any]] = []
        self._features = features

    def on_fit_start(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._model: _Watched = trainer.model.module
        self._task = RankingTask.from_graph(trainer.data, Split.VALID)
        self._vectors = self._item_vectors()
        self._reset()

    def _reset(self) -> None:
        # Sums over the steps of an epoch, one entry per branch.
        self._squares, self._norms = torch.zeros(2, len(self._model.branches), device=self._trainer.fabric.device)
        self._steps = 0

    @torch.no_grad()
    def _item_vectors(self) -> Tensor:
        with eval_mode(self._model):
            return self._model.encode_items(self._trainer.data)

    @torch.no_grad()
    def on_step_end(self, epoch: int, step: int) -> None:
        self._squares += torch.stack([_mean_square(p) for p in self._model.branch_parameters()])
        self._norms += torch.linalg.vector_norm(self._model.item_gradient, dim=-1).mean(dim=0)
        self._steps += 1

    @torch.no_grad()
    def on_epoch_end(self, result: EpochResult) -> None:
        before, self._vectors = self._vectors, self._item_vectors()
        change = torch.linalg.vector_norm(self._vectors - before, dim=-1).mean(dim=0)
        columns = {
            "branch": self._model.branches,
            "parameter_gradient": (self._squares / self._steps).sqrt().tolist(),
            "item_gradient": (self._norms / self._steps).tolist(),
            "item_change": change.tolist(),
            f"valid_{MONITOR}": self._recall_per_branch(),
        }
        self.rows += [
            {
                "features": self._features,
                "epoch": result.epoch,
                **dict(zip(columns, row, strict=True)),
                "valid_users": len(self._task.user_index),
            }
            for row in zip(*columns.values(), strict=True)
        ]
        self._reset()

    def _recall_per_branch(self) -> list[float]:
        with eval_mode(self._model):
            user, item = (self._model.split_branches(x) for x in self._model(self._trainer.data))
        return [
            evaluate_ranking(user[:, b].contiguous(), item[:, b].contiguous(), self._task, (20,))[MONITOR]
            for b in range(user.size(1))
        ]


def _mean_square(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the mean square of all entries of the gradients."""
    gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    return gradients.float().square().mean()


def measure_gradient_bias(
    dataset: Dataset,
    model_config: LIRDRecConfig,
    training_config: TrainingConfig,
    callback: Callback | None = None,
) -> pl.DataFrame:
    r"""Compare the updates and the quality of features with those of IDs (paper, section 3).

    LIRDRec is trained with an additional branch of free item vectors, as other models have for item IDs. A second
    training, the control, shuffles the features among the items: they still tell items apart, so that an encoder
    can use them as IDs, but say nothing about an item.

    Args:
        dataset: interactions and features.
        model_config: model, to which the ID branch is added.
        training_config: settings of both trainings.
        callback: follows the trainings, and may stop them; ``on_fit_start`` is called for each of the two.

    Returns:
        One row per training, epoch and branch; the ID branch is called ``id``:

        ======================  ==================================================================
        ``features``            ``own``, or ``others`` in the control
        ``epoch``, ``branch``   epoch from 1 on; name of the branch as in ``model.branches``
        ``parameter_gradient``  root mean square of the gradients of the encoder's parameters, or
                                of the free vectors, over all steps
        ``item_gradient``       mean norm of the gradient with respect to an item vector, which has
                                length 1 before the propagation, over all items and steps
        ``item_change``         mean norm of the change of an item vector in the epoch
        ``valid_recall@20``     validation Recall@20 of this branch alone
        ``valid_users``         number of users in that mean
        ======================  ==================================================================

        If the control is stopped early, its rows are left out.

    Raises:
        ConfigError: if the settings cannot be combined with the measurement.
        LIRDRecError: as for any training.
    """
    check_before(model_config, training_config)
    callback = callback or Callback()
    model_config = replace(model_config, id_branch=True)
    rows = _measured(OWN, dataset.graph, model_config, training_config, callback)
    if not callback.should_stop():
        graph = _with_shuffled_features(dataset.graph, training_config.seed)
        others = _measured(OTHERS, graph, model_config, training_config, callback)
        if not callback.should_stop():  # half a control is not comparable
            rows += others
    return pl.DataFrame(rows)


def _measured(
    features: str,
    graph: HeteroData,
    model_config: LIRDRecConfig,
    training_config: TrainingConfig,
    callback: Callback,
) -> list[dict[str, Any]]:
    fabric = make_fabric(training_config)
    seed_everything(training_config.seed, verbose=False)
    data = LIRDRec.graph_transform(model_config, progress=True)(copy.copy(graph).to(fabric.device))
    data = input_transform(model_config, training_config)(data)
    trainer = Trainer(_Watched.from_config(model_config, data), data, training_config, fabric)
    watch = _Watch(features)
    trainer.fit(CallbackList((watch, callback)))
    return watch.rows


def _with_shuffled_features(graph: HeteroData, seed: int) -> HeteroData:
    """Return ``graph`` with the items' features permuted; all modalities of an item stay together."""
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
    """Raise :class:`ConfigError` if the settings cannot be combined with the measurement, whatever the data."""
    if training_config.precision == "16-mixed":
        raise ConfigError(
            "`precision='16-mixed'` scales the gradients that are measured. Pass `precision='32-true'` or "
            "`precision='bf16-mixed'`."
        )
    if training_config.sampling != "full":
        raise ConfigError(
            f"`sampling={training_config.sampling!r}` does not support the ID branch that is measured. "
            "Pass `sampling='full'`."
        )
    check_settings(model_config, training_config)


@dataclass(frozen=True)
class _Comparison:
    """Features compared with IDs: ratios are geometric means over branches and epochs, Recall@20 is that at the end."""

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
        others_recall = _final_recall(others)
        return cls(
            own["epoch"].n_unique(),
            ratio("parameter_gradient"),
            ratio("item_change"),
            recall.pop(ID_BRANCH),
            recall,
            max((value for name, value in others_recall.items() if name != ID_BRANCH), default=None),
            int(own["valid_users"][0]),
        )

    @property
    def best(self) -> float:
        return max(self.feature_recall.values())

    @property
    def features_matter(self) -> bool:
        """Whether an item's own features are significantly better than shuffled ones. A mean of values between 0 and 1
        has at most the variance of a mean of as many coin tosses."""
        if self.others_recall is None:
            return True
        variance = sum(p * (1 - p) for p in (self.best, self.others_recall)) / self.num_users
        return self.best - self.others_recall > _STANDARD_ERRORS * math.sqrt(variance)


def _final_recall(table: pl.DataFrame) -> dict[str, float]:
    """Return the Recall@20 of each branch, lowest first: a mean over the last epochs, since a single one is noisy."""
    epochs = table["epoch"].n_unique()
    end = table.filter(pl.col("epoch") > epochs - max(1, epochs // 10))
    means = end.group_by("branch").agg(pl.col(f"valid_{MONITOR}").mean().alias("recall")).sort("recall", "branch")
    return dict(means.select("branch", "recall").iter_rows())


def verdict(table: pl.DataFrame) -> tuple[str, str]:
    """Summarize a table of :func:`measure_gradient_bias`: the updates, and whether the paper's finding holds.

    The finding holds if all of these are true:

    * Features get larger gradients and larger changes than IDs.
    * The ID branch is more than 5 % below the best feature branch.
    * That branch is better than every branch with shuffled features, by more than two standard errors.

    Recall@20 is the mean over the last tenth of the epochs.
    """
    found = _Comparison.of(table)
    larger = found.gradient_ratio > 1 and found.change_ratio > 1
    poor = found.id_recall < (1 - _MARGIN) * found.best
    updates = (
        f"Over {found.epochs} epoch{'s'[: found.epochs != 1]}, gradients of the feature encoders were "
        f"{found.gradient_ratio:.3g} times as large as those of the ID vectors (root mean square, geometric mean over "
        f"epochs), and item vectors of features changed {found.change_ratio:.3g} times as much per epoch as those of "
        "IDs."
    )
    if larger and poor and found.features_matter:
        conclusion = "holds here: features get larger updates, and ID vectors stay poor."
    elif poor and not found.features_matter:
        conclusion = "does not hold here: ID vectors stay poor, but shuffled features do as well as an item's own."
    elif larger:
        conclusion = "does not hold here: features get larger updates, but ID vectors do as well."
    elif poor:
        conclusion = "does not hold here: ID vectors stay poor, but not because of smaller updates."
    else:
        conclusion = "does not hold here: ID vectors neither get smaller updates nor stay poor."
    recalls = ", ".join(f"{name} {recall:.4f}" for name, recall in found.feature_recall.items())
    control = "not measured" if found.others_recall is None else f"at best {found.others_recall:.4f}"
    return updates, (
        f"Validation Recall@20 of single branches: ID {found.id_recall:.4f}, features {recalls}, shuffled features "
        f"{control}; the paper's finding {conclusion}"
    )


def draw(table: pl.DataFrame) -> "Figure":
    """Plot a table of :func:`measure_gradient_bias`."""
    from matplotlib.figure import Figure

    panels = {
        "parameter_gradient": "RMS gradient of encoder\nor free vectors",
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
            axes.plot(best["epoch"], best[column], label="shuffled features, best", color="grey", linestyle=":")
        axes.set(xlabel="epoch", title=title, yscale="linear" if column.startswith("valid") else "log")
        axes.grid(alpha=0.3)
    axes.legend(title="branch")
    return figure
