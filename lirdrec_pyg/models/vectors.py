from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vectors:
    r"""Final representations of users and items; ranking needs neither the model nor the graph.

    Attributes:
        user: :math:`\mathbf{U}`, shape ``(|U|, B * d + r)``.
        user_weight: :math:`\boldsymbol{\alpha}`, the weights of the fusion, shape ``(|U|, B)``.
        item: :math:`\mathbf{V}`, shape ``(|I|, B * d + r)``.
        item_layers: :math:`\mathbf{E}_I^{(0)}, \dots, \mathbf{E}_I^{(L)}`, shape ``(L + 1, |I|, B * d)``.
        linear: :math:`\mathbf{g}_i` of the linear branch, whose columns come last, shape ``(|I|, r)``; see
            :class:`~lirdrec_pyg.models.LinearItems`.

    ``user_weight`` has no columns for a model without branches, ``item_layers`` no layers for a model that supports
    neither new items nor new users, and ``linear`` no columns without a linear branch.
    """

    user: Tensor
    user_weight: Tensor
    item: Tensor
    item_layers: Tensor
    linear: Tensor

    @classmethod
    def of(cls, user: Tensor, item: Tensor) -> "Vectors":
        """Return the vectors of a model without branches."""
        layers = item.new_empty(0, *item.shape)
        return cls(user, user.new_empty(len(user), 0), item, layers, item.new_empty(len(item), 0))

    @property
    def width(self) -> int:
        """Number of columns of the branches that are learned."""
        return self.item.size(1) - self.linear.size(1)

    def to(self, device: torch.device | str) -> "Vectors":
        """Return these vectors on ``device``."""
        return Vectors(*(getattr(self, field.name).to(device) for field in fields(self)))

    def _of_items(self, rows: slice) -> "Vectors":
        item, layers, linear = self.item[rows], self.item_layers[:, rows], self.linear[rows]
        return Vectors(self.user, self.user_weight, item, layers, linear)

    def items_from(self, first: int) -> "Vectors":
        """Return these vectors without the items before ``first``."""
        return self._of_items(slice(first, None))

    def items_until(self, stop: int) -> "Vectors":
        """Return these vectors without the items from ``stop`` on."""
        return self._of_items(slice(stop))

    def append_items(self, item: Tensor, item_layers: Tensor, linear: Tensor) -> "Vectors":
        """Return these vectors with further items at the end."""
        return Vectors(
            self.user,
            self.user_weight,
            torch.cat([self.item, item]),
            torch.cat([self.item_layers, item_layers], dim=1),
            torch.cat([self.linear, linear]),
        )
