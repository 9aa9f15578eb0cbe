from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lirdrec_pyg.errors import DataError

# Directions below this share of the largest variance are rounding errors.
_RANK = 1e-10
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class Postprocessing:
    """Steps after the encoding, in this order: PCA, whitening, L2 normalization.

    Attributes:
        pca: number of principal components to keep, those of the largest variance.
        whiten: whether to rotate the vectors to their principal axes and scale each to standard deviation 1; axes
            without variance are dropped.
        normalize: whether to scale each vector to length 1.
    """

    pca: int | None = None
    whiten: bool = False
    normalize: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the steps that are taken, for the provenance."""
        return {name: value for name, value in vars(self).items() if value}

    def apply(self, x: Tensor, modality: str) -> Tensor:
        """Process vectors of shape ``[num_rows, width]``; the covariance is computed in double precision.

        Raises:
            DataError: naming ``modality``, if fewer directions have variance than are to be kept.
        """
        if self.pca or self.whiten:
            center, axes = self._projection(x, modality)
            x = torch.cat([((rows.double() - center) @ axes).float() for rows in x.split(_BLOCK_ROWS)])
        return normalize(x, dim=1) if self.normalize else x

    def _projection(self, x: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        center = x.mean(dim=0, dtype=torch.float64)
        covariance = torch.zeros(x.size(1), x.size(1), dtype=torch.float64)
        for rows in x.split(_BLOCK_ROWS):
            centered = rows.double() - center
            covariance += centered.T @ centered
        variance, axes = torch.linalg.eigh(covariance / max(1, len(x) - 1))
        variance, axes = variance.flip(0), axes.flip(1)
        rank = int((variance > _RANK * variance[0]).sum()) if variance[0] > 0 else 0
        if (kept := self.pca or rank) > rank or not rank:
            raise DataError(
                f"The {len(x)} vectors of {modality} vary in {rank} directions. "
                + (f"Pass `pca={rank}` or less." if rank else "Encode more items, or drop `pca` and `whiten`.")
            )
        axes = axes[:, :kept]
        # The sign of an axis is arbitrary: make its largest entry positive.
        axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        return center, axes / variance[:kept].sqrt() if self.whiten else axes
