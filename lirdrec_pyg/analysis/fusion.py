"""What the fusion of a trained run came to: whom it asks, and which branches it listens to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from lirdrec_pyg.config import LIRDRecConfig
from lirdrec_pyg.data import modalities
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.models import branch_names, used_modalities
from lirdrec_pyg.nn import ProgressiveWeightCopying
from lirdrec_pyg.training import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class FusionWeights:
    """The weights of progressive weight copying in a run.

    Attributes:
        schedule: a row an epoch, with the weight of the network and that of the memory in it.
        best_epoch: the epoch of the weights that the run keeps, 0 if none was finished.
        branches: a column a branch and a row a user, the weights by the model that the run keeps; a row sums to 1.
        users: IDs of the users, in the order of these rows.
    """

    schedule: pl.DataFrame
    best_epoch: int
    branches: pl.DataFrame
    users: pl.Series

    def by_user(self) -> pl.DataFrame:
        """A row a user: ``user``, and ``weight_<branch>`` of each branch."""
        return self.branches.select(pl.all().name.prefix("weight_")).insert_column(0, self.users.alias("user"))

    def summary(self) -> pl.DataFrame:
        """The distribution over the users: a row a branch, with mean, standard deviation, quantiles and the
        share of the users for whom it weighs most."""
        weights = self.branches
        heaviest = weights.select(pl.concat_list(pl.all()).list.arg_max().alias("branch"))["branch"]
        return pl.DataFrame(
            [
                {
                    "branch": branch,
                    "mean": weights[branch].mean(),
                    "std": weights[branch].std(ddof=0),
                    **{f"q{round(100 * q):02d}": weights[branch].quantile(q, "linear") for q in _QUANTILES},
                    "heaviest": (heaviest == position).mean(),
                }
                for position, branch in enumerate(weights.columns)
            ]
        )


def fusion_weights(run: Run) -> FusionWeights:
    """Reads from a finished run how its fusion moved from network to memory, and its weights of the branches.

    Raises:
        RunError: if the run is damaged, was changed, or its training is not finished.
    """
    metrics, vectors = run.metrics(), run.vectors()
    if metrics is None or vectors is None:
        raise RunError(
            f"The training of {run.path} is not finished: lirdrec-pyg fit --resume {run.path} goes on with it."
        )
    run.check()
    config = run.lirdrec_config()
    if config.fusion != "pwc":
        raise RunError(f"{run.path} is a run of --fusion {config.fusion}, whose weights move from nowhere to nowhere.")
    names = used_modalities(config, modalities(run.graph()))
    branches = branch_names(names, config.dct, config.id_branch)
    weights = pl.DataFrame(vectors.user_weight.numpy(), schema=list(branches))
    return FusionWeights(_schedule(config, metrics["epochs"]), metrics["best_epoch"], weights, run.users().ids)


def _schedule(config: LIRDRecConfig, epochs: int) -> pl.DataFrame:
    fusion = ProgressiveWeightCopying(1, 1, 1, config.network_weight, config.decay_base)
    rows = []
    for epoch in range(1, epochs + 1):
        fusion.start_epoch()
        rows.append((epoch, float(fusion.network_weight), float(fusion.memory_weight)))
    schema = {"epoch": pl.Int64, "network_weight": pl.Float64, "memory_weight": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def draw(weights: FusionWeights) -> "Figure":
    """A figure of the schedule and of the distribution of the weights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, label in (("network_weight", "network"), ("memory_weight", "memory")):
        left.plot(weights.schedule["epoch"], weights.schedule[column], label=label)
    if weights.best_epoch:
        left.axvline(weights.best_epoch, color="grey", linestyle=":", label="best epoch")
    left.set(xlabel="epoch", title="weight in the fusion", ylim=(0, 1))
    left.legend()
    names = weights.branches.columns
    right.hist([weights.branches[name] for name in names], bins=40, histtype="step", label=names)
    right.set(xlabel="weight", ylabel="users", title="weights of the branches")
    right.legend(title="branch")
    return figure
