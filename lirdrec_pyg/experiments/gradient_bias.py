import copy
import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean

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
    make_fabric,
    make_trainer,
)

ID_BRANCH = "id"
# Whose features an item has in a training.
OWN, OTHERS = "own", "others"
_OF_ID, _RECALL = pl.col("branch") == ID_BRANCH, pl.col(f"valid_{MONITOR}")
# Relative differences below this share do not matter.
_MARGIN = 0.05
# As many as early stopping waits for by default.
_MIN_EPOCHS = 20


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
        self.tables: list[pl.DataFrame] = []
        self._features = features
        self._steps: list[Tensor] = []  # of the current epoch

    def on_fit_start(self, trainer: Trainer) -> None:
        self._data = trainer.data
        self._model: _Watched = trainer.model.module
        self._task = RankingTask.from_graph(trainer.data, Split.VALID)
        self._vectors = self._item_vectors()

    @torch.no_grad()
    def _item_vectors(self) -> Tensor:
        with eval_mode(self._model):
            return self._model.encode_items(self._data)

    @torch.no_grad()
    def on_step_end(self, epoch: int, step: int) -> None:
        squares = torch.stack([_mean_square(p) for p in self._model.branch_parameters()])
        norms = torch.linalg.vector_norm(self._model.item_gradient, dim=-1).mean(dim=0)
        self._steps.append(torch.stack([squares, norms]))

    @torch.no_grad()
    def on_epoch_end(self, result: EpochResult) -> None:
        before, self._vectors = self._vectors, self._item_vectors()
        squares, norms = torch.stack(self._steps).mean(dim=0)
        table = {
            "features": self._features,
            "epoch": result.epoch,
            "branch": self._model.branches,
            "parameter_gradient": squares.sqrt().tolist(),
            "item_gradient": norms.tolist(),
            "item_change": torch.linalg.vector_norm(self._vectors - before, dim=-1).mean(dim=0).tolist(),
            f"valid_{MONITOR}": self._recall_per_branch(),
            "valid_users": len(self._task.user_index),
        }
        self.tables.append(pl.DataFrame(table))
        self._steps.clear()

    def _recall_per_branch(self) -> list[float]:
        with eval_mode(self._model):
            user, item = (self._model.split_branches(x) for x in self._model(self._data))
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
    tables = _measured(OWN, dataset.graph, model_config, training_config, callback)
    if not callback.should_stop():
        graph = _with_shuffled_features(dataset.graph, training_config.seed)
        others = _measured(OTHERS, graph, model_config, training_config, callback)
        if not callback.should_stop():  # half a control is not comparable
            tables += others
    return pl.concat(tables) if tables else pl.DataFrame()


def _measured(
    features: str,
    graph: HeteroData,
    model_config: LIRDRecConfig,
    training_config: TrainingConfig,
    callback: Callback,
) -> list[pl.DataFrame]:
    fabric = make_fabric(training_config)
    seed_everything(training_config.seed, verbose=False)
    data = LIRDRec.graph_transform(model_config, progress=True)(copy.copy(graph).to(fabric.device))
    trainer = make_trainer(data, model_config, training_config, fabric, _Watched)
    watch = _Watch(features)
    trainer.fit(CallbackList((watch, callback)))
    return watch.tables


def _with_shuffled_features(graph: HeteroData, seed: int) -> HeteroData:
    """Return ``graph`` with the items' features permuted; all modalities of an item stay together."""
    graph = copy.copy(graph)
    order = torch.randperm(graph["item"].num_nodes, generator=torch.Generator().manual_seed(seed))
    for name in modalities(graph):
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


