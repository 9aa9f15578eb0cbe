"""Weights of the branches of a model by user."""

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Weights count as equal if they differ by less than this share.
MARGIN = 0.05


def branch_weights(recommender: "Recommender") -> pl.DataFrame:
    """Return the weights of the fusion, one row per user and one column per branch; a row sums to 1.

    Raises:
        ConfigError: if the model has no branches.
    """
    recommender.model_config.require("fusion_weights")
    return pl.DataFrame(recommender.vectors.user_weight.numpy(), schema=list(recommender.model.branches))


def summarize_branches(weights: pl.DataFrame) -> pl.DataFrame:
    """Return one row per branch: mean, standard deviation and quantiles over the users, and the share of users for whom
    the branch is the heaviest: its weight is more than 5 % above that of every other branch.

    For the users that are missing in these shares, several branches have equal weights.

    Args:
        weights: see :func:`branch_weights`.
    """
    return pl.DataFrame(
        [
            {
                "branch": branch,
                "mean": weights[branch].mean(),
                "std": weights[branch].std(ddof=0),
                **{f"q{round(100 * q):02d}": weights[branch].quantile(q, "linear") for q in _QUANTILES},
                "heaviest": weights.select(
                    (pl.col(branch) > (1 + MARGIN) * pl.max_horizontal(pl.lit(0), pl.exclude(branch))).mean()
                ).item(),
            }
            for branch in weights.columns
        ]
    )
