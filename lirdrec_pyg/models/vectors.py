from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vectors:
    r"""Final representations of users and items; ranking needs neither the model nor the graph.

    Attributes:
        user: :math:`\mathbf{U}`, shape ``(|U|, B * d)``.
        user_weight: :math:`\boldsymbol{\alpha}`, the weights of the fusion, shape ``(|U|, B)``.
        item: :math:`\mathbf{V}`, shape ``(|I|, B * d)``.
        item_layers: :math:`\mathbf{E}_I^{(0)}, \dots, \mathbf{E}_I^{(L)}`, shape ``(L + 1, |I|, B * d)``.

    ``user_weight`` has no columns for a model without branches, and ``item_layers`` no layers for a model that supports
    neither new items nor new users.
    """

    user: Tensor
    user_weight: Tensor
    item: Tensor
    item_layers: Tensor

    @classmethod
    def of(cls, user: Tensor, item: Tensor) -> "Vectors":
        """Return the vectors of a model without branches."""
        return cls(user, user.new_empty(len(user), 0), item, item.new_empty(0, *item.shape))

    def to(self, device: torch.device | str) -> "Vectors":
        """Return these vectors on ``device``."""
        return Vectors(*(x.to(device) for x in (self.user, self.user_weight, self.item, self.item_layers)))

    def items_from(self, first: int) -> "Vectors":
        """Return these vectors without the items before ``first``."""
        return Vectors(self.user, self.user_weight, self.item[first:], self.item_layers[:, first:])

    def items_until(self, stop: int) -> "Vectors":
        """Return these vectors without the items from ``stop`` on."""
        return Vectors(self.user, self.user_weight, self.item[:stop], self.item_layers[:, :stop])

    def append_items(self, item: Tensor, item_layers: Tensor) -> "Vectors":
        """Return these vectors with further items at the end."""
        return Vectors(
            self.user,
            self.user_weight,
            torch.cat([self.item, item]),
            torch.cat([self.item_layers, item_layers], dim=1),
        )
