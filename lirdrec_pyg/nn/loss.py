import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BPRLoss(nn.Module):
    r"""Bayesian personalised ranking with a regulariser on the representations (paper, section 4.5).

    .. math::
        \mathcal{L} = -\frac{1}{N} \sum_{(u,i,j)} \log \sigma(x_{ui} - x_{uj})
        + \lambda \left( \mathrm{mean}(\mathbf{U} \odot \mathbf{U})
        + \mathrm{mean}(\mathbf{V} \odot \mathbf{V}) \right)

    With several negatives of each positive, :math:`x_{uj}` is their :math:`\log \sum_j \exp x_{uj}`: the first
    term is the cross entropy of a softmax over the positive and its negatives, so that those count most
    that are ranked highest.

    Args:
        reg_weight: :math:`\lambda`.

    Shapes:
        - **input:** scores of the positives :math:`(N)` and of the negatives, :math:`(N)` or with several of
          each :math:`(n, N)`; representations of all users :math:`(|U|, F)` and of all items
          :math:`(|I|, F)`; a weight of the first term, 1 by default, which a part of a batch has that
          several processes share
        - **output:** a scalar
    """

    def __init__(self, reg_weight: float = 0.0) -> None:
        super().__init__()
        self.reg_weight = reg_weight

    def forward(self, positive: Tensor, negative: Tensor, user: Tensor, item: Tensor, weight: float = 1.0) -> Tensor:
        if negative.dim() > positive.dim():
            negative = negative.logsumexp(dim=0)
        loss = -F.logsigmoid(positive - negative).mean()
        if weight != 1.0:
            loss = weight * loss
        if self.reg_weight:
            loss = loss + self.reg_weight * (_mean_square(user) + _mean_square(item))
        return loss

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reg_weight={self.reg_weight})"


def _mean_square(x: Tensor) -> Tensor:
    # By way of the norm, whose gradient takes one pass over memory, where that of x.square() takes three.
    # A square of such a sum is too large for float16.
    dtype = torch.float32 if torch.finfo(x.dtype).bits < 32 else x.dtype
    return torch.linalg.vector_norm(x, dtype=dtype).square() / x.numel()
