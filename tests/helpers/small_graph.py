"""A small graph, and dense matrices that formulas of models are written with."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.typing import WITH_TORCH_SPARSE

from lirdrec_pyg.data import INTERACTS, build_graph
from lirdrec_pyg.models import ModelConfig, model_class
from lirdrec_pyg.transforms import SparseBackend

NUM_USERS, NUM_ITEMS = 9, 8
WIDTHS = {"image": 6, "text": 5}
TRIPLES = torch.tensor([[0, 1, 2, 2, 5], [1, 0, 3, 4, 1], [5, 6, 7, 0, 2]])

BACKENDS: list[SparseBackend] = ["torch", "torch-sparse"] if WITH_TORCH_SPARSE else ["torch"]


def small_graph(
    seed: int = 0, widths: Mapping[str, int] = WIDTHS, num_items: int = NUM_ITEMS, masks: dict[str, Any] | None = None
) -> HeteroData:
    """A graph of 9 users and 8 items; the last user and the last item have no interactions."""
    rng = np.random.default_rng(seed)
    taken = rng.random((NUM_USERS - 1, num_items - 1)) < 0.4
    taken[0, :2] = taken[:7, 6] = True
    features = {name: rng.standard_normal((num_items, width)).astype(np.float32) for name, width in widths.items()}
    return build_graph(np.stack(np.nonzero(taken)), features, masks=masks, num_users=NUM_USERS)


def graph_of(taken: np.ndarray) -> HeteroData:
    """The graph of a binary matrix of users x items, with random features."""
    features = {"m": torch.randn(taken.shape[1], 2)}
    return build_graph(np.stack(np.nonzero(taken)), features, num_users=len(taken))


def interactions(graph: HeteroData) -> Tensor:
    """The binary matrix of users x items, float64."""
    matrix = torch.zeros(graph["user"].num_nodes, graph["item"].num_nodes, dtype=torch.double)
    matrix[tuple(graph[INTERACTS].edge_index)] = 1
    return matrix


def dense(store: Any, size: int) -> Tensor:
    """The matrix of weighted edges among ``size`` nodes, a row for each target, float64."""
    matrix = torch.zeros(size, size, dtype=torch.double)
    matrix[tuple(store.edge_index.flip([0]))] = store.edge_weight.double()
    return matrix


def normalized(taken: Tensor) -> Tensor:
    """The symmetrically normalized adjacency of users and items, users first, float64."""
    num_users, num_items = taken.shape
    adjacency = torch.zeros(num_users + num_items, num_users + num_items, dtype=torch.double)
    adjacency[:num_users, num_users:], adjacency[num_users:, :num_users] = taken, taken.T
    scale = (adjacency.sum(dim=1) + 1e-7) ** -0.5
    return scale[:, None] * adjacency * scale


def mean_of_layers(taken: Tensor, start: Tensor, num_layers: int) -> Tensor:
    """LightGCN's propagation of ``start``, users first."""
    layers = [start]
    for _ in range(num_layers):
        layers.append(normalized(taken) @ layers[-1])
    return torch.stack(layers).mean(dim=0)


def bpr(user: Tensor, item: Tensor, triples: Tensor = TRIPLES) -> Tensor:
    """The mean of -log sigmoid of the differences of scores."""
    u, i, j = triples
    difference = (user[u] * item[i]).sum(dim=1) - (user[u] * item[j]).sum(dim=1)
    return -(1 / (1 + (-difference).exp())).log().mean()


def squares(*rows: Tensor) -> Tensor:
    """Half of the squared norms of all rows of a batch, per triple."""
    return sum((x**2).sum() for x in rows) / (2 * TRIPLES.size(1))


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


def prepared(
    config: ModelConfig, graph: HeteroData | None = None, backend: SparseBackend = "torch", seed: int = 0
) -> tuple[Any, HeteroData]:
    """The model of ``config`` in float64, and the graph as its training takes it."""
    kind = model_class(config)
    torch.manual_seed(seed)
    stored = kind.graph_transform(config)(small_graph() if graph is None else graph)
    data = kind.input_transform(config, backend)(stored)
    model = kind.from_config(config, data).double()
    model.prepare(data)
    return model, data


def fitted(config: ModelConfig, graph: HeteroData | None = None) -> tuple[Any, HeteroData]:
    """The closed-form model of ``config``, computed on a graph."""
    model, data = prepared(config, graph)
    model.fit(data)
    return model, data


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    """Of each parameter, after ``loss`` alone."""
    model.zero_grad()
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_is_the_formula(model: Any, data: HeteroData, vectors: Iterable[Tensor], loss: Tensor) -> None:
    """Vectors of users and items, the loss of ``TRIPLES`` and its gradients are the expected ones."""
    torch.testing.assert_close(torch.cat(model(data)), torch.cat(tuple(vectors)), rtol=1e-5, atol=1e-6)
    assert model.loss(data, TRIPLES).item() == pytest.approx(loss.item(), rel=1e-6)
    expected = gradients(model, loss)
    assert expected.keys() == dict(model.named_parameters()).keys()
    torch.testing.assert_close(gradients(model, model.loss(data, TRIPLES)), expected, rtol=1e-4, atol=1e-6)
