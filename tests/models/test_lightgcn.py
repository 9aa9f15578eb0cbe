import copy

import pytest
import torch
from small_graph import (
    NUM_USERS,
    TRIPLES,
    assert_gradients_reach_all,
    bpr,
    interactions,
    mean_of_layers,
    prepared,
    small_graph,
)
from torch_geometric.nn import LightGCN as PyGLightGCN

from lirdrec_pyg.config import LightGCNConfig
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.transforms import DropEdges


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_vectors_and_loss_are_the_formulas(num_layers: int) -> None:
    graph = small_graph()
    model, data = prepared(LightGCNConfig(embedding_dim=4, num_layers=num_layers, reg_weight=0.2), graph)
    start = model.gcn.embedding.weight
    expected = mean_of_layers(interactions(graph), start, num_layers)
    user, item = model(data)
    assert torch.allclose(torch.cat([user, item]), expected, atol=1e-6)
    u, i, j = TRIPLES
    norms = (start[u] ** 2).sum() + (start[NUM_USERS + i] ** 2).sum() + (start[NUM_USERS + j] ** 2).sum()
    loss = bpr(expected[:NUM_USERS], expected[NUM_USERS:]) + 0.2 * norms / (2 * len(u))
    assert model.loss(data, TRIPLES).item() == pytest.approx(loss.item(), rel=1e-6)
    assert_gradients_reach_all(model, model.loss(data, TRIPLES))


def test_it_is_pygs_own_class_with_pygs_own_loss() -> None:
    graph = small_graph()
    model, data = prepared(LightGCNConfig(embedding_dim=4, reg_weight=0.2), graph)
    assert type(model.gcn) is PyGLightGCN
    theirs = PyGLightGCN(NUM_USERS + graph["item"].num_nodes, 4, 3).double()
    theirs.load_state_dict(model.gcn.state_dict())
    shifted = graph[INTERACTS].edge_index + torch.tensor([[0], [NUM_USERS]])
    edges = torch.cat([shifted, shifted.flip([0])], dim=1)
    u, i, j = TRIPLES
    x = theirs.get_embedding(edges)
    positive, negative = ((x[u] * x[NUM_USERS + k]).sum(dim=1) for k in (i, j))
    nodes = torch.cat([u, NUM_USERS + i, NUM_USERS + j])
    # PyG's has no factor of 1/2.
    loss = theirs.recommendation_loss(positive, negative, nodes, lambda_reg=0.2 / 2)
    assert model.loss(data, TRIPLES).item() == pytest.approx(loss.item(), rel=1e-6)


def test_other_edges_are_noticed() -> None:
    graph = small_graph()
    model, data = prepared(LightGCNConfig(embedding_dim=4), graph)
    before = model(data)[0]
    fewer = DropEdges(0.5, torch.Generator().manual_seed(0))(copy.copy(data))
    expected = mean_of_layers(interactions(fewer), model.gcn.embedding.weight, 3)
    assert torch.allclose(torch.cat(model(fewer)), expected, atol=1e-6)
    assert torch.equal(model(data)[0], before)
