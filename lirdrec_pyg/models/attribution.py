"""Exact parts of scores by the items that a user interacted with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch_geometric.utils import cumsum

from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import SeenItems, unit_vectors


class Parts(NamedTuple):
    r"""Scores of ``N`` pairs of a user and an item as sums over the user's items,
    :math:`x_n = r_n + \sum_{p : \, row_p = n} a_p`.

    Attributes:
        row: pair that a part belongs to, in ascending order, int64, shape ``(P,)``.
        past: item of the user that it is the part of, int64, shape ``(P,)``.
        part: :math:`a_p`, shape ``(P,)``.
        rest: :math:`r_n`, the part of what was learned about the user beyond the items, shape ``(N,)``.
    """

    row: Tensor
    past: Tensor
    part: Tensor
    rest: Tensor


class Attribution(Protocol):
    """Function that splits scores by the items of the users."""

    @property
    def history(self) -> SeenItems:
        """Items of all users."""

    def __call__(self, user: Tensor, item: Tensor) -> Parts:
        """Split the scores of pairs of a user and an item, both int64, shape ``(N,)``."""


@dataclass(frozen=True)
class PropagatedUsers:
    r"""Attribution for users that are a free vector plus one step of propagation from their items.

    With :math:`w_{ui}` the weight of an edge, the vector of a user and a score are

    .. math::
        \mathbf{u}_b = \alpha_b \Big( \mathrm{norm}(\mathbf{p}_b) + \sum_{i \in H} w_{ui} \sum_{l=0}^{L-1}
        \mathbf{E}_{i,b}^{(l)} \Big), \qquad x_{uv} = \sum_b \mathbf{u}_b^\top \mathbf{v}_b

    so that the part of an item :math:`i` is :math:`w_{ui} \sum_{b,l} \alpha_b \, \mathbf{v}_b^\top
    \mathbf{E}_{i,b}^{(l)}`, and :math:`\sum_b \alpha_b \, \mathbf{v}_b^\top \mathrm{norm}(\mathbf{p}_b)` is the rest.

    Attributes:
        history: items :math:`H` of all users.
        weight: :math:`w_{ui}` of each of them, shape ``(num_pairs,)``.
        free: :math:`\mathbf{p}`, zero for users without one, shape ``(|U|, B, d)``.
        vectors: vectors of these users and all items.
    """

    history: SeenItems
    weight: Tensor
    free: Tensor
    vectors: Vectors

    @torch.no_grad()
    def __call__(self, user: Tensor, item: Tensor) -> Parts:
        """See :class:`Attribution`."""
        free, learned = unit_vectors(self.free[user]), self.vectors.width
        query = self.vectors.user_weight[user].unsqueeze(-1) * self.vectors.item[item, :learned].view_as(free)
        row, past = self.history.pairs(user)
        _, weight = SeenItems(self.history.start, self.weight).pairs(user)
        items, column = past.unique(return_inverse=True)
        message = self.vectors.item_layers[:-1, items].sum(dim=0)
        start = cumsum(self.history.start.diff()[user])
        # Dot products of the pairs only, without a copy of the vectors per pair.
        wanted = torch.sparse_csr_tensor(
            start, column, query.new_ones(len(column)), (len(user), len(items)), check_invariants=False
        )

        def products(left: Tensor, right: Tensor) -> Tensor:
            return torch.sparse.sampled_addmm(wanted, left, right.t(), beta=0).values()

        part = weight * products(query.flatten(start_dim=1), message)
        if self.vectors.linear.size(1):
            given = self.vectors.linear[items]
            scale = self.vectors.user[user, learned:].norm(dim=1) / (wanted @ given).norm(dim=1).clamp(min=1e-12)
            part = part + scale[row] * products(self.vectors.item[item, learned:], given)
        return Parts(row, past, part, (free * query).sum(dim=(1, 2)))


@dataclass(frozen=True)
class WeightedItems:
    r"""Attribution for item-to-item models, :math:`x_{ui} = \sum_{j \in H_u} B_{ji}`; there is no rest.

    Attributes:
        history: items of all users.
        weight: function from items :math:`j` and :math:`i`, both of shape ``(P,)``, to :math:`B_{ji}`.
    """

    history: SeenItems
    weight: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, user: Tensor, item: Tensor) -> Parts:
        """See :class:`Attribution`."""
        row, past = self.history.pairs(user)
        part = self.weight(past, item[row])
        return Parts(row, past, part, part.new_zeros(len(user)))
