import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BPRLoss(nn.Module):
    r"""The Bayesian Personalized Ranking loss from the `"BPR: Bayesian Personalized Ranking from Implicit Feedback"
    <https://arxiv.org/abs/1205.2618>`_ paper, with the regularizer of LIRDRec on the representations (section 4.5).

    .. math::
        \mathcal{L} = -\frac{1}{N} \sum_{(u,i,j)} \log \sigma(x_{ui} - x_{uj})
        + \lambda \left( \mathrm{mean}(\mathbf{U} \odot \mathbf{U})
        + \mathrm{mean}(\mathbf{V} \odot \mathbf{V}) \right)

    With several negatives per positive, :math:`x_{uj}` is replaced by :math:`\log \sum_j \exp x_{uj}`. The first
    term is then the cross entropy of a softmax over the positive and its negatives, in which the negatives with the
    highest scores have the largest gradients.

    Args:
        reg_weight: weight :math:`\lambda` of the regularizer.

    Shapes:
        - **input:** scores of the positives :math:`(N)` and of the negatives :math:`(N)`, or :math:`(n, N)` with
          several per positive; representations of all users :math:`(|U|, F)` and of all items :math:`(|I|, F)`;
          optionally a weight of the first term, for batches that are split across processes
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
    # The gradient of the norm takes one pass over memory, that of x.square() takes three.
    # The square of the norm overflows in float16.
    dtype = torch.float32 if torch.finfo(x.dtype).bits < 32 else x.dtype
    return torch.linalg.vector_norm(x, dtype=dtype).square() / x.numel()
