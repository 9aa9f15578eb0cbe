import torch
from torch import Tensor


def unit_vectors(x: Tensor, eps: float = 1e-12) -> Tensor:
    r"""Normalize rows to unit length, :math:`\mathbf{x} / \max(\lVert \mathbf{x} \rVert, \epsilon)`.

    Equals :func:`torch.nn.functional.normalize` along the last dimension, with a backward pass in less than half the
    time. :math:`\epsilon` is at least the smallest normal number of the dtype.

    Shapes:
        - **input:** :math:`(*, F)`, floating point
        - **output:** :math:`(*, F)`, of the same dtype
    """
    eps = max(eps, torch.finfo(x.dtype).tiny)  # 1e-12 is 0 in half precision
    return x * torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(eps).reciprocal()
