"""Fusions that weight and concatenate the branches of each user: progressive weight copying and its ablations."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lirdrec_pyg.nn.row_shards import RowShards, xavier_normal_rows_

# Positions of users, or a slice of the rows that this process holds.
Users = Tensor | slice | None


class _Fusion(nn.Module):
    r"""Base of fusions :math:`\mathbf{u}^{\prime} = \mathop{\Vert}_b \alpha_b \mathbf{u}_b`."""

    # Tables in ``state_dict`` with a row per user, of which each of several processes holds some if there are shards.
    user_tables: tuple[str, ...] = ()
    shards: RowShards | None = None

    def attention(self, x: Tensor, user_index: Users = None) -> Tensor:
        r"""Compute the branch weights :math:`\boldsymbol{\alpha}`, shape :math:`(|U|, B)`."""
        raise NotImplementedError

    def _rows(self, table: Tensor, user_index: Users) -> Tensor:
        if user_index is None:
            return table
        if isinstance(user_index, slice):
            return table[user_index]
        if self.shards is not None:
            return self.shards.lookup(table, user_index)
        return nn.functional.embedding(user_index, table)

    def attention_of_new_users(self, x: Tensor) -> Tensor:
        """Compute the branch weights of users who were not part of the training."""
        return self.attention(x)

    @torch.no_grad()
    def forget_users(self, forgotten: Tensor) -> None:
        """Give some users, bool of shape ``(|U|,)``, the mean memory of the others, if there is a memory."""

    def start_epoch(self) -> None:
        """Advance the schedule, if there is one. Call it once before each training epoch."""

    def forward(self, x: Tensor, user_index: Users = None) -> Tensor:
        return _weighted(x, self.attention(x, user_index))


def _weighted(x: Tensor, alpha: Tensor) -> Tensor:
    return (alpha.unsqueeze(-1) * x).flatten(start_dim=1)


class _NetworkFusion(_Fusion):
    """Base of fusions with a network that scores the branches."""

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

    def _scores(self, x: Tensor) -> Tensor:
        scores = [fc2(self.act(fc1(u))) for u, fc1, fc2 in zip(x.unbind(dim=1), self.fc1, self.fc2, strict=True)]
        return torch.cat(scores, dim=1)


class ProgressiveWeightCopying(_NetworkFusion):
    r"""The progressive weight copying (PWC) fusion from the `"Learning Item Representations Directly from Multimodal
    Features for Effective Recommendation" <https://arxiv.org/abs/2505.04960>`_ paper (section 4.4).

    .. math::
        s_b = \mathrm{fc2}_b(\mathrm{LeakyReLU}(\mathrm{fc1}_b(\mathbf{u}_b))), \qquad
        \boldsymbol{\alpha} = \mathrm{softmax}_b(w_{net} \mathbf{s} + w_{mem} \boldsymbol{\theta}), \qquad
        \mathbf{u}^{\prime} = \mathop{\Vert}_b \alpha_b \mathbf{u}_b

    :math:`\boldsymbol{\theta}` is a learnable memory with one row per user. Before epoch :math:`e`, counted from 1,
    :meth:`start_epoch` copies the :math:`\boldsymbol{\alpha}` of the last forward pass in training mode into the
    memory (nothing before the first epoch), and shifts weight from the network to the memory:

    .. math::
        f = w_{net} \cdot base^e, \qquad (w_{net}, w_{mem}) \leftarrow \frac{(f, w_{mem})}{f + w_{mem}}

    The factors compound over epochs. ``state_dict`` includes the schedule, the memory and the last
    :math:`\boldsymbol{\alpha}`.

    Args:
        num_users: number of rows of the memory.
        num_branches: number :math:`B` of branches.
        channels: size :math:`d` of a branch.
        network_weight: :math:`w_0`; the schedule starts from :math:`(w_0, 1 - w_0)`.
        decay_base: :math:`base` of the schedule.
        shards: users of each of several processes, if each holds the rows of some.

    Shapes:
        - **input:** branches of each user :math:`(|U|, B, d)`; with ``user_index`` :math:`(N)`, the branches of
          these users only, :math:`(N, B, d)`
        - **output:** :math:`(|U|, B \cdot d)`, or :math:`(N, B \cdot d)`
    """

    user_tables = "theta", "last_attention"
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
        shards: RowShards | None = None,
    ) -> None:
        super().__init__(num_branches, channels)
        self.num_users = num_users
        self.shards = shards
        self.initial_network_weight = network_weight
        self.decay_base = decay_base

        num_rows = num_users if shards is None else shards.num_own
        self.theta = nn.Parameter(torch.empty(num_rows, num_branches))
        # In float64, since rounding errors of the schedule compound.
        self.register_buffer("network_weight", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("memory_weight", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("last_attention", torch.full((num_rows, num_branches), torch.nan))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        xavier_normal_rows_(self.theta, self.shards)
        self.network_weight.fill_(self.initial_network_weight)
        self.memory_weight.fill_(1.0 - self.initial_network_weight)
        self.epoch.zero_()
        self.last_attention.fill_(torch.nan)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ProgressiveWeightCopying":
        schedule = {"network_weight": self.network_weight, "memory_weight": self.memory_weight}
        super()._apply(fn, recurse)
        for name, value in schedule.items():
            converted = getattr(self, name)
            if converted.dtype != value.dtype:  # parameters may be in half precision, the schedule must not
                setattr(self, name, value.to(converted.device))
        return self

    @torch.no_grad()
    def forget_users(self, forgotten: Tensor) -> None:
        self.theta[forgotten] = self.theta[~forgotten].mean(dim=0)
        self.last_attention[forgotten] = torch.nan

    @torch.no_grad()
    def start_epoch(self) -> None:
        """Copy the last attention into the memory and advance the schedule. Call it once before each training epoch."""
        self.epoch += 1
        network = self.network_weight * self.decay_base ** self.epoch.double()
        total = network + self.memory_weight
        self.network_weight.copy_(network / total)
        self.memory_weight.div_(total)
        # Users that were in no training batch yet have no attention to copy.
        seen = ~self.last_attention.isnan()
        self.theta.copy_(torch.where(seen, self.last_attention, self.theta))

    def attention(self, x: Tensor, user_index: Users = None) -> Tensor:
        r"""Compute the branch weights :math:`\boldsymbol{\alpha}`, shape :math:`(|U|, B)`."""
        return self._attention(x, self._rows(self.theta, user_index))

    def attention_of_new_users(self, x: Tensor) -> Tensor:
        r"""Compute the branch weights of users without a row in the memory, with the mean row in its place."""
        return self._attention(x, self.theta.mean(dim=0))

    def _attention(self, x: Tensor, theta: Tensor) -> Tensor:
        return (self.network_weight * self._scores(x) + self.memory_weight * theta).softmax(dim=1)

    def forward(self, x: Tensor, user_index: Users = None) -> Tensor:
        alpha = self.attention(x, user_index)
        if self.training:
            with torch.no_grad():
                if user_index is None:
                    self.last_attention.copy_(alpha)
                elif self.shards is not None:
                    assert isinstance(user_index, Tensor)
                    self.shards.write(self.last_attention, user_index, alpha)
                else:
                    self.last_attention[user_index] = alpha.to(self.last_attention.dtype)
        return _weighted(x, alpha)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_users}, num_branches={self.num_branches}, "
            f"channels={self.channels}, network_weight={self.initial_network_weight}, "
            f"decay_base={self.decay_base})"
        )


class MeanFusion(_Fusion):
    r"""The fusion that weights all branches equally, :math:`\alpha_b = 1 / B`.

    Shapes:
        - **input:** branches of each user :math:`(|U|, B, d)`
        - **output:** :math:`(|U|, B \cdot d)`
    """

    def attention(self, x: Tensor, user_index: Users = None) -> Tensor:
        return x.new_full(x.shape[:2], 1 / x.size(1))


class StaticFusion(_Fusion):
    r"""The fusion with one learnable weight per user and branch,
    :math:`\boldsymbol{\alpha} = \mathrm{softmax}_b(\boldsymbol{\theta})`.

    Equals :class:`ProgressiveWeightCopying` with all weight on the memory and without copying.

    Args:
        num_users: number of rows of :math:`\boldsymbol{\theta}`.
        num_branches: number :math:`B` of branches.
        shards: users of each of several processes, if each holds the rows of some.

    Shapes:
        - **input:** branches of each user :math:`(|U|, B, d)`; with ``user_index`` :math:`(N)`, the branches of
          these users only, :math:`(N, B, d)`
        - **output:** :math:`(|U|, B \cdot d)`, or :math:`(N, B \cdot d)`
    """

    user_tables = ("theta",)

    def __init__(self, num_users: int, num_branches: int, shards: RowShards | None = None) -> None:
        super().__init__()
        self.shards = shards
        self.theta = nn.Parameter(torch.empty(num_users if shards is None else shards.num_own, num_branches))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        xavier_normal_rows_(self.theta, self.shards)

    @torch.no_grad()
    def forget_users(self, forgotten: Tensor) -> None:
        self.theta[forgotten] = self.theta[~forgotten].mean(dim=0)

    def attention(self, x: Tensor, user_index: Users = None) -> Tensor:
        return self._rows(self.theta, user_index).softmax(dim=1)

    def attention_of_new_users(self, x: Tensor) -> Tensor:
        return self.theta.mean(dim=0).softmax(dim=0).expand(x.shape[:2])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.theta.size(0)}, num_branches={self.theta.size(1)})"


class AttentionFusion(_NetworkFusion):
    r"""The fusion that weights branches by a network, :math:`\boldsymbol{\alpha} = \mathrm{softmax}_b(\mathbf{s})`.

    .. math::
        s_b = \mathrm{fc2}_b(\mathrm{LeakyReLU}(\mathrm{fc1}_b(\mathbf{u}_b)))

    Equals :class:`ProgressiveWeightCopying` with all weight on the network.

    Args:
        num_branches: number :math:`B` of branches.
        channels: size :math:`d` of a branch.

    Shapes:
        - **input:** branches of each user :math:`(|U|, B, d)`
        - **output:** :math:`(|U|, B \cdot d)`
    """

    def attention(self, x: Tensor, user_index: Users = None) -> Tensor:
        return self._scores(x).softmax(dim=1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_branches={self.num_branches}, channels={self.channels})"
