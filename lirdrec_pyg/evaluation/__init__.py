"""Full-ranking evaluation."""

from lirdrec_pyg.evaluation.beyond_accuracy import BeyondAccuracy, Personalization, evaluate_splits, gini, item_clusters
from lirdrec_pyg.evaluation.buckets import Bucket, evaluate_buckets
from lirdrec_pyg.evaluation.cold_start import check_cold_start, evaluate_cold_start
from lirdrec_pyg.evaluation.metrics import (
    CUTOFFS,
    RankingTask,
    evaluate_ranker,
    evaluate_ranking,
    ranking_metrics,
    trained_users_only,
)
from lirdrec_pyg.evaluation.significance import holm, metrics_by_user, paired_bootstrap

__all__ = [
    "CUTOFFS",
    "BeyondAccuracy",
    "Bucket",
    "Personalization",
    "RankingTask",
    "check_cold_start",
    "evaluate_buckets",
    "evaluate_cold_start",
    "evaluate_ranker",
    "evaluate_ranking",
    "evaluate_splits",
    "gini",
    "holm",
    "item_clusters",
    "metrics_by_user",
    "paired_bootstrap",
    "ranking_metrics",
    "trained_users_only",
]
