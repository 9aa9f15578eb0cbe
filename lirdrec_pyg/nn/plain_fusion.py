"""What progressive weight copying is compared with: fusions by one source of weights."""

import torch
from torch import Tensor, nn


class _BranchWeights(nn.Module):
    r"""Weights the branches of each user: :math:`\mathbf{u}^{\prime} = \mathop{\Vert}_b \alpha_b \mathbf{u}_b`.

    It is called as :class:`~lirdrec_pyg.nn.ProgressiveWeightCopying` is.
    """

    def attention(self, x: Tensor, user_index: Tensor | None = None) -> Tensor:
        r"""The weights :math:`\boldsymbol{\alpha}` of the branches, shape :math:`(|U|, B)`."""
        raise NotImplementedError

    def attention_of_new_users(self, x: Tensor) -> Tensor:
        """The weights of users who were not there in training."""
        return self.attention(x)

    def start_epoch(self) -> None:
        """Does nothing: the weights follow no schedule."""

    def forward(self, x: Tensor, user_index: Tensor | None = None) -> Tensor:
        return (self.attention(x, user_index).unsqueeze(-1) * x).flatten(start_dim=1)


class MeanFusion(_BranchWeights):
    r"""Weights all branches alike, :math:`\alpha_b = 1 / B`.

    Shapes:
        - **input:** branches of each user :math:`(|U|, B, d)`
        - **output:** :math:`(|U|, B \cdot d)`
    """

    def attention(self, x: Tensor, user_index: Tensor | None = None) -> Tensor:
        return x.new_full(x.shape[:2], 1 / x.size(1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class StaticFusion(_BranchWeights):
    r"""Learns a weight for each user and branch, :math:`\boldsymbol{\alpha} = \mathrm{softmax}_b(\boldsymbol{\theta})`.

    It is progressive weight copying with the whole weight on a memory that nothing is copied into.

    Args:
        num_users: rows of :math:`\boldsymbol{\theta}`.
        num_branches: number :math:`B` of branches.

    Shapes:
        - **input:** branches of each user :math:`(|U|, B, d)`; with ``user_index`` :math:`(N)`, those of
          some users only, :math:`(N, B, d)`
        - **output:** :math:`(|U|, B \cdot d)`, or :math:`(N, B \cdot d)`
    """

    def __init__(self, num_users: int, num_branches: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.empty(num_users, num_branches))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.theta)

    def attention(self, x: Tensor, user_index: Tensor | None = None) -> Tensor:
        theta = self.theta if user_index is None else nn.functional.embedding(user_index, self.theta)
        return theta.softmax(dim=1)

    def attention_of_new_users(self, x: Tensor) -> Tensor:
        return self.theta.mean(dim=0).softmax(dim=0).expand(x.shape[:2])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.theta.size(0)}, num_branches={self.theta.size(1)})"


class AttentionFusion(_BranchWeights):
    r"""Weights the branches by a network alone, :math:`\boldsymbol{\alpha} = \mathrm{softmax}_b(\mathbf{s})`.

    .. math::
        s_b = \mathrm{fc2}_b(\mathrm{LeakyReLU}(\mathrm{fc1}_b(\mathbf{u}_b)))

    It is progressive weight copying with the whole weight on the network for good.

    Args:
        num_branches: number :math:`B` of branches.
        channels: width :math:`d` of one branch.

    Shapes:
        - **input:** branches of each user :math:`(|U|, B, d)`
        - **output:** :math:`(|U|, B \cdot d)`
    """

    def __init__(self, num_branches: int, channels: int) -> None:
        super().__init__()
        self.num_branches = num_branches
        self.channels = channels
        hidden = max(1, channels // 4)
        self.fc1 = nn.ModuleList(nn.Linear(channels, hidden) for _ in range(num_branches))
        self.fc2 = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(num_branches))
        self.act = nn.LeakyReLU()

    def reset_parameters(self) -> None:
        for fc in [*self.fc1, *self.fc2]:
            fc.reset_parameters()

    def attention(self, x: Tensor, user_index: Tensor | None = None) -> Tensor:
        scores = [fc2(self.act(fc1(u))) for u, fc1, fc2 in zip(x.unbind(dim=1), self.fc1, self.fc2, strict=True)]
        return torch.cat(scores, dim=1).softmax(dim=1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_branches={self.num_branches}, channels={self.channels})"
