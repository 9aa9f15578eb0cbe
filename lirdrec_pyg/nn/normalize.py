import torch
from torch import Tensor


def unit_vectors(x: Tensor, eps: float = 1e-12) -> Tensor:
    r"""The rows :math:`\mathbf{x} / \max(\lVert \mathbf{x} \rVert, \epsilon)`, along the last dimension.

    :math:`\epsilon` is at least the smallest normal number of the dtype.

    As :func:`torch.nn.functional.normalize`, whose gradient takes more than twice as long.

    Shapes:
        - **input:** :math:`(*, F)`, floating point
        - **output:** :math:`(*, F)`, of the same dtype
    """
    eps = max(eps, torch.finfo(x.dtype).tiny)  # in half precision 1e-12 would be 0
    return x * torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(eps).reciprocal()
