"""The forms of a weighted graph that layers support."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor

from lirdrec_pyg.nn import SparseOperator

needs_torch_sparse = pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")

# Converts edges (source, target), weights and the size (sources, targets) to the arguments of a layer.
Form = Callable[[Tensor, Tensor, tuple[int, int]], tuple[Any, Tensor | None]]


def plain(edges: Tensor, weight: Tensor, size: tuple[int, int]) -> tuple[Any, Tensor | None]:
    return edges, weight


def edge_index(edges: Tensor, weight: Tensor, size: tuple[int, int]) -> tuple[Any, Tensor | None]:
    return EdgeIndex(edges, sparse_size=size), weight


def sorted_edge_index(edges: Tensor, weight: Tensor, size: tuple[int, int]) -> tuple[Any, Tensor | None]:
    order = edges[1].argsort(stable=True)
    return EdgeIndex(edges[:, order], sparse_size=size, sort_order="col"), weight[order]


def sparse_csr(edges: Tensor, weight: Tensor, size: tuple[int, int]) -> tuple[Any, Tensor | None]:
    return torch.sparse_coo_tensor(edges.flip([0]), weight, size[::-1]).to_sparse_csr(), None


def sparse_tensor(edges: Tensor, weight: Tensor, size: tuple[int, int]) -> tuple[Any, Tensor | None]:
    return SparseTensor(row=edges[1], col=edges[0], value=weight, sparse_sizes=size[::-1]), None


def operator(edges: Tensor, weight: Tensor, size: tuple[int, int]) -> tuple[Any, Tensor | None]:
    return SparseOperator(edges.flip([0]), weight, size[::-1]), None


_FORMS = [plain, edge_index, sorted_edge_index, sparse_csr, pytest.param(sparse_tensor, marks=needs_torch_sparse)]
FORMS = pytest.mark.parametrize("form", [*_FORMS, operator])
FORMS_BUT_PLAIN = pytest.mark.parametrize("form", [*_FORMS[1:], operator])


def dense_adjacency(edges: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.zeros(size, dtype=torch.double).index_put((edges[0], edges[1]), weight.double())
