"""A small graph, and what the peers' formulas need of it in dense matrices."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import ModelConfig
from lirdrec_pyg.data import INTERACTS, build_graph
from lirdrec_pyg.models import model_class

NUM_USERS, NUM_ITEMS = 9, 8
TRIPLES = torch.tensor([[0, 1, 2, 2, 5], [1, 0, 3, 4, 1], [5, 6, 7, 0, 2]])


def small_graph(seed: int = 0) -> HeteroData:
    """A graph of 9 users, 8 items and two modalities; the last user and the last item have no interactions."""
    rng = np.random.default_rng(seed)
    taken = rng.random((NUM_USERS - 1, NUM_ITEMS - 1)) < 0.4
    taken[0, :2] = taken[:7, 6] = True
    features = {"image": rng.standard_normal((NUM_ITEMS, 6)), "text": rng.standard_normal((NUM_ITEMS, 5))}
    train = np.stack(np.nonzero(taken))
    return build_graph(train, {m: x.astype(np.float32) for m, x in features.items()}, num_users=NUM_USERS)


def interactions(graph: HeteroData) -> Tensor:
    """The binary matrix of users x items, float64."""
    matrix = torch.zeros(graph["user"].num_nodes, graph["item"].num_nodes, dtype=torch.double)
    matrix[tuple(graph[INTERACTS].edge_index)] = 1
    return matrix


def normalised(taken: Tensor) -> Tensor:
    """The symmetrically normalised adjacency of users and items, users first, float64."""
    num_users, num_items = taken.shape
    adjacency = torch.zeros(num_users + num_items, num_users + num_items, dtype=torch.double)
    adjacency[:num_users, num_users:], adjacency[num_users:, :num_users] = taken, taken.T
    scale = (adjacency.sum(dim=1) + 1e-7) ** -0.5
    return scale[:, None] * adjacency * scale


def mean_of_layers(taken: Tensor, start: Tensor, num_layers: int) -> Tensor:
    """LightGCN's propagation of ``start``, users first."""
    layers = [start]
    for _ in range(num_layers):
        layers.append(normalised(taken) @ layers[-1])
    return torch.stack(layers).mean(dim=0)


def bpr(user: Tensor, item: Tensor, triples: Tensor = TRIPLES) -> Tensor:
    """The mean of -log sigmoid of the differences of scores."""
    u, i, j = triples
    difference = (user[u] * item[i]).sum(dim=1) - (user[u] * item[j]).sum(dim=1)
    return -(1 / (1 + (-difference).exp())).log().mean()


def prepared(config: ModelConfig, graph: HeteroData) -> tuple[Any, HeteroData]:
    """The model of ``config`` in float64, and the graph as its training takes it."""
    kind = model_class(config)
    torch.manual_seed(0)
    data = kind.input_transform(config)(kind.graph_transform(config)(graph))
    return kind.from_config(config, data).double(), data


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    """Of each parameter, after ``loss`` alone."""
    model.zero_grad()
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_gradients_reach_all(model: nn.Module, loss: Tensor) -> None:
    """No parameter is cut off from ``loss``."""
    for name, gradient in gradients(model, loss).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name
