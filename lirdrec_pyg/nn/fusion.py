from collections.abc import Callable

import torch
from torch import Tensor, nn


class ProgressiveWeightCopying(nn.Module):
    r"""Merges the branches of each user by weights that a network finds and a memory takes over
    (PWC; paper, section 4.4).

    .. math::
        s_b = \mathrm{fc2}_b(\mathrm{LeakyReLU}(\mathrm{fc1}_b(\mathbf{u}_b))), \qquad
        \boldsymbol{\alpha} = \mathrm{softmax}_b(w_{net} \mathbf{s} + w_{mem} \boldsymbol{\theta}), \qquad
        \mathbf{u}^{\prime} = \mathop{\Vert}_b \alpha_b \mathbf{u}_b

    :math:`\boldsymbol{\theta}` is a trained memory with a row for each user. Before epoch :math:`e`,
    counted from 1, :meth:`start_epoch` copies into it the :math:`\boldsymbol{\alpha}` of the last
    forward pass in training mode (none before the first epoch), and moves weight from the network to
    the memory:

    .. math::
        f = w_{net} \cdot base^e, \qquad (w_{net}, w_{mem}) \leftarrow \frac{(f, w_{mem})}{f + w_{mem}}

    The factors compound. Schedule, memory and the last :math:`\boldsymbol{\alpha}` are part of
    ``state_dict``.

    Args:
        num_users: rows of the memory.
        num_branches: number :math:`B` of branches, any.
        channels: width :math:`d` of one branch.
        network_weight: :math:`w_0`; the schedule starts from :math:`(w_0, 1 - w_0)`.
        decay_base: :math:`base`.

    Shapes:
        - **input:** branches of each user :math:`(|U|, B, d)`; with ``user_index`` :math:`(N)`, those of
          some users only, :math:`(N, B, d)`
        - **output:** :math:`(|U|, B \cdot d)`, or :math:`(N, B \cdot d)`
    """

    network_weight: Tensor
    memory_weight: Tensor
    epoch: Tensor
    last_attention: Tensor

    def __init__(
        self,
        num_users: int,
        num_branches: int,
        channels: int,
        network_weight: float = 0.9,
        decay_base: float = 0.9,
    ) -> None:
        super().__init__()
        self.num_users = num_users
        self.num_branches = num_branches
        self.channels = channels
        self.initial_network_weight = network_weight
        self.decay_base = decay_base

        hidden = max(1, channels // 4)
        self.fc1 = nn.ModuleList(nn.Linear(channels, hidden) for _ in range(num_branches))
        self.fc2 = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(num_branches))
        self.act = nn.LeakyReLU()
        self.theta = nn.Parameter(torch.empty(num_users, num_branches))
        # Float64, since the schedule multiplies what it multiplied before.
        self.register_buffer("network_weight", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("memory_weight", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("last_attention", torch.full((num_users, num_branches), torch.nan))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for fc in [*self.fc1, *self.fc2]:
            fc.reset_parameters()
        nn.init.xavier_normal_(self.theta)
        self.network_weight.fill_(self.initial_network_weight)
        self.memory_weight.fill_(1.0 - self.initial_network_weight)
        self.epoch.zero_()
        self.last_attention.fill_(torch.nan)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ProgressiveWeightCopying":
        schedule = {"network_weight": self.network_weight, "memory_weight": self.memory_weight}
        super()._apply(fn, recurse)
        for name, value in schedule.items():
            converted = getattr(self, name)
            if converted.dtype != value.dtype:  # the parameters may be in half precision, the schedule may not
                setattr(self, name, value.to(converted.device))
        return self

    @torch.no_grad()
    def start_epoch(self) -> None:
        """Moves to the next epoch: call it once before each epoch of training."""
        self.epoch += 1
        network = self.network_weight * self.decay_base ** self.epoch.double()
        total = network + self.memory_weight
        self.network_weight.copy_(network / total)
        self.memory_weight.div_(total)
        # A user that no training pass has seen yet has no attention to copy.
        seen = ~self.last_attention.isnan()
        self.theta.copy_(torch.where(seen, self.last_attention, self.theta))

    def attention(self, x: Tensor, user_index: Tensor | None = None) -> Tensor:
        r"""The weights :math:`\boldsymbol{\alpha}` of the branches, shape :math:`(|U|, B)`."""
        return self._attention(x, self.theta if user_index is None else nn.functional.embedding(user_index, self.theta))

    def attention_of_new_users(self, x: Tensor) -> Tensor:
        r"""The weights of users who have no row in the memory: the mean row stands for theirs."""
        return self._attention(x, self.theta.mean(dim=0))

    def _attention(self, x: Tensor, theta: Tensor) -> Tensor:
        branches = x.unbind(dim=1)
        score = torch.cat(
            [fc2(self.act(fc1(u))) for u, fc1, fc2 in zip(branches, self.fc1, self.fc2, strict=True)], dim=1
        )
        return (self.network_weight * score + self.memory_weight * theta).softmax(dim=1)

    def forward(self, x: Tensor, user_index: Tensor | None = None) -> Tensor:
        alpha = self.attention(x, user_index)
        if self.training:
            with torch.no_grad():
                if user_index is None:
                    self.last_attention.copy_(alpha)
                else:
                    self.last_attention[user_index] = alpha.to(self.last_attention.dtype)
        return (alpha.unsqueeze(-1) * x).flatten(start_dim=1)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_users}, num_branches={self.num_branches}, "
            f"channels={self.channels}, network_weight={self.initial_network_weight}, "
            f"decay_base={self.decay_base})"
        )
