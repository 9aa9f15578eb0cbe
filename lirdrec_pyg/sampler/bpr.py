import warnings

import torch
from torch import Tensor
from torch_geometric.utils import degree

from lirdrec_pyg.edge_index import plain
from lirdrec_pyg.errors import DataError

# After these redraws, the remaining collisions are drawn from the unseen items, at the cost of all items each.
_MAX_REDRAWS = 20
_BLOCK_ENTRIES = 2**22


def known_pairs(edge_index: Tensor, num_items: int) -> Tensor:
    """Encode each pair (user, item) as an integer, sorted for lookup by binary search."""
    user, item = edge_index
    return (user * num_items + item).unique()


class BPRSampler:
    r"""Sampler of the triples (user, positive, negative) of an epoch.

    Each training interaction is the positive of one triple. Negatives are drawn from the items that occur in
    training, uniformly or with probability proportional to :math:`\mathrm{popularity}^\alpha`, and redrawn as long as
    they are training interactions of the user. All computations are vectorized, on the device of ``edge_index``.

    Users with interactions with all items have no negatives. Their interactions are skipped with a warning.

    Args:
        edge_index: training interactions (user, item), shape ``(2, num_edges)``.
        num_users: number of users.
        num_items: number of items.
        alpha: exponent of the popularity; 0 is uniform.
        generator: random number generator on the device of ``edge_index``; by default torch's global one.
        num_negatives: number of negatives per positive, drawn independently.
        known: :func:`known_pairs` of ``edge_index``, if they are there already.

    Raises:
        DataError: if there are no interactions, or all are skipped.
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_users: int,
        num_items: int,
        alpha: float = 0.0,
        generator: torch.Generator | None = None,
        num_negatives: int = 1,
        known: Tensor | None = None,
    ) -> None:
        edge_index = plain(edge_index)
        if edge_index.size(1) == 0:
            raise DataError("There are no training interactions. Provide at least one pair of user and item.")
        self.num_items = num_items
        self.alpha = alpha
        self.num_negatives = num_negatives
        self.generator = generator

        user, item = edge_index
        popularity = degree(item, num_items, dtype=torch.double)
        self.candidates = popularity.nonzero().view(-1)
        self._log_weight = alpha * popularity[self.candidates].log()
        self._cumulative = None if alpha == 0 else (self._log_weight - self._log_weight.max()).exp().cumsum(0)
        self._known = known_pairs(edge_index, num_items) if known is None else known

        saturated = degree(self._known // num_items, num_users, dtype=torch.long) >= len(self.candidates)
        usable = ~saturated[user]
        if not usable.any():
            raise DataError(
                "There is no negative to learn from: every user has every item in training. Provide more items."
            )
        if not usable.all():
            warnings.warn(
                f"{int(saturated.sum())} user(s) have every item in training: "
                f"{int((~usable).sum())} interactions are skipped.",
                stacklevel=2,
            )
        self.positives = edge_index if usable.all() else edge_index[:, usable]

    def __len__(self) -> int:
        """Return the number of triples per epoch."""
        return self.positives.size(1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} triples, {len(self.candidates)} candidates, alpha={self.alpha})"

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
        """Return a mask of the pairs that are training interactions, bool, of the broadcast shape."""
        key = user * self.num_items + item
        position = torch.searchsorted(self._known, key).clamp_(max=len(self._known) - 1)
        return self._known[position] == key

    def negatives(self, user: Tensor) -> Tensor:
        """Draw one negative item per user, int64, shape ``(N,)``.

        ``user`` must not contain users with interactions with all items.
        """
        negative = self._draw(len(user))
        collision = self.is_known(user, negative).nonzero().view(-1)
        for _ in range(_MAX_REDRAWS):
            if not len(collision):
                return negative
            drawn = self._draw(len(collision))
            negative[collision] = drawn
            collision = collision[self.is_known(user[collision], drawn)]
        for block in collision.split(max(1, _BLOCK_ENTRIES // len(self.candidates))):
            negative[block] = self._draw_unknown(user[block])
        return negative

    def _draw_unknown(self, user: Tensor) -> Tensor:
        """Draw directly from the items that are negatives of each user, for users with few of them."""
        known = self.is_known(user.unsqueeze(1), self.candidates)
        noise = torch.empty(known.shape, device=user.device).exponential_(generator=self.generator).log().neg()
        score = (noise + self._log_weight).masked_fill(known, -torch.inf)
        return self.candidates[score.argmax(dim=1)]

    def sample_epoch(self) -> Tensor:
        """Sample the triples of one epoch in random order, int64, shape ``(2 + num_negatives, len(self))``."""
        order = torch.randperm(len(self), generator=self.generator, device=self.positives.device)
        # Written in place, since copies of millions of triples take noticeable time.
        triples = self.positives.new_empty(2 + self.num_negatives, len(self))
        for row, index in zip(triples, self.positives, strict=False):
            torch.index_select(index, 0, order, out=row)
        del order
        for negative in triples[2:]:
            negative.copy_(self.negatives(triples[0]))
        return triples
