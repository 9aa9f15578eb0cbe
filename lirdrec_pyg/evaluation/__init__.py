"""Evaluation by full ranking."""

from lirdrec_pyg.evaluation.buckets import Bucket, evaluate_buckets, evaluate_ranker_by_buckets
from lirdrec_pyg.evaluation.cold_start import check_cold_start, evaluate_cold_start
from lirdrec_pyg.evaluation.ranking import (
    CUTOFFS,
    RankingTask,
    evaluate_model,
    evaluate_ranker,
    evaluate_ranking,
    ranking_metrics,
)

__all__ = [
    "CUTOFFS",
    "Bucket",
    "RankingTask",
    "check_cold_start",
    "evaluate_buckets",
    "evaluate_cold_start",
    "evaluate_model",
    "evaluate_ranker",
    "evaluate_ranker_by_buckets",
    "evaluate_ranking",
    "ranking_metrics",
]
