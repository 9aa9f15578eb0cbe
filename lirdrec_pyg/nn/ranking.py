"""Exact top-k rankings in blocks, by dot products of vectors or by any scores."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch_geometric.utils import cumsum, degree

from lirdrec_pyg.edge_index import plain

# Size of a block of scores: at most 64 MiB on a CPU, so that the selection reads it from the cache.
_BLOCK_ROWS = {"cpu": 512, "cuda": 8192}
_BLOCK_ITEMS = 32_768
# Size of a chunk of scores that is represented by its maximum in the first pass of the selection.
_MIN_CHUNK, _MAX_CHUNK = 4, 32
_SCORE_BYTES = 64 * 2**20


class TopK(NamedTuple):
    """The best items of a block of users.

    Attributes:
        rows: slice of ``user_index`` with the users of this block.
        score: scores in descending order, shape ``(N, k)``.
        item: item indices, int64, shape ``(N, k)``.
    """

    rows: slice
    score: Tensor
    item: Tensor


@dataclass(frozen=True)
class SeenItems:
    """Items of each user in CSR format.

    Attributes:
        start: offset of the items of each user in ``item``, int64, shape ``(|U| + 1,)``.
        item: items of all users, sorted by user, int64, shape ``(num_pairs,)``.
    """

    start: Tensor
    item: Tensor

    @classmethod
    def of(cls, edge_index: Tensor, num_users: int) -> "SeenItems":
        """Create them from pairs (user, item) in any order, shape ``(2, num_pairs)``."""
        user, item = plain(edge_index)
        is_sorted = bool((user[1:] >= user[:-1]).all())  # as in a graph, whose interactions need no copy
        start = cumsum(degree(user, num_users, dtype=torch.long))
        return cls(start, item if is_sorted else item[user.argsort(stable=True)])

    def pairs(self, user_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return all items of the users in ``user_index`` as pairs (row in ``user_index``, item)."""
        count = self.start[user_index + 1] - self.start[user_index]
        # size(0) instead of len(), which torch.export would make a constant.
        row = torch.arange(user_index.size(0), device=count.device).repeat_interleave(count)
        within = torch.arange(row.size(0), device=count.device) - cumsum(count)[row]
        return row, self.item[self.start[user_index][row] + within]


@torch.no_grad()
def top_k(
    user: Tensor,
    item: Tensor,
    user_index: Tensor,
    k: int,
    seen: SeenItems | None = None,
    candidates: Tensor | None = None,
) -> Iterator[TopK]:
    """Yield the top-k items of the users in ``user_index``, in blocks of bounded memory.

    ``torch.export`` supports a dynamic number of users up to the size of one block, which is 512 on a CPU.

    Args:
        user: representations of all users, shape ``(|U|, F)``.
        item: representations of all items, shape ``(|I|, F)``.
        user_index: indices of the users to rank items for, shape ``(N,)``.
        k: number of items per user; fewer if there are fewer candidates.
        seen: items to exclude per user. They are ranked last, with a score of minus infinity.
        candidates: indices of the items to rank, without duplicates; by default all items.
    """
    column_of = None
    if candidates is not None:
        if seen is not None:
            column_of = torch.full((len(item),), -1, device=item.device)
            column_of[candidates] = torch.arange(len(candidates), device=item.device)
        item = item[candidates]
    k = min(k, len(item))
    block = _BLOCK_ROWS["cpu" if item.device.type == "cpu" else "cuda"]
    # One buffer for all blocks, since a new allocation takes longer than filling it.
    blocks = _row_blocks(user_index.size(0), block)
    buffer = item.new_empty(blocks[0].stop * min(_BLOCK_ITEMS, len(item)))
    for rows in blocks:
        index = user_index[rows]
        excluded = None if seen is None else _columns(seen.pairs(index), column_of)
        values, indices = _top_k_of_block(user[index], item, k, excluded, buffer)
        yield TopK(rows, values, indices if candidates is None else candidates[indices])


def _row_blocks(num_rows: int, block: int) -> list[slice]:
    if num_rows <= block:  # a special case, so that torch.export supports a dynamic number of rows
        return [slice(0, num_rows)]
    return [slice(first, min(first + block, num_rows)) for first in range(0, num_rows, block)]


def _columns(pairs: tuple[Tensor, Tensor], column_of: Tensor | None) -> tuple[Tensor, Tensor]:
    """Map items to columns of the scores, without items that are not candidates."""
    row, item = pairs
    if column_of is None:
        return row, item
    column = column_of[item]
    return row[column >= 0], column[column >= 0]


