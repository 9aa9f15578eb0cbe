"""Exact top-k of dot products, in blocks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import cumsum, degree

# A block of scores: on a CPU 64 MiB at most, so that a selection finds it in the cache.
_BLOCK_ROWS = {"cpu": 512, "cuda": 8192}
_BLOCK_ITEMS = 32_768
# Scores that are compared by their largest only, in the first pass of a selection.
_MIN_CHUNK, _MAX_CHUNK = 4, 32


class TopK(NamedTuple):
    """The best items of a block of users.

    Attributes:
        rows: which of the users asked for these are, a slice.
        score: shape ``(N, k)``, falling.
        item: positions, int64, shape ``(N, k)``.
    """

    rows: slice
    score: Tensor
    item: Tensor


@dataclass(frozen=True)
class SeenItems:
    """The items of each user, so that those of some users are found without a search.

    Attributes:
        start: where the items of each user start, int64, shape ``(|U| + 1,)``.
        item: the items of all users, one user after the other, int64.
    """

    start: Tensor
    item: Tensor

    @classmethod
    def of(cls, edge_index: Tensor, num_users: int) -> "SeenItems":
        """From pairs (user, item) in any order, shape ``(2, num_pairs)``."""
        # Two steps, as a row of an EdgeIndex is an Index.
        user, item = (row.as_subclass(Tensor) for row in edge_index)
        in_order = bool((user[1:] >= user[:-1]).all())  # as the interactions of a graph are: nothing is copied
        start = cumsum(degree(user, num_users, dtype=torch.long))
        return cls(start, item if in_order else item[user.argsort(stable=True)])

    def pairs(self, user_index: Tensor) -> tuple[Tensor, Tensor]:
        """For the items of ``user_index``: rows in ``user_index``, and the items."""
        count = self.start[user_index + 1] - self.start[user_index]
        # Sizes, not lengths: torch.export keeps them open.
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
    """Yields the ``k`` best items for ``user_index``, block by block, so that memory stays bounded.

    As long as there is one block, of 512 users on a CPU, ``torch.export`` can leave their number open.

    Args:
        user: representations of all users, shape ``(|U|, F)``.
        item: representations of all items, shape ``(|I|, F)``.
        user_index: positions of the users to rank for, shape ``(N,)``.
        k: number of items, at most the number of candidates.
        seen: items of each user to leave out; they come last, at minus infinity.
        candidates: positions of the items to rank, each once; by default all.
    """
    place = None
    if candidates is not None:
        if seen is not None:
            place = torch.full((len(item),), -1, device=item.device)
            place[candidates] = torch.arange(len(candidates), device=item.device)
        item = item[candidates]
    k = min(k, len(item))
    block = _BLOCK_ROWS["cpu" if item.device.type == "cpu" else "cuda"]
    # One piece of memory for all blocks: a fresh one would take longer to get than to fill.
    blocks = _row_blocks(user_index.size(0), block)
    buffer = item.new_empty(blocks[0].stop * min(_BLOCK_ITEMS, len(item)))
    for rows in blocks:
        index = user_index[rows]
        left_out = None if seen is None else _placed(seen.pairs(index), place)
        values, indices = _best_of_all(user[index], item, k, left_out, buffer)
        yield TopK(rows, values, indices if candidates is None else candidates[indices])


def _row_blocks(num_rows: int, block: int) -> list[slice]:
    if num_rows <= block:  # asked first, so that torch.export can leave the number of rows open
        return [slice(0, num_rows)]
    return [slice(first, min(first + block, num_rows)) for first in range(0, num_rows, block)]


def _placed(pairs: tuple[Tensor, Tensor], place: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows and columns of the scores, where ``place`` says in which column an item is, if in any."""
    row, item = pairs
    if place is None:
        return row, item
    column = place[item]
    return row[column >= 0], column[column >= 0]


def _best_of_all(
    user: Tensor, item: Tensor, k: int, left_out: tuple[Tensor, Tensor] | None, buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """The ``k`` best items for each of ``user``, found among some of the items at a time."""
    found = []
    for start in range(0, max(1, len(item)), _BLOCK_ITEMS):
        part = item[start : start + _BLOCK_ITEMS]
        size = user.size(0), len(part)
        score = torch.mm(user, part.t(), out=buffer[: size[0] * size[1]].view(size))
        if left_out is not None:
            row, column = left_out
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
    """As ``score.topk(k, dim=1)``, faster where ``k`` is a small part of a row."""
    # As many chunks are searched for the best chunks as scores in them for the best scores.
    chunk = min(_MAX_CHUNK, math.isqrt(score.size(1) // max(1, k)))
    if chunk < _MIN_CHUNK:
        best = score.topk(k, dim=1)
        return best.values, best.indices
    return _largest_by_chunks(score, k, chunk)


def _largest_by_chunks(score: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of a row lie in the ``k`` chunks with the largest maxima: a search within these
    follows one pass over memory. A chunk is each ``num_chunks``-th score, so that this pass compares
    neighbours in memory side by side."""
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
