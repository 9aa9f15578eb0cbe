"""Train a recommender further, with later interactions, users and items."""

import os
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.config import Config, field
from lirdrec_pyg.data import HELD_OUT, INTERACTS, Dataset, NewItems, Split, held_out_edges
from lirdrec_pyg.data.extend import extend
from lirdrec_pyg.errors import DataError, RunError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import continue_from, fold_in_users
from lirdrec_pyg.nn import DotProducts
from lirdrec_pyg.recommender.run import Run
from lirdrec_pyg.recommender.train import finished, prepared, trained
from lirdrec_pyg.training import MONITOR, make_fabric
from lirdrec_pyg.training.distributed import leave

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender


@dataclass(frozen=True)
class UpdateConfig(Config):
    """How to train further with later interactions."""

    hold_out: float = field(
        0.2,
        "Share of the new interactions to hold out, the latest ones: half for validation and half, of known users, for "
        "the gate. With 0, all are for training, which takes exactly --epochs epochs, and there is no gate.",
        min=0,
        max=0.9,
    )
    num_validation: int = field(
        5000,
        "Number of interactions to validate on: the latest held-out ones, and earlier validation interactions until "
        "there are as many. All others are for training.",
        min=0,
    )
    epochs: int = field(30, "Maximum number of epochs.", min=1)
    patience: int = field(8, "Stop after this many epochs without a better validation Recall@20.", min=1)
    lr: float | None = field(None, "Learning rate; by default that of the run.", min=0, min_open=True)


@dataclass(frozen=True)
class Gate:
    """The recommender before an update and after it, on the same held-out interactions.

    These are interactions of users of the old recommender, which knows the new items as ``add_items`` attaches them.

    Attributes:
        users: number of these users.
        before: metrics of the old recommender.
        after: metrics of the new one.
    """

    users: int
    before: dict[str, float]
    after: dict[str, float]

    @classmethod
    def of(cls, old: "Recommender", new: "Recommender", split: Split) -> "Gate":
        """Compare two recommenders on the held-out interactions of ``new``."""
        pairs = held_out_edges(new.graph, split)
        pairs = pairs[:, _learned(old, new.dataset)[pairs[0]]]
        task = RankingTask.of(pairs, new.history, len(new.items))
        before, after = (evaluate_ranker(DotProducts(x.user, x.item), task) for x in (old.vectors, new.vectors))
        return cls(pairs[0].unique().numel(), before, after)

    @property
    def drop(self) -> float:
        """By which part Recall@20 fell, negative if it rose."""
        old, new = self.before[MONITOR], self.after[MONITOR]
        return (old - new) / old if old else 0.0


def update(
    recommender: "Recommender",
    interactions: pl.DataFrame,
    features: NewItems | None,
    config: UpdateConfig,
    out: Path | None,
    callback: Callback,
    overwrite: bool,
) -> "Recommender":
    """See :meth:`Recommender.update`."""
    training = replace(
        recommender.training_config,
        refit=False,
        minutes=None,
        epochs=config.epochs,
        patience=config.patience,
        lr=config.lr or recommender.training_config.lr,
    )
    num_validation = config.num_validation if config.hold_out else 0
    dataset = extend(recommender.dataset, interactions, config.hold_out, num_validation, training.seed, features)
    if config.hold_out and not all(held_out_edges(dataset.graph, split).numel() for split in HELD_OUT):
        raise DataError(
            f"Of {dataset.facts['interactions added']} new interactions, too few are of known users to hold out any. "
            "Collect more, or pass `hold_out=0`."
        )
    model_config = recommender.model_config
    fabric = make_fabric(training)
    trainer, dataset, tasks = prepared(dataset, model_config, training, fabric)
    _continue(trainer.model.module, recommender, dataset)
    trainer.model.module.prepare(trainer.data)  # by what is known now
    folder = out if fabric.is_global_zero else None
    created = nullcontext() if folder is None else Run.created(folder, dataset, model_config, training, overwrite)
    with created as run:
        updated = trained(run, dataset, trainer, tasks, model_config, callback)
        if config.hold_out:
            gates = [Gate.of(recommender, updated, split) for split in HELD_OUT]
            compared: dict[str, Any] = {split.value: asdict(gate) for split, gate in zip(HELD_OUT, gates)}
            compared["drop"] = max(gate.drop for gate in gates)
            updated = replace(updated, metrics={**(updated.metrics or {}), "update": compared})
        updated = finished(run, updated)
    callback.on_fit_end(updated)
    leave(fabric)
    return updated


def _continue(model: Any, recommender: "Recommender", dataset: Dataset) -> None:
    """Start ``model``, for ``dataset``, from the weights of ``recommender``, and new users from their fold-in."""
    learned = _learned(recommender, dataset)
    user, item = dataset.graph[INTERACTS].edge_index
    rows = learned.logical_not().cumsum(0) - 1  # of the other users among these
    others = ~learned[user]
    position = torch.full((int((~learned).sum()),), -1)
    history = torch.stack([rows[user[others]], item[others]])
    known = recommender.vectors, recommender.history, recommender.popularity
    folded = fold_in_users(recommender.model, *known, history, position)
    device = model.user.device
    continue_from(model, recommender.model, learned.to(device), folded.user.to(device))


def _learned(recommender: "Recommender", dataset: Dataset) -> Tensor:
    """Return which users of ``dataset`` have a vector of their own in ``recommender``, bool, shape ``(|U|,)``."""
    learned = torch.zeros(len(dataset.users), dtype=torch.bool)
    learned[: len(recommender.users)] = torch.from_numpy(recommender.has_history)
    return learned


def promote(run: Path, link: Path) -> None:
    """Point a symbolic link to the folder of a run, atomically: a reader finds the old run or the new one.

    Raises:
        RunError: if ``link`` is something else than a symbolic link, or cannot be written.
    """
    check_link(link)
    try:
        with tempfile.TemporaryDirectory(dir=link.absolute().parent, prefix=f".{link.name}.") as folder:
            fresh = Path(folder) / "link"
            fresh.symlink_to(run.resolve(), target_is_directory=True)
            os.replace(fresh, link)
    except OSError as error:
        raise RunError(f"Cannot point {link} to {run} ({error}).") from error


def check_link(link: Path) -> None:
    """Raise :class:`RunError` if :func:`promote` cannot write ``link``."""
    if not link.is_symlink() and link.exists():
        raise RunError(f"{link} exists and is not a symbolic link. Pass another path as `promote`.")
    if not link.absolute().parent.is_dir():
        raise RunError(f"The folder of {link} does not exist. Create it, or pass another path as `promote`.")
