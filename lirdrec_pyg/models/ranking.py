"""Exact top-k of dot products, in blocks of users."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import cumsum, degree

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
