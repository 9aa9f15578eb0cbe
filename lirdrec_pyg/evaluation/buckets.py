"""Figures for parts of a split: for users of little and much activity, for rare and popular items."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.evaluation.ranking import RankingTask, evaluate_ranker
from lirdrec_pyg.nn import DotProducts, Ranker

# Training interactions from which a bucket starts.
BUCKET_STARTS = (0, 1, 5, 10, 20, 50, 100)


class Bucket(NamedTuple):
    """Figures for a part of a split.

    Attributes:
        kind: ``"user activity"`` or ``"item popularity"``.
        interactions: what the users or items have in training, such as ``"5-9"``.
        num_users: users that are averaged over.
        num_pairs: interactions to be found.
        metrics: those of :func:`~lirdrec_pyg.evaluation.evaluate_ranking`.
    """

    kind: str
    interactions: str
    num_users: int
    num_pairs: int
    metrics: dict[str, float]


def evaluate_buckets(data: HeteroData, user: Tensor, item: Tensor, task: RankingTask) -> list[Bucket]:
    """Figures by the training interactions of the user, and by those of the held-out item.

    In a bucket of items, only its interactions count as hits; the other candidates stay in the ranking.

    Args:
        data: the graph.
        user: representations of all users, shape ``(|U|, F)``.
        item: representations of all items, shape ``(|I|, F)``, with new items at the end or without.
        task: users and held-out items.

    Returns:
        The buckets that hold anything, those of users first.
    """
    return evaluate_ranker_by_buckets(data, DotProducts(user, item), task)


def evaluate_ranker_by_buckets(data: HeteroData, ranker: Ranker, task: RankingTask) -> list[Bucket]:
    """As :func:`evaluate_buckets`, for whatever ranks the items."""
    edge_index = data[INTERACTS].edge_index.as_subclass(Tensor)
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
