"""Metrics by user activity and by item popularity."""

from typing import NamedTuple

import torch
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.data import training_interactions
from lirdrec_pyg.evaluation.metrics import RankingTask, evaluate_ranker
from lirdrec_pyg.nn import Ranker

# Smallest number of training interactions in each bucket.
BUCKET_STARTS = (0, 1, 5, 10, 20, 50, 100)


class Bucket(NamedTuple):
    """Metrics of the users or items with some number of training interactions.

    Attributes:
        kind: ``"user activity"`` or ``"item popularity"``.
        interactions: range of the number of training interactions, such as ``"5-9"``.
        num_users: number of users in the average.
        num_pairs: number of held-out interactions.
        metrics: metrics of :func:`~lirdrec_pyg.evaluation.evaluate_ranking`.
    """

    kind: str
    interactions: str
    num_users: int
    num_pairs: int
    metrics: dict[str, float]


def evaluate_buckets(data: HeteroData, ranker: Ranker, task: RankingTask) -> list[Bucket]:
    """Compute metrics by the number of training interactions of the user, and of the held-out item.

    In a bucket of items, only interactions with these items count as hits. All candidates stay in the ranking.

    Args:
        data: graph with the training interactions.
        ranker: ranking function on the device of ``task``, such as ``model.ranker(data)``.
        task: users and held-out items. Items that are not in ``data`` have no training interactions.

    Returns:
        All non-empty buckets, first by user activity, then by item popularity.
    """
    edge_index = training_interactions(data)
    held_out_user, held_out_item = task.pairs
    activity = degree(edge_index[0], data["user"].num_nodes)[held_out_user]
    popularity = degree(edge_index[1], task.num_items)[held_out_item]
    buckets = []
    for kind, count in (("user activity", activity), ("item popularity", popularity)):
        for start, stop in zip(BUCKET_STARTS, (*BUCKET_STARTS[1:], torch.inf), strict=True):
            kept = (count >= start) & (count < stop)
            if kept.any():
                part = task.select(kept)
                metrics = evaluate_ranker(ranker, part)
                buckets.append(Bucket(kind, _label(start, stop), len(part.user_index), int(kept.sum()), metrics))
    return buckets


def _label(start: int, stop: float) -> str:
    if stop == torch.inf:
        return f"{start} or more"
    return str(start) if stop == start + 1 else f"{start}-{int(stop) - 1}"
