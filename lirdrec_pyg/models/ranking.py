"""Exact top-k of dot products, in blocks of users."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import cumsum, degree

from lirdrec_pyg.errors import DataError

_BLOCK_BYTES = 64 * 2**20
# Scores that are compared by their largest only, in the first pass of a selection.
_CHUNK = 64


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
        return cls(cumsum(degree(user, num_users, dtype=torch.long)), item[user.argsort(stable=True)])

    def pairs(self, user_index: Tensor) -> tuple[Tensor, Tensor]:
        """For the items of ``user_index``: rows in ``user_index``, and the items."""
        count = self.start[user_index + 1] - self.start[user_index]
        row = torch.arange(len(user_index), device=count.device).repeat_interleave(count)
        within = torch.arange(len(row), device=count.device) - cumsum(count)[row]
        return row, self.item[self.start[user_index][row] + within]


def user_positions(users: Tensor | Sequence[int], num_users: int) -> Tensor:
    """``users`` as int64 positions, shape ``(N,)``.

    Raises:
        DataError: if they are no list of integers, or one lies outside of ``0`` to ``num_users - 1``.
    """
    try:
        index = torch.as_tensor(users)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"user_index can't be made a tensor of positions ({error}).") from error
    if index.dim() == 1 and not len(index):
        # An empty list has no type of its own.
        return index.long()
    integer = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
    if index.dim() != 1 or not integer:
        raise DataError(
            f"user_index has to be positions of users, integers of shape (N,), "
            f"got {index.dtype} of shape {tuple(index.shape)}."
        )
    index = index.long()
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= num_users:
        wrong = low if low < 0 else high
        raise DataError(f"user_index holds {wrong}, but the positions of users go from 0 to {num_users - 1}.")
    return index


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
    transposed = item.t()
    block = max(1, _BLOCK_BYTES // max(1, item.element_size() * len(item)))
    # One piece of memory for all blocks: a fresh one would take longer to get than to fill.
    scores = item.new_empty(min(block, len(user_index)), len(item))
    for first in range(0, max(1, len(user_index)), block):
        rows = slice(first, min(first + block, len(user_index)))
        index = user_index[rows]
        score = torch.mm(user[index], transposed, out=scores[: len(index)])
        if seen is not None:
            row, column = seen.pairs(index)
            if place is not None:
                column = place[column]
                row, column = row[column >= 0], column[column >= 0]
            score[row, column] = -torch.inf
        values, indices = _largest(score, k)
        yield TopK(rows, values, indices if candidates is None else candidates[indices])


def _largest(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As ``score.topk(k, dim=1)``, some times faster where ``k`` is a small part of a row.

    The ``k`` largest of a row lie in the ``k`` chunks with the largest maxima: a search within these
    follows one pass over memory.
    """
    num_rows, num_columns = score.shape
    num_chunks = num_columns // _CHUNK
    if num_chunks < 4 * k:
        best = score.topk(k, dim=1)
        return best.values, best.indices
    whole = num_chunks * _CHUNK
    chunks = score[:, :whole].unflatten(1, (num_chunks, _CHUNK))
    chosen = chunks.amax(dim=2).topk(k, dim=1).indices
    column = (chosen.unsqueeze(2) * _CHUNK + torch.arange(_CHUNK, device=score.device)).flatten(start_dim=1)
    rest = torch.arange(whole, num_columns, device=score.device).expand(num_rows, -1)
    column = torch.cat([column, rest], dim=1)
    best = score.gather(1, column).topk(k, dim=1)
    return best.values, column.gather(1, best.indices)
