from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.nn import ProgressiveWeightCopying
from lirdrec_pyg.recommender.branches import branch_weights, summarize_branches

if TYPE_CHECKING:
    from lirdrec_pyg.recommender import Recommender


@dataclass(frozen=True)
class FusionWeights:
    """Weights of progressive weight copying in a trained model.

    Attributes:
        schedule: one row per epoch, with the weights of the network and of the memory.
        best_epoch: epoch of the weights that were kept, 0 if no epoch was finished.
        branches: weights of the branches in that epoch, one row per user and one column per branch; a row sums to 1.
        users: user IDs in the order of these rows.
    """

    schedule: pl.DataFrame
    best_epoch: int
    branches: pl.DataFrame
    users: pl.Series

    def by_user(self) -> pl.DataFrame:
        """Return one row per user: ``user``, and ``weight_<branch>`` for each branch."""
        return self.branches.select(pl.all().name.prefix("weight_")).insert_column(0, self.users.alias("user"))

    def summary(self) -> pl.DataFrame:
        """Return one row per branch, see :func:`~lirdrec_pyg.recommender.branches.summarize_branches`."""
        return summarize_branches(self.branches)


def fusion_weights(recommender: "Recommender") -> FusionWeights:
    """Return the schedule of a model's fusion and its weights of the branches.

    Raises:
        ConfigError: if the model has no progressive weight copying.
        RunError: if the training is not finished.
    """
    config: Any = recommender.model_config
    config.require("fusion_weights")
    if config.fusion != "pwc":
        raise ConfigError(f"`fusion={config.fusion!r}` has no schedule. Train with `fusion='pwc'`.")
    metrics = recommender.metrics
    if metrics is None:
        path = str(recommender.path)
        raise RunError(f"The training of {path} is not finished. Continue it with `resume={path!r}`.")
    weights = branch_weights(recommender)
    return FusionWeights(_schedule(config, metrics["epochs"]), metrics["best_epoch"], weights, recommender.users.ids)


def _schedule(config: Any, epochs: int) -> pl.DataFrame:
    fusion = ProgressiveWeightCopying(1, 1, 1, config.network_weight, config.decay_base)
    rows = []
    for epoch in range(1, epochs + 1):
        fusion.start_epoch()
        rows.append((epoch, float(fusion.network_weight), float(fusion.memory_weight)))
    schema = {"epoch": pl.Int64, "network_weight": pl.Float64, "memory_weight": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
