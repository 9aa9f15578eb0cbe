import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lirdrec_pyg.config import check_choice

DCTMode = Literal["feature", "2d"]


def dct(x: Tensor, dim: int = -1) -> Tensor:
    r"""Compute the orthonormal type-II discrete cosine transform along ``dim`` with one FFT.

    .. math::
        y_k = s_k \sum_{n=0}^{N-1} x_n \cos\left(\frac{\pi k (2n + 1)}{2N}\right), \qquad
        s_0 = \sqrt{1/N},\; s_{k>0} = \sqrt{2/N}

    Args:
        x: floating-point tensor of any shape; half precision is computed in float32.
        dim: dimension to transform, of length :math:`N`.

    Returns:
        Tensor with the shape and dtype of ``x``.

    Raises:
        TypeError: if ``x`` is not a real floating-point tensor.
    """
    dtype = x.dtype
    x = _at_least_float32(x).movedim(dim, -1)
    size = x.size(-1)
    # The FFT of the even entries followed by the reversed odd entries is the DCT up to a rotation.
    folded = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    angle = torch.arange(size, device=x.device, dtype=x.dtype) * (math.pi / (2 * size))
    spectrum = torch.fft.fft(folded, norm="ortho")
    y = spectrum.real * angle.cos() + spectrum.imag * angle.sin()
    y = y * math.sqrt(2.0)
    y[..., 0] /= math.sqrt(2.0)
    return y.movedim(-1, dim).to(dtype)


def idct(y: Tensor, dim: int = -1) -> Tensor:
    r"""Compute the inverse of :func:`dct`, which is also its transpose, with one FFT.

    .. math::
        x_n = \sum_{k=0}^{N-1} s_k y_k \cos\left(\frac{\pi k (2n + 1)}{2N}\right)

    Arguments, output and errors are those of :func:`dct`.
    """
    dtype = y.dtype
    y = _at_least_float32(y).movedim(dim, -1)
    size = y.size(-1)
    # For a real signal, the real part of one half of the spectrum is the imaginary part of the other half.
    real = torch.cat([y[..., :1], y[..., 1:] / math.sqrt(2.0)], dim=-1)
    imag = torch.cat([torch.zeros_like(y[..., :1]), -real[..., 1:].flip(-1)], dim=-1)
    angle = torch.arange(size, device=y.device, dtype=y.dtype) * (math.pi / (2 * size))
    spectrum = torch.complex(real, imag) * torch.polar(torch.ones_like(angle), angle)
    folded = torch.fft.ifft(spectrum, norm="ortho").real
    x = torch.empty_like(folded)
    x[..., ::2] = folded[..., : (size + 1) // 2]
    x[..., 1::2] = folded[..., (size + 1) // 2 :].flip(-1)
    return x.movedim(-1, dim).to(dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise TypeError(f"The DCT requires a floating-point tensor, got {x.dtype}. Convert it with `x.float()`.")
    return x.float() if torch.finfo(x.dtype).bits < 32 else x


class MultimodalDCT(nn.Module):
    r"""The multimodal transformation from the `"Learning Item Representations Directly from Multimodal Features for
    Effective Recommendation" <https://arxiv.org/abs/2505.04960>`_ paper (section 4.1).

    .. math::
        \mathbf{Z} = \mathop{\Vert}_{m} T(\mathbf{X}_m)

    where :math:`T` is the orthonormal type-II DCT. The layer has no parameters.

    Args:
        mode: ``"feature"`` transforms each row along the feature dimension. ``"2d"`` also transforms along the
            item dimension. Each row then depends on the number and order of all items, so new items cannot be
            encoded.

    Shapes:
        - **input:** one floating-point matrix :math:`(N, d_m)` per modality; half precision is computed in float32
        - **output:** :math:`(N, \sum_m d_m)`
    """

    def __init__(self, mode: DCTMode = "feature") -> None:
        super().__init__()
        check_choice("mode", mode, DCTMode)
        self.mode = mode

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._transform(x) for x in xs], dim=-1)

    def fold_into(self, weight: Tensor, widths: Sequence[int]) -> Tensor:
        r"""Fold the transform into the weights of a linear layer on top of it, :math:`\mathbf{W} T`.

        Args:
            weight: weights of the linear layer, shape ``(N, sum(widths))``.
            widths: :math:`d_m` of each modality.

        Raises:
            ValueError: if the mode is ``"2d"``.
        """
        if self.mode == "2d":
            raise ValueError("`mode='2d'` transforms all items jointly and cannot be folded into weights.")
        return torch.cat([idct(part) for part in weight.split(list(widths), dim=1)], dim=1)

    def _transform(self, x: Tensor) -> Tensor:
        x = dct(_at_least_float32(x), dim=-1)
        return dct(x, dim=0) if self.mode == "2d" else x

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mode={self.mode!r})"
