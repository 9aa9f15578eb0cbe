"""Exact top-k of dot products, in blocks of users."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import cumsum, degree

from lirdrec_pyg.errors import DataError

_BLOCK_BYTES = 64 * 2**20


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


def top_k(
    user: Tensor,
    item: Tensor,
    user_index: Tensor,
    k: int,
    seen: Tensor | None = None,
) -> Iterator[TopK]:
    """Yields the ``k`` best items for ``user_index``, block by block, so that memory stays bounded.

    Args:
        user: representations of all users, shape ``(|U|, F)``.
        item: representations of all items, shape ``(|I|, F)``.
        user_index: positions of the users to rank for, shape ``(N,)``.
        k: number of items, at most ``|I|``.
        seen: pairs (user, item) to leave out, shape ``(2, num_pairs)``.
    """
    k = min(k, len(item))
    block = max(1, _BLOCK_BYTES // (item.element_size() * len(item)))
    if seen is not None:
        seen_user, seen_item = seen.as_subclass(Tensor)
        count = degree(seen_user, len(user), dtype=torch.long)
        start = cumsum(count)
        seen_item = seen_item[seen_user.argsort(stable=True)]
    for first in range(0, max(1, len(user_index)), block):
        rows = slice(first, min(first + block, len(user_index)))
        index = user_index[rows]
        score = user[index] @ item.t()
        if seen is not None:
            counts = count[index]
            row = torch.arange(len(index), device=index.device).repeat_interleave(counts)
            within = torch.arange(len(row), device=index.device) - cumsum(counts)[row]
            score[row, seen_item[start[index][row] + within]] = -torch.inf
        best = score.topk(k, dim=1)
        yield TopK(rows, best.values, best.indices)
