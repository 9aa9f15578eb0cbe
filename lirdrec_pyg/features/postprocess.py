"""What is done to vectors after the encoding: PCA, whitening, L2 normalisation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lirdrec_pyg.errors import DataError

# Directions of less than this share of the largest variance are rounding.
_RANK = 1e-10


@dataclass(frozen=True)
class Postprocessing:
    """Steps that the vectors of a modality go through, in this order.

    Attributes:
        pca: keep this many principal components, those of the largest variance.
        whiten: turn the vectors into their principal axes, and divide each by its standard deviation; directions in
            which nothing varies are left out.
        normalize: divide each vector by its length.
    """

    pca: int | None = None
    whiten: bool = False
    normalize: bool = False

    def describe(self) -> dict[str, Any]:
        """The steps that are taken."""
        return {name: value for name, value in vars(self).items() if value}

    def fit(self, blocks: Callable[[], Iterator[Tensor]], modality: str) -> Callable[[Tensor], Tensor] | None:
        """The function that takes vectors through the steps, ``None`` if there is nothing to do.

        Principal components come from the covariance of all vectors, which is summed up over the blocks in double
        precision: memory is that of a block and of a matrix of the vectors' width.

        Args:
            blocks: vectors, shape ``(num_rows, width)`` each; called twice.
            modality: for messages.

        Raises:
            DataError: if the vectors vary in fewer directions than are to be kept.
        """
        if not self.describe():
            return None
        project = self._projection(blocks, modality) if self.pca or self.whiten else None

        def transform(x: Tensor) -> Tensor:
            if project is not None:
                center, axes = project
                x = ((x.double() - center) @ axes).float()
            return normalize(x, dim=1) if self.normalize else x

        return transform

    def _projection(self, blocks: Callable[[], Iterator[Tensor]], modality: str) -> tuple[Tensor, Tensor]:
        center, count = mean(blocks())
        covariance = torch.zeros(len(center), len(center), dtype=torch.float64)
        for x in blocks():
            centered = x.double() - center
            covariance += centered.T @ centered
        variance, axes = torch.linalg.eigh(covariance / max(1, count - 1))
        variance, axes = variance.flip(0), axes.flip(1)
        rank = int((variance > _RANK * variance[0]).sum()) if variance[0] > 0 else 0
        if (kept := self.pca or rank) > rank or not rank:
            raise DataError(
                f"The {count} vectors of {modality} vary in {rank} directions: "
                + (f"--pca {self.pca} is more than that." if rank else "they can't be whitened.")
            )
        axes = axes[:, :kept]
        # An axis has no sign of its own: the largest entry is made positive.
        axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        return center, axes / variance[:kept].sqrt() if self.whiten else axes


def mean(blocks: Iterator[Tensor]) -> tuple[Tensor, int]:
    """Mean of the rows of all blocks, float64, and their number."""
    total, count = torch.zeros(1, dtype=torch.float64), 0
    for x in blocks:
        total = total + x.double().sum(dim=0)
        count += len(x)
    return total / max(1, count), count
