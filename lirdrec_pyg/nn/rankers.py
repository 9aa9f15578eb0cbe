"""What ranks all items for a user: products of vectors, or any scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lirdrec_pyg.nn.ranking import SeenItems, TopK, top_k

_BLOCK_BYTES = 64 * 2**20


class Ranker(Protocol):
    """Ranks items for users, whatever the scores are made of."""

    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        """The ``k`` best items for ``user_index``, see :func:`~lirdrec_pyg.nn.top_k`."""


@dataclass(frozen=True)
class DotProducts:
    r"""Ranks by :math:`\mathbf{u}^\top \mathbf{v}`.

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


@dataclass(frozen=True)
class Scores:
    """Ranks by scores that are computed for some users at a time.

    Attributes:
        of: takes positions of users, int64, shape ``(N,)``, and gives fresh scores of all items,
            shape ``(N, |I|)``.
        num_items: number of items.
    """

    of: Callable[[Tensor], Tensor]
    num_items: int

    @torch.no_grad()
    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        """See :class:`Ranker`."""
        block = max(1, _BLOCK_BYTES // (4 * self.num_items))
        for first in range(0, max(1, len(user_index)), block):
            rows = slice(first, min(first + block, len(user_index)))
            score = self.of(user_index[rows])
            if seen is not None:
                score[seen.pairs(user_index[rows])] = -torch.inf
            if candidates is not None:
                score = score[:, candidates]
            best = score.topk(min(k, score.size(1)), dim=1)
            yield TopK(rows, best.values, best.indices if candidates is None else candidates[best.indices])
