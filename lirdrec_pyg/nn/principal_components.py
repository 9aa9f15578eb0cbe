import torch
from torch import Tensor, nn


class PrincipalComponents(nn.Module):
    r"""Projection of features onto their principal components, :math:`(\mathbf{x} - \boldsymbol{\mu}) \mathbf{W}`,
    scaled to rows of mean length 1.

    Args:
        in_channels: width of the features.
        out_channels: number of components.

    Shapes:
        - **input:** features :math:`(N, d)`
        - **output:** :math:`(N, k)`
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("basis", torch.zeros(in_channels, out_channels))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Find the components of ``x``; of fewer rows there are fewer components, and the other columns stay zero."""
        self.mean.copy_(x.float().mean(dim=0))
        centered = x.float() - self.mean
        with torch.random.fork_rng():
            torch.manual_seed(0)
            count = min(self.out_channels, len(x))
            components = torch.pca_lowrank(centered, count, center=False, niter=4)[2]
        length = torch.linalg.vector_norm(centered @ components, dim=1).mean()
        self.basis[:, :count] = components / length.clamp(min=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.basis.dtype) - self.mean) @ self.basis

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels})"
