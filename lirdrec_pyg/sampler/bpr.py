import warnings

import torch
from torch import Tensor
from torch_geometric.utils import degree

from lirdrec_pyg.errors import DataError

# After so many redraws, the few that still clash are drawn from what is left, at a cost of all items each.
_MAX_REDRAWS = 20
_BLOCK_ENTRIES = 2**22


class BPRSampler:
    r"""Draws the triples (user, positive, negative) of an epoch in one go.

    Each training interaction is the positive of one triple. Its negative, or each of several, is drawn from
    the items that occur in training, uniformly or with probability proportional to
    :math:`\mathrm{popularity}^\alpha`, and redrawn while the user has it in training. Everything happens
    on the device of ``edge_index``, without a loop over users.

    A user who has every item of the training set can have no negative; such a user's interactions
    give no triples, and a warning says how many there are.

    Args:
        edge_index: training interactions (user, item), shape ``(2, num_edges)``.
        num_users: number of users.
        num_items: number of items.
        alpha: power of the popularity; 0 is uniform.
        generator: of the draws, on the device of ``edge_index``; by default torch's own.
        num_negatives: of each positive, each drawn as if it were the only one.

    Raises:
        DataError: if there are no interactions, or none can have a negative.
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_users: int,
        num_items: int,
        alpha: float = 0.0,
        generator: torch.Generator | None = None,
        num_negatives: int = 1,
    ) -> None:
        edge_index = edge_index.as_subclass(Tensor)
        if edge_index.size(1) == 0:
            raise DataError("There are no training interactions to draw from: give at least one pair of user and item.")
        self.num_items = num_items
        self.alpha = alpha
        self.num_negatives = num_negatives
        self.generator = generator

        user, item = edge_index
        popularity = degree(item, num_items, dtype=torch.double)
        self.candidates = popularity.nonzero().view(-1)
        self._log_weight = alpha * popularity[self.candidates].log()
        self._cumulative = None if alpha == 0 else (self._log_weight - self._log_weight.max()).exp().cumsum(0)
        # A pair is known by one integer; in a sorted list of them, a look-up is a binary search.
        self._known = self._key(user, item).unique()

        saturated = degree(self._known // num_items, num_users, dtype=torch.long) >= len(self.candidates)
        usable = ~saturated[user]
        if not usable.any():
            raise DataError("Every user has every item in training: there is no negative to learn from.")
        if not usable.all():
            warnings.warn(
                f"{int(saturated.sum())} user(s) have every item in training: "
                f"{int((~usable).sum())} interactions give no triples.",
                stacklevel=2,
            )
        self.positives = edge_index if usable.all() else edge_index[:, usable]

    def __len__(self) -> int:
        """Number of triples in an epoch."""
        return self.positives.size(1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} triples, {len(self.candidates)} candidates, alpha={self.alpha})"

    def _key(self, user: Tensor, item: Tensor) -> Tensor:
        return user * self.num_items + item

    def _draw(self, size: int) -> Tensor:
        device = self.candidates.device
        if self._cumulative is None:
            index = torch.randint(len(self.candidates), (size,), generator=self.generator, device=device)
        else:
            point = torch.rand(size, generator=self.generator, device=device, dtype=torch.double)
            index = torch.searchsorted(self._cumulative, point * self._cumulative[-1], right=True)
            index = index.clamp_(max=len(self.candidates) - 1)
        return self.candidates[index]

    def is_known(self, user: Tensor, item: Tensor) -> Tensor:
        """Which of the pairs are training interactions, bool, of their common shape."""
        key = self._key(user, item)
        position = torch.searchsorted(self._known, key).clamp_(max=len(self._known) - 1)
        return self._known[position] == key

    def negatives(self, user: Tensor) -> Tensor:
        """One negative item for each of ``user``, int64, shape ``(N,)``.

        ``user`` has to hold none of the users that have every item.
        """
        negative = self._draw(len(user))
        clash = self.is_known(user, negative).nonzero().view(-1)
        for _ in range(_MAX_REDRAWS):
            if not len(clash):
                return negative
            drawn = self._draw(len(clash))
            negative[clash] = drawn
            clash = clash[self.is_known(user[clash], drawn)]
        for block in clash.split(max(1, _BLOCK_ENTRIES // len(self.candidates))):
            negative[block] = self._draw_unknown(user[block])
        return negative

    def _draw_unknown(self, user: Tensor) -> Tensor:
        """Draws from the items that each user does not have, for users who have nearly all of them."""
        known = self.is_known(user.unsqueeze(1), self.candidates)
        noise = torch.empty(known.shape, device=user.device).exponential_(generator=self.generator).log().neg()
        score = (noise + self._log_weight).masked_fill(known, -torch.inf)
        return self.candidates[score.argmax(dim=1)]

    def sample_epoch(self) -> Tensor:
        """Triples of one epoch in random order, int64, shape ``(2 + num_negatives, len(self))``."""
        order = torch.randperm(len(self), generator=self.generator, device=self.positives.device)
        # Written in place: of many millions, a copy would be felt.
        triples = self.positives.new_empty(2 + self.num_negatives, len(self))
        for row, index in zip(triples, self.positives, strict=False):
            torch.index_select(index, 0, order, out=row)
        del order
        for negative in triples[2:]:
            negative.copy_(self.negatives(triples[0]))
        return triples
