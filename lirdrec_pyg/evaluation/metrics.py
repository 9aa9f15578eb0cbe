"""Full-ranking evaluation: all items are candidates, except the training items of each user."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredCoverage,
    LinkPredHitRatio,
    LinkPredMAP,
    LinkPredMetricCollection,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)
from torch_geometric.utils import degree

from lirdrec_pyg.data import INTERACTS, Split, held_out_edges
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.nn import DotProducts, Ranker, SeenItems, TopK

CUTOFFS = (5, 10, 20, 50)
_BLOCK_ROWS = 8192

_METRICS = {
    "recall": LinkPredRecall,
    "ndcg": LinkPredNDCG,
    "precision": LinkPredPrecision,
    "map": LinkPredMAP,
    "mrr": LinkPredMRR,
    "hit_rate": LinkPredHitRatio,
}


class _Coverage(LinkPredCoverage):
    """Coverage that ignores the padding index ``num_dst_nodes``."""

    def update(self, pred_index_mat: Tensor, *labels: Tensor) -> None:
        item = pred_index_mat[:, : self.k].flatten()
        self.mask |= item.bincount(minlength=self.num_dst_nodes + 1)[: self.num_dst_nodes] > 0


@dataclass(frozen=True)
class RankingTask:
    """Users to evaluate and their held-out items.

    Attributes:
        user_index: users with held-out and training interactions, int64, shape ``(N,)``.
        label_index: held-out pairs (row in ``user_index``, item), sorted by row, int64, shape ``(2, num_pairs)``.
        seen: training items of each user, which are excluded from the ranking; None to exclude nothing.
        num_items: number of candidates.
    """

    user_index: Tensor
    label_index: Tensor
    seen: SeenItems | None
    num_items: int

    @classmethod
    def from_graph(cls, data: HeteroData, split: Split | str) -> "RankingTask":
        """Create the task of a split of ``data``.

        Raises:
            DataError: if there are no users to evaluate.
        """
        num_users = data["user"].num_nodes
        pairs = trained_users_only(held_out_edges(data, split), data)
        if not pairs.numel():
            raise DataError(f"The {Split(split).title} split is empty, or none of its users has training interactions.")
        return cls.of(pairs, SeenItems.of(data[INTERACTS].edge_index, num_users), data["item"].num_nodes)

    @classmethod
    def of(cls, pairs: Tensor, seen: SeenItems | None, num_items: int) -> "RankingTask":
        """Create a task from held-out pairs (user, item), shape ``(2, num_pairs)``."""
        user_index, row = pairs[0].unique(return_inverse=True)
        row, order = row.sort(stable=True)
        return cls(user_index, torch.stack([row, pairs[1][order]]), seen, num_items)

    @property
    def pairs(self) -> Tensor:
        """Held-out pairs (user, item), shape ``(2, num_pairs)``."""
        row, item = self.label_index
        return torch.stack([self.user_index[row], item])

    def part(self, index: int, count: int) -> "RankingTask":
        """Return the task for part ``index`` of ``count`` parts of the users."""
        users = torch.arange(len(self.user_index), device=self.user_index.device).tensor_split(count)[index]
        first = int(users[0]) if len(users) else 0
        row, item = self.label_index
        kept = (row >= first) & (row < first + len(users))
        return replace(
            self, user_index=self.user_index[users], label_index=torch.stack([row[kept] - first, item[kept]])
        )

    def select(self, kept: Tensor) -> "RankingTask":
        """Return the task with some of the held-out pairs and the same candidates.

        Args:
            kept: mask of the pairs to keep, bool, shape ``(num_pairs,)``.
        """
        return self.of(self.pairs[:, kept], self.seen, self.num_items)


def trained_users_only(pairs: Tensor, data: HeteroData) -> Tensor:
    """Select the ``pairs`` (user, item) whose user has training interactions in ``data``."""
    trained = degree(data[INTERACTS].edge_index[0], data["user"].num_nodes) > 0
    return pairs[:, trained[pairs[0]]]


def evaluate_ranking(
    user: Tensor,
    item: Tensor,
    task: RankingTask,
    cutoffs: tuple[int, ...] = CUTOFFS,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, float]:
    r"""Rank all items for the users of ``task`` and compute metrics, averaged over users (LIRDRec paper, section 5.1).

    With :math:`h_u` hits among the top :math:`k` and :math:`n_u` held-out items of a user: Recall :math:`h_u / n_u`;
    Precision :math:`h_u / k`; NDCG with binary gains and an ideal ranking of :math:`\min(n_u, k)` items; MAP with the
    sum of precisions divided by :math:`\min(n_u, k)`; MRR of the first hit; hit rate, the fraction of users with a hit;
    coverage, the fraction of items that are recommended to at least one user.

    Args:
        user: representations of all users, shape ``(|U|, F)``.
        item: representations of all items, shape ``(|I|, F)``.
        task: users and held-out items.
        cutoffs: values of :math:`k`.
        total: function that sums a tensor over all processes, each with its part of the users.

    Returns:
        ``{"recall@20": ..., ...}`` with one entry per metric and cutoff.
    """
    return evaluate_ranker(DotProducts(user, item), task, cutoffs, total)


def evaluate_ranker(
    ranker: Ranker,
    task: RankingTask,
    cutoffs: tuple[int, ...] = CUTOFFS,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, float]:
    """Evaluate any ranking function, see :func:`evaluate_ranking`.

    Args:
        ranker: ranking function on the device of ``task``, such as ``model.ranker(data)``.
        task: users and held-out items.
        cutoffs: values of :math:`k`.
        total: function that sums a tensor over all processes, each with its part of the users.
    """
    return ranking_metrics(ranker.top_k(task.user_index, max(cutoffs), task.seen), task, cutoffs, total)


def ranking_metrics(
    blocks: Iterable[TopK],
    task: RankingTask,
    cutoffs: tuple[int, ...] = CUTOFFS,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, float]:
    """Compute the metrics of :func:`evaluate_ranking` for given rankings.

    Args:
        blocks: top-k items of the users of ``task``, in their order, with ``max(cutoffs)`` or more items, or all items.
        task: users and held-out items, on the same device.
        cutoffs: values of :math:`k`.
        total: function that sums a tensor over all processes, each with its part of the users.
    """
    metrics = LinkPredMetricCollection(
        {f"{name}@{k}": metric(k) for name, metric in _METRICS.items() for k in cutoffs}
        | {f"coverage@{k}": _Coverage(k, num_dst_nodes=task.num_items) for k in cutoffs}
    ).to(task.user_index.device)
    row, label = task.label_index
    for block in _joined(blocks):
        start, stop = torch.searchsorted(row, torch.tensor([block.rows.start, block.rows.stop], device=row.device))
        # Excluded items are ranked last, at minus infinity, for users with few other items.
        ranked = block.item.where(block.score > -torch.inf, task.num_items)
        metrics.update(ranked, torch.stack([row[start:stop] - block.rows.start, label[start:stop]]))
    return {name: float(_value(metric, total)) for name, metric in metrics.items()}


def _value(metric: Any, total: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute ``metric`` over the users of all processes."""
    if isinstance(metric, _Coverage):
        return (total(metric.mask.float()) > 0).float().mean()
    mean: Tensor = total(metric.accum) / total(metric.total.float()).clamp_min(1)
    return mean


def _joined(blocks: Iterable[TopK]) -> Iterator[TopK]:
    """Join rankings to larger blocks, since every metric has a fixed cost per block."""
    pending: list[TopK] = []
    for block in blocks:
        pending.append(block)
        if block.rows.stop - pending[0].rows.start >= _BLOCK_ROWS:
            yield _join(pending)
            pending = []
    if pending:
        yield _join(pending)


def _join(blocks: list[TopK]) -> TopK:
    rows = slice(blocks[0].rows.start, blocks[-1].rows.stop)
    return TopK(rows, torch.cat([b.score for b in blocks]), torch.cat([b.item for b in blocks]))
