import math

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


class SoftmaxLoss(nn.Module):
    r"""Cross entropy of each positive against all items that are no positives of its user, on cosines.

    .. math::
        \mathcal{L} = -\frac{1}{N} \sum_{(u,i)} w_u \log \frac{\exp(c_{ui} / \tau)}{\exp(c_{ui} / \tau)
        + \frac{|J|}{|J'|} \sum_{j \in J' \setminus H_u} \exp(c_{uj} / \tau)}, \qquad
        c_{ui} = \frac{\mathbf{u}^\top \mathbf{v}}{\lVert \mathbf{u} \rVert \lVert \mathbf{v} \rVert}

    The loss is that of SSM in `"On the Effectiveness of Sampled Softmax Loss for Item Recommendation"
    <https://arxiv.org/abs/2201.02327>`_, with all items :math:`J` as negatives, or some of them, :math:`J'`, shared by
    the users of a batch. The pairs of a batch share the scores of their users, so a batch costs one product of its
    users with these items.

    Args:
        temperature: :math:`\tau`.

    Shapes:
        - **input:** unit vectors of users :math:`(M, F)` and of items :math:`J'`, :math:`(|J'|, F)`; pairs (row of the
          user, row in :math:`J'`) to mask, :math:`(2, P)`; rows of the users of the positives :math:`(N)`, unit vectors
          of the positives :math:`(N, F)`, and :math:`w_u` of each, :math:`(N)`; :math:`|J|`
        - **output:** a scalar
    """

    def __init__(self, temperature: float = 0.15) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, user: Tensor, item: Tensor, masked: Tensor, row: Tensor, positive: Tensor, weight: Tensor, num_items: int
    ) -> Tensor:
        score = (user / self.temperature) @ item.t()
        others = score.index_put(tuple(masked), score.new_tensor(-torch.inf)).logsumexp(dim=1)
        others = others + math.log(num_items / len(item))
        own = (F.embedding(row, user) * positive).sum(dim=1) / self.temperature
        return (weight * F.softplus(F.embedding(row, others.unsqueeze(1)).squeeze(1) - own)).mean()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(temperature={self.temperature})"


def _mean_square(x: Tensor) -> Tensor:
    # The gradient of the norm takes one pass over memory, that of x.square() takes three.
    # The square of the norm overflows in float16.
    dtype = torch.float32 if torch.finfo(x.dtype).bits < 32 else x.dtype
    return torch.linalg.vector_norm(x, dtype=dtype).square() / x.numel()
