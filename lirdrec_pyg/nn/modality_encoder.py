import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.typing import OptTensor


class ModalityEncoder(nn.Module):
    r"""The encoder of the features of one modality from the `"Learning Item Representations Directly from Multimodal
    Features for Effective Recommendation" <https://arxiv.org/abs/2505.04960>`_ paper (section 4.1).

    .. math::
        \mathbf{H} = \mathrm{LeakyReLU}(\mathbf{X} \mathbf{W}_1^\top + \mathbf{b}_1) \mathbf{W}_2^\top

    Args:
        in_channels: size :math:`d_m` of the features.
        out_channels: size :math:`d` of a branch.
        hidden_channels: size of the hidden layer, by default :math:`4d`.
        negative_slope: negative slope of the LeakyReLU.

    Shapes:
        - **input:** features :math:`(N, d_m)`
        - **output:** :math:`(N, d)`
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.hidden_channels = hidden_channels or 4 * out_channels
        self.lin1 = nn.Linear(in_channels, self.hidden_channels)
        # In place, since the hidden layer is the widest and its output is stored for the backward pass.
        self.act = nn.LeakyReLU(negative_slope, inplace=True)
        self.lin2 = nn.Linear(self.hidden_channels, out_channels, bias=False)

    def reset_parameters(self) -> None:
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(self, x: Tensor, weight: OptTensor = None) -> Tensor:
        r"""Encode ``x``, with ``weight`` in place of :math:`\mathbf{W}_1` if given."""
        hidden = self.lin1(x) if weight is None else F.linear(x, weight, self.lin1.bias)
        return self.lin2(self.act(hidden))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, hidden_channels={self.hidden_channels})"
