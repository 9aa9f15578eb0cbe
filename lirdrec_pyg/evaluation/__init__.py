"""Evaluation by full ranking."""

from lirdrec_pyg.evaluation.ranking import CUTOFFS, RankingTask, evaluate_model, evaluate_ranking

__all__ = ["CUTOFFS", "RankingTask", "evaluate_model", "evaluate_ranking"]