def _top_k_of_block(
    user: Tensor, item: Tensor, k: int, excluded: tuple[Tensor, Tensor] | None, buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the top-k items of a block of users, computed in blocks of items."""
    found = []
    for start in range(0, max(1, len(item)), _BLOCK_ITEMS):
        part = item[start : start + _BLOCK_ITEMS]
        size = user.size(0), len(part)
        score = torch.mm(user, part.t(), out=buffer[: size[0] * size[1]].view(size))
        if excluded is not None:
            row, column = excluded
            if len(part) < len(item):
                here = (column >= start) & (column < start + len(part))
                row, column = row[here], column[here] - start
            score[row, column] = -torch.inf
        values, indices = _largest(score, min(k, len(part)))
        found.append((values, indices + start))
    if len(found) == 1:
        return found[0]
    values, indices = (torch.cat(parts, dim=1) for parts in zip(*found))
    best = values.topk(k, dim=1)
    return best.values, indices.gather(1, best.indices)


def _largest(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Compute ``score.topk(k, dim=1)``, faster if ``k`` is small compared with the length of a row."""
    # Balances the number of chunks, searched in the first pass, and the number of scores in the chosen chunks.
    chunk = min(_MAX_CHUNK, math.isqrt(score.size(1) // max(1, k)))
    if chunk < _MIN_CHUNK:
        return score.topk(k, dim=1)
    return _largest_by_chunks(score, k, chunk)


def _largest_by_chunks(score: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` chunks with the largest maxima, which contain the ``k`` largest scores, and search these only.

    A chunk consists of every ``num_chunks``-th score, so that the first pass is vectorized over adjacent memory.
    """
    num_rows, num_columns = score.shape
    num_chunks = num_columns // chunk
    whole = num_chunks * chunk
    maxima = score[:, :whole].unflatten(1, (chunk, num_chunks)).amax(dim=1)
    chosen = maxima.topk(k, dim=1, sorted=False).indices
    within = num_chunks * torch.arange(chunk, device=score.device).unsqueeze(1)
    column = (chosen.unsqueeze(1) + within).flatten(start_dim=1)
    rest = torch.arange(whole, num_columns, device=score.device).expand(num_rows, -1)
    column = torch.cat([column, rest], dim=1)
    best = score.gather(1, column).topk(k, dim=1)
    return best.values, column.gather(1, best.indices)


def share_in_lists(lists: Iterable[TopK], is_counted: Tensor) -> float:
    """Return the share of some items in rankings.

    Args:
        lists: rankings; items that were excluded do not count.
        is_counted: which items, bool, shape ``(|I|,)``.
    """
    found = [is_counted[block.item[block.score > -torch.inf]] for block in lists]
    return float(torch.cat(found).float().mean())


class Ranker(Protocol):
    """Ranking function of a model, for any kind of scores."""

    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        """Yield the top-k items of the users in ``user_index``, see :func:`~lirdrec_pyg.nn.top_k`."""


@dataclass(frozen=True)
class DotProducts:
    r"""Ranker by dot products :math:`\mathbf{u}^\top \mathbf{v}`.

    Attributes:
        user: vectors of all users, shape ``(|U|, F)``.
        item: vectors of all items, shape ``(|I|, F)``.
    """

    user: Tensor
    item: Tensor

    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        """See :class:`Ranker`."""
        return top_k(self.user, self.item, user_index, k, seen, candidates)

    def score(self, user_index: Tensor) -> Tensor:
        """Return the scores of all items for some users, shape ``(N, |I|)``."""
        return self.user[user_index] @ self.item.t()


@dataclass(frozen=True)
class Scores:
    """Ranker by scores that a function computes for batches of users.

    Attributes:
        score: function from user indices, int64, shape ``(N,)``, to scores of all items, shape ``(N, |I|)``. Its
            output is modified in place.
        num_items: number of items.
    """

    score: Callable[[Tensor], Tensor]
    num_items: int

    @torch.no_grad()
    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        """See :class:`Ranker`."""
        block = max(1, _SCORE_BYTES // (4 * self.num_items))
        for rows in _row_blocks(len(user_index), block):
            score = self.score(user_index[rows])
            if seen is not None:
                score[seen.pairs(user_index[rows])] = -torch.inf
            if candidates is not None:
                score = score[:, candidates]
            best = score.topk(min(k, score.size(1)), dim=1)
            yield TopK(rows, best.values, best.indices if candidates is None else candidates[best.indices])
