"""Edges without the classes that PyG adds to tensors."""

import torch
from torch import Tensor
from torch_geometric import EdgeIndex, Index


def plain(x: Tensor) -> Tensor:
    """Return the tensor of an :class:`~torch_geometric.EdgeIndex` or of a row of it, and any other tensor as it is."""
    return _unwrapped(x) if isinstance(x, (EdgeIndex, Index)) else x


@torch.compiler.disable
def _unwrapped(x: EdgeIndex | Index) -> Tensor:
    return x.as_tensor()