def verdict(table: pl.DataFrame) -> tuple[str, str]:
    """Summarize a table of :func:`measure_gradient_bias`: the updates, and whether the paper's finding holds.

    The finding holds if all of these differences are above 5 % and above two standard errors (of a mean over epochs or
    users). It does not hold if one of them is below 5 % by as much. Otherwise, there is no verdict.

    * Gradients and changes per epoch of features are larger than those of IDs (geometric means over branches, epochs).
    * Recall@20 of the ID branch is below that of the best feature branch, and the latter is above that of all branches
      with shuffled features (means over the last tenth of the epochs).

    There is no verdict either without the control, or if a training was too short: it needs 20 epochs, Recall@20 of the
    ID branch must have changed by 5 %, and none of the compared curves may still rise. A curve does if its mean over
    the last quarter of the epochs is above that over the quarter before by more than 1 % and a tenth of its whole rise.
    """
    own, control = (table.filter(pl.col("features") == features) for features in (OWN, OTHERS))
    epochs, users = own["epoch"].n_unique(), own["valid_users"][0]
    gradients, changes = (_log_ratio(own, column) for column in ("parameter_gradient", "item_change"))
    recalls, shuffled = _final_recall(own), max(_final_recall(control.filter(~_OF_ID)).values(), default=None)
    ids, best = recalls.pop(ID_BRANCH), max(recalls.values())
    curves = {
        "the ID vectors": own.filter(_OF_ID),
        "the features": own.filter(~_OF_ID),
        "the shuffled features": control.filter(~_OF_ID),
    }
    unsettled = [name for name, rows in curves.items() if not _is_settled(rows)]
    if shuffled is None:
        conclusion = "no verdict without the training on shuffled features."
    elif unsettled:
        conclusion = (
            f"no verdict yet, since Recall@20 of {', '.join(unsettled)} may still rise. Train longer: pass a larger "
            "`epochs`, or a larger `patience` if early stopping ended the training."
        )
    else:
        conclusion = _conclusion(
            {
                "features get no larger gradients than IDs": gradients,
                "features change no more than IDs": changes,
                "ID vectors do as well as features": _difference(best, ids, users),
                "shuffled features do as well as an item's own": _difference(best, shuffled, users),
            }
        )
    shown = ", ".join(f"{name} {recall:.4f}" for name, recall in recalls.items())
    return (
        f"Over {epochs} epoch{'s'[: epochs != 1]}, gradients of the feature encoders were {math.exp(gradients[0]):.3g} "
        "times as large as those of the ID vectors (root mean square, geometric mean over epochs), and item vectors of "
        f"features changed {math.exp(changes[0]):.3g} times as much per epoch as those of IDs.",
        f"Validation Recall@20 of single branches: ID {ids:.4f}, features {shown}, shuffled features "
        f"{'not measured' if shuffled is None else f'at best {shuffled:.4f}'}; {conclusion}",
    )


def _conclusion(differences: dict[str, tuple[float, float]]) -> str:
    """Return the verdict by differences and their standard errors; the keys describe their absence."""
    if failed := [text for text, (mean, error) in differences.items() if mean + 2 * error <= _MARGIN]:
        return f"the paper's finding does not hold here: {', and '.join(failed)}."
    if unclear := [text for text, (mean, error) in differences.items() if mean <= max(_MARGIN, 2 * error)]:
        return (
            f"no verdict, since within the noise {', and '.join(unclear)}. Measure on more users, or compare several "
            "values of `seed`."
        )
    return "the paper's finding holds here: features get larger updates, and ID vectors stay poor."


def _log_ratio(own: pl.DataFrame, column: str) -> tuple[float, float]:
    """Return the log ratio of features to IDs, and its standard error over the epochs."""
    log = pl.col(column).clip(lower_bound=1e-30).log()
    by_epoch = own.group_by("epoch").agg(log.filter(~_OF_ID).mean() - log.filter(_OF_ID).mean())[column]
    return by_epoch.mean(), (by_epoch.std() or 0.0) / math.sqrt(len(by_epoch))  # type: ignore[return-value]


def _difference(high: float, low: float, users: int) -> tuple[float, float]:
    """Return the relative difference of two recalls, and its largest standard error: a mean of values between 0 and 1
    has at most the variance of a mean of as many coin tosses."""
    error = math.sqrt((high * (1 - high) + low * (1 - low)) / users)
    return (high - low) / (high or 1.0), error / (high or 1.0)


def _final_recall(table: pl.DataFrame) -> dict[str, float]:
    """Return the Recall@20 of each branch, lowest first: a mean over the last epochs, since a single one is noisy."""
    epochs = table["epoch"].n_unique()
    end = table.filter(pl.col("epoch") > epochs - max(1, epochs // 10))
    means = end.group_by("branch").agg(_RECALL.mean().alias("recall")).sort("recall", "branch")
    return dict(means.select("branch", "recall").iter_rows())


def best_by_epoch(rows: pl.DataFrame) -> pl.DataFrame:
    """Return Recall@20 of the best branch by epoch."""
    return rows.group_by("epoch").agg(_RECALL.max()).sort("epoch")


def _is_settled(rows: pl.DataFrame) -> bool:
    """Return whether the curve of the best branch rises no longer. That of the ID vectors starts at chance, and must
    have left it before."""
    curve: list[float] = best_by_epoch(rows)[f"valid_{MONITOR}"].to_list()
    if len(curve) < _MIN_EPOCHS:
        return False
    quarter = len(curve) // 4
    last, before = fmean(curve[-quarter:]), fmean(curve[-2 * quarter : -quarter])
    rise = last - curve[0]
    has_begun = abs(rise) > _MARGIN * last or rows["branch"][0] != ID_BRANCH
    return has_begun and last - before <= max(0.1 * rise, 0.01 * last)
