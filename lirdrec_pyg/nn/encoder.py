import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.typing import OptTensor


class ModalityEncoder(nn.Module):
    r"""Encodes the fixed features of one modality (paper, section 4.1).

    .. math::
        \mathbf{H} = \mathrm{LeakyReLU}(\mathbf{X} \mathbf{W}_1^\top + \mathbf{b}_1) \mathbf{W}_2^\top

    Args:
        in_channels: feature width :math:`d_m`.
        out_channels: width :math:`d` of a branch.
        hidden_channels: width of the hidden layer; by default :math:`4d`.
        negative_slope: of the LeakyReLU.

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
        # In place: the hidden layer is the widest, and kept for the gradient.
        self.act = nn.LeakyReLU(negative_slope, inplace=True)
        self.lin2 = nn.Linear(self.hidden_channels, out_channels, bias=False)

    def reset_parameters(self) -> None:
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(self, x: Tensor, weight: OptTensor = None) -> Tensor:
        r"""Encodes ``x``, if need be by another ``weight`` in the place of :math:`\mathbf{W}_1`."""
        hidden = self.lin1(x) if weight is None else F.linear(x, weight, self.lin1.bias)
        return self.lin2(self.act(hidden))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, hidden_channels={self.hidden_channels})"
