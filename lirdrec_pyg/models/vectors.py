from dataclasses import dataclass, replace

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

    @property
    def learned_item(self) -> Tensor:
        """Items without the columns of the linear branch, by which they are compared with each other.

        Those columns are factors of scores. They may share a large part that no ranking depends on, and that makes all
        items look alike.
        """
        return self.item[:, : self.width]

    def to(self, device: torch.device | str) -> "Vectors":
        """Return these vectors on ``device``."""
        return Vectors(**{name: x.to(device) for name, x in vars(self).items()})

    def _of_items(self, rows: slice) -> "Vectors":
        return replace(self, item=self.item[rows], item_layers=self.item_layers[:, rows], linear=self.linear[rows])

    def items_from(self, first: int) -> "Vectors":
        """Return these vectors without the items before ``first``."""
        return self._of_items(slice(first, None))

    def items_until(self, stop: int) -> "Vectors":
        """Return these vectors without the items from ``stop`` on."""
        return self._of_items(slice(stop))

    def append_items(self, item: Tensor, item_layers: Tensor, linear: Tensor) -> "Vectors":
        """Return these vectors with further items at the end."""
        return replace(
            self,
            item=torch.cat([self.item, item]),
            item_layers=torch.cat([self.item_layers, item_layers], dim=1),
            linear=torch.cat([self.linear, linear]),
        )
