"""Full-ranking evaluation: every item is a candidate but those the user has in training."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
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

from lirdrec_pyg.data import INTERACTS, held_out_edges
from lirdrec_pyg.data.graph import SPLIT_NAMES, Split
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models.mode import eval_mode
from lirdrec_pyg.nn import DotProducts, Ranker, SeenItems, TopK

CUTOFFS = (5, 10, 20, 50)
_ROWS_AT_ONCE = 8192

_METRICS = {
    "recall": LinkPredRecall,
    "ndcg": LinkPredNDCG,
    "precision": LinkPredPrecision,
    "map": LinkPredMAP,
    "mrr": LinkPredMRR,
    "hit_rate": LinkPredHitRatio,
}


class _Coverage(LinkPredCoverage):
    """Coverage that skips places without an item, which hold ``num_dst_nodes``."""

    def update(self, pred_index_mat: Tensor, *labels: Tensor) -> None:
        item = pred_index_mat[:, : self.k].flatten()
        self.mask |= item.bincount(minlength=self.num_dst_nodes + 1)[: self.num_dst_nodes] > 0


@dataclass(frozen=True)
class RankingTask:
    """Who is evaluated, and against what.

    Attributes:
        user_index: users with held-out interactions and with training interactions, ``(N,)``.
        label_index: held-out pairs (row in ``user_index``, item), sorted by row, ``(2, num_pairs)``.
        seen: training items of each user, which are never ranked; ``None`` if nothing is left out.
        num_items: number of candidates.
    """

    user_index: Tensor
    label_index: Tensor
    seen: SeenItems | None
    num_items: int

    @classmethod
    def from_graph(cls, data: HeteroData, split: Split) -> "RankingTask":
        """The task of ``split`` in ``data``.

        Raises:
            DataError: if nobody can be evaluated.
        """
        num_users = data["user"].num_nodes
        pairs = trained_users_only(held_out_edges(data, split), data)
        if not pairs.numel():
            raise DataError(f"The {SPLIT_NAMES[split]} split is empty, or none of its users has training interactions.")
        return cls.of(pairs, SeenItems.of(data[INTERACTS].edge_index, num_users), data["item"].num_nodes)

    @classmethod
    def of(cls, pairs: Tensor, seen: SeenItems | None, num_items: int) -> "RankingTask":
        """The task of finding ``pairs`` (user, item), shape ``(2, num_pairs)``."""
        user_index, row = pairs[0].unique(return_inverse=True)
        row, order = row.sort(stable=True)
        return cls(user_index, torch.stack([row, pairs[1][order]]), seen, num_items)

    @property
    def pairs(self) -> Tensor:
        """Held-out pairs (user, item), shape ``(2, num_pairs)``."""
        row, item = self.label_index
        return torch.stack([self.user_index[row], item])

    def part(self, index: int, count: int) -> "RankingTask":
        """The task for one of ``count`` parts of the users."""
        users = torch.arange(len(self.user_index), device=self.user_index.device).tensor_split(count)[index]
        first = int(users[0]) if len(users) else 0
        row, item = self.label_index
        mine = (row >= first) & (row < first + len(users))
        return replace(
            self, user_index=self.user_index[users], label_index=torch.stack([row[mine] - first, item[mine]])
        )

    def select(self, kept: Tensor) -> "RankingTask":
        """The task of finding some of the pairs only; the candidates stay the same.

        Args:
            kept: bool, shape ``(num_pairs,)``.
        """
        return self.of(self.pairs[:, kept], self.seen, self.num_items)


def trained_users_only(pairs: Tensor, data: HeteroData) -> Tensor:
    """Those of ``pairs`` (user, item) whose user has training interactions in ``data``."""
    trained = degree(data[INTERACTS].edge_index[0], data["user"].num_nodes) > 0
    return pairs[:, trained[pairs[0]]]


def evaluate_ranking(
    user: Tensor,
    item: Tensor,
    task: RankingTask,
    cutoffs: tuple[int, ...] = CUTOFFS,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, float]:
    r"""Ranks all items for the users of ``task`` and averages over them (paper, section 5.1).

    With :math:`h_u` the hits among the first :math:`k` and :math:`n_u` the held-out items of a user:
    Recall :math:`h_u / n_u`; Precision :math:`h_u / k`; NDCG with binary gains and an ideal of
    :math:`\min(n_u, k)` items; MAP with the sum of precisions over :math:`\min(n_u, k)`; MRR of the
    first hit; hit rate, the share of users with one; coverage, the share of items that anybody gets.

    Args:
        user: representations of all users, shape ``(|U|, F)``.
        item: representations of all items, shape ``(|I|, F)``.
        task: users and held-out items.
        cutoffs: values of :math:`k`.
        total: of a number that each process has for its part of the users; there is one process by default.

    Returns:
        ``{"recall@20": ..., ...}`` for each metric and cutoff.
    """
    return evaluate_ranker(DotProducts(user, item), task, cutoffs, total)


def evaluate_ranker(
    ranker: Ranker,
    task: RankingTask,
    cutoffs: tuple[int, ...] = CUTOFFS,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, float]:
    """As :func:`evaluate_ranking`, for whatever ranks the items.

    Args:
        ranker: such as a model's ``ranker(data)``, on the device of ``task``.
        task: users and held-out items.
        cutoffs: as for :func:`evaluate_ranking`.
        total: as for :func:`evaluate_ranking`.
    """
    blocks = ranker.top_k(task.user_index, max(cutoffs), task.seen)
    return ranking_metrics(blocks, task, cutoffs, task.user_index.device, total)


def ranking_metrics(
    blocks: Iterable[TopK],
    task: RankingTask,
    cutoffs: tuple[int, ...] = CUTOFFS,
    device: torch.device | str = "cpu",
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, float]:
    """The metrics of :func:`evaluate_ranking` for rankings that were made already.

    Args:
        blocks: for all users of ``task``, in their order, at least the ``max(cutoffs)`` best items, or all.
        task: users and held-out items.
        cutoffs: values of :math:`k`.
        device: where the blocks are.
        total: as for :func:`evaluate_ranking`.
    """
    metrics = LinkPredMetricCollection(
        {f"{name}@{k}": metric(k) for name, metric in _METRICS.items() for k in cutoffs}
        | {f"coverage@{k}": _Coverage(k, num_dst_nodes=task.num_items) for k in cutoffs}
    ).to(device)
    row, label = task.label_index
    for block in _joined(blocks):
        start, stop = torch.searchsorted(row, torch.tensor([block.rows.start, block.rows.stop], device=row.device))
        # A user with few items left gets training items at the end, at minus infinity: they are no items here.
        ranked = block.item.where(block.score > -torch.inf, task.num_items)
        metrics.update(ranked, torch.stack([row[start:stop] - block.rows.start, label[start:stop]]))
    return {name: float(_value(metric, total)) for name, metric in metrics.items()}


def _value(metric: Any, total: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``metric`` comes to with the parts of all processes."""
    if isinstance(metric, _Coverage):
        return (total(metric.mask.float()) > 0).float().mean()
    mean: Tensor = total(metric.accum) / total(metric.total.float()).clamp_min(1)
    return mean


def _joined(blocks: Iterable[TopK]) -> Iterator[TopK]:
    """The same rankings in larger blocks: each block has a cost of its own in every metric."""
    waiting: list[TopK] = []
    for block in blocks:
        waiting.append(block)
        if block.rows.stop - waiting[0].rows.start >= _ROWS_AT_ONCE:
            yield _join(waiting)
            waiting = []
    if waiting:
        yield _join(waiting)


def _join(blocks: list[TopK]) -> TopK:
    rows = slice(blocks[0].rows.start, blocks[-1].rows.stop)
    return TopK(rows, torch.cat([b.score for b in blocks]), torch.cat([b.item for b in blocks]))


@torch.no_grad()
def evaluate_model(
    model: nn.Module, data: HeteroData, task: RankingTask, total: Callable[[Tensor], Tensor] = lambda part: part
) -> dict[str, float]:
    """Metrics of ``model``, from a fresh pass over the whole graph in eval mode, in float32 or wider.

    The model is left in the mode it was in.
    """
    with eval_mode(model):
        user, item = model(data)
    return evaluate_ranking(user, item, task, total=total)
