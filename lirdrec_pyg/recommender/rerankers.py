"""Rankers around a ranker: against popularity, with a bound per kind of item, and for variety."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lirdrec_pyg.errors import check_extra
from lirdrec_pyg.nn import DotProducts, Ranker, Scores, SeenItems, TopK

DiversityMethod = Literal["dpp", "mmr", "msd", "cover", "ssd"]

_BLOCK_SCORES = 2**21
_MIN_POOL = 100


def penalized(ranker: DotProducts | Scores, popularity: Tensor, penalty: float) -> Scores:
    r"""Return a ranker by :math:`x_{ui} - p \, \sigma_u z_i`.

    :math:`\sigma_u` is the standard deviation of the user's scores :math:`x_{ui}` over all items, and :math:`z_i` the
    ``popularity``, see :meth:`Recommender.relative_popularity`. With a penalty :math:`p = 1`, an item whose logarithmic
    popularity lies one standard deviation above the mean has to be better by one standard deviation of the scores, on
    any data.
    """

    def score(user_index: Tensor) -> Tensor:
        x = ranker.score(user_index)
        return x.addcmul_(x.std(dim=1, correction=0, keepdim=True), popularity, value=-penalty)

    return Scores(score, len(popularity))


@dataclass(frozen=True)
class Unpenalized:
    """The order of a ranker, with the scores of another one."""

    ranker: Ranker
    scored_by: DotProducts | Scores

    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        """See :class:`~lirdrec_pyg.nn.Ranker`."""
        for block in self.ranker.top_k(user_index, k, seen, candidates):
            index = user_index[block.rows]
            if isinstance(self.scored_by, DotProducts):
                score = torch.einsum("nf,nkf->nk", self.scored_by.user[index], self.scored_by.item[block.item])
            else:
                score = self.scored_by.score(index).gather(1, block.item)
            yield block._replace(score=score.where(block.score > -torch.inf, -torch.inf))


@dataclass(frozen=True)
class AtMost:
    """Ranker whose lists hold at most ``limits[c]`` items with the same value in column ``c``.

    The list takes one item after the other, best first, unless a value of it is used up. For one column, no other
    list that obeys the limit has a higher score at any rank.

    Attributes:
        ranker: what orders the items.
        values: value of each item in each column, any integers, shape ``(C, |I|)``.
        limits: items per value, for each column.
    """

    ranker: DotProducts | Scores
    values: Tensor
    limits: Sequence[int]

    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        """See :class:`~lirdrec_pyg.nn.Ranker`."""
        if candidates is None:
            candidates = torch.arange(self.values.size(1), device=self.values.device)
        # Items of a cell have the same values, so a list holds the best of each, and no more than the lowest limit.
        cell = self.values[:, candidates].unique(dim=1, return_inverse=True)[1]
        if int(cell.max()) < 2 * k:
            sizes = cell.bincount().tolist()
            pools = self._best_of_cells(user_index, k, seen, candidates[cell.argsort()], sizes)
            return (self._chosen(pool, k) for pool in pools)
        return self._deepened(user_index, min(k, self._longest(candidates)), seen, candidates, 2 * k)

    def _longest(self, candidates: Tensor) -> int:
        """Return a bound of the length of a list that obeys the limits."""
        counts = (value.unique(return_counts=True)[1] for value in self.values[:, candidates])
        return min(int(count.clamp(max=limit).sum()) for count, limit in zip(counts, self.limits, strict=True))

    def _best_of_cells(
        self, user_index: Tensor, k: int, seen: SeenItems | None, candidates: Tensor, sizes: list[int]
    ) -> Iterator[TopK]:
        """Yield enough items for a full list, if there are few cells; ``candidates`` are sorted by these."""
        start = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        count = min(k, *self.limits)
        block = max(1, _BLOCK_SCORES // self.values.size(1))
        for first in range(0, len(user_index), block):
            index = user_index[first : first + block]
            score = self.ranker.score(index)
            if seen is not None:
                score[seen.pairs(index)] = -torch.inf
            best = [x.topk(min(count, x.size(1)), dim=1) for x in score.index_select(1, candidates).split(sizes, dim=1)]
            value = torch.cat([x.values for x in best], dim=1)
            column = torch.cat([x.indices + int(offset) for x, offset in zip(best, start, strict=True)], dim=1)
            value, order = value.sort(dim=1, descending=True)
            yield TopK(slice(first, first + len(index)), value, candidates[column.gather(1, order)])

    def _deepened(
        self, user_index: Tensor, k: int, seen: SeenItems | None, candidates: Tensor, depth: int
    ) -> Iterator[TopK]:
        """Choose among the ``depth`` best items of each user, or more for those whose list is not full."""
        for pool in self.ranker.top_k(user_index, depth, seen, candidates):
            found = self._chosen(pool, k)
            short = (found.score[:, -1] == -torch.inf) & (pool.score[:, -1] > -torch.inf)
            if depth < len(candidates) and bool(short.any()):
                index = user_index[pool.rows][short]
                deeper = [*self._deepened(index, k, seen, candidates, 4 * depth)]
                found.score[short] = torch.cat([x.score for x in deeper])
                found.item[short] = torch.cat([x.item for x in deeper])
            yield found

    def _chosen(self, pool: TopK, k: int) -> TopK:
        """Return the best list of a pool in descending order."""
        kept = self._kept(pool)
        place = (~kept).byte().argsort(dim=1, stable=True)[:, :k]
        score = pool.score.masked_fill(~kept, -torch.inf)
        return TopK(pool.rows, score.gather(1, place), pool.item.gather(1, place))

    def _kept(self, pool: TopK) -> Tensor:
        """Return which items of a pool the list would take if it were long enough.

        Whether it takes an item depends on those before it, so that each repetition settles at least one more place,
        in practice almost all.
        """
        real = kept = pool.score > -torch.inf
        values = [value[pool.item] for value in self.values]
        orders = [value.argsort(dim=1, stable=True) for value in values]
        starts = [_run_starts(value.gather(1, order)) for value, order in zip(values, orders, strict=True)]
        while True:
            allowed = real
            for order, is_start, limit in zip(orders, starts, self.limits, strict=True):
                allowed = allowed & (_kept_before(kept, order, is_start) < limit)
            if allowed.equal(kept):
                return kept
            kept = allowed


def _run_starts(value: Tensor) -> Tensor:
    """Return where a value differs from the one before it in its row."""
    is_start = torch.ones_like(value, dtype=torch.bool)
    is_start[:, 1:] = value[:, 1:] != value[:, :-1]
    return is_start


def _kept_before(kept: Tensor, order: Tensor, is_start: Tensor) -> Tensor:
    """Return the number of kept items of the same value before each item, given the stable order by values."""
    by_value = kept.gather(1, order).long()
    before = by_value.cumsum(dim=1) - by_value
    before -= before.where(is_start, 0).cummax(dim=1).values
    return torch.empty_like(before).scatter_(1, order, before)


@dataclass(frozen=True)
class Diverse:
    """Ranker that chooses from the best ``max(100, 5 k)`` items of another one, for relevance and variety.

    Attributes:
        ranker: what orders the items. Its scores are scaled to [0, 1] over the items to choose from.
        features: function from items, shape ``(N,)``, to vectors whose cosine is their similarity, shape ``(N, F)``.
        diversify: function from vectors, scores and ``k`` to a ``DiversificationResult``, such as pyversity's.
    """

    ranker: Ranker
    features: Callable[[Tensor], Tensor]
    diversify: Callable[..., Any]

    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        """See :class:`~lirdrec_pyg.nn.Ranker`."""
        for pool in self.ranker.top_k(user_index, max(_MIN_POOL, 5 * k), seen, candidates):
            items, place = pool.item.cpu().unique(return_inverse=True)
            x = self.features(items).cpu().float().numpy()
            # The items that are left out come last, as in the pool.
            chosen = torch.arange(min(k, place.size(1))).repeat(len(place), 1)
            for score, own, best in zip(pool.score.cpu(), place.numpy(), chosen, strict=True):
                score = score[score > -torch.inf]
                if len(score) > 1:
                    relevance = (score - score[-1]) / (score[0] - score[-1]).clamp(min=1e-12)
                    found = self.diversify(x[own[: len(score)]], relevance.numpy(), k)
                    best[: len(found.indices)] = torch.from_numpy(found.indices)
            chosen = chosen.to(pool.item.device)
            yield TopK(pool.rows, pool.score.gather(1, chosen), pool.item.gather(1, chosen))


def pyversity(method: DiversityMethod, diversity: float) -> Callable[..., Any]:
    """Return pyversity's function for :class:`Diverse`, or raise :class:`ConfigError` if it is not installed."""
    check_extra("rerank", "pyversity", purpose="Re-ranking")
    from pyversity import diversify

    return partial(diversify, strategy=method, diversity=diversity)
