import pytest
import torch
from small_graph import (
    NUM_USERS,
    TRIPLES,
    assert_is_the_formula,
    bpr,
    interactions,
    mean_of_layers,
    prepared,
    small_graph,
    squares,
)
from torch_geometric.nn import LightGCN as PyGLightGCN

from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.models import LightGCNConfig

NODES = TRIPLES + torch.tensor([[0], [NUM_USERS], [NUM_USERS]])


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_formula(num_layers: int) -> None:
    graph = small_graph()
    model, data = prepared(LightGCNConfig(embedding_dim=4, num_layers=num_layers, reg_weight=0.2), graph)
    start = model.gcn.embedding.weight
    x = mean_of_layers(interactions(graph), start, num_layers)
    assert_is_the_formula(model, data, [x], bpr(x[:NUM_USERS], x[NUM_USERS:]) + 0.2 * squares(start[NODES]))


def test_it_is_the_class_of_pyg_with_the_loss_of_pyg() -> None:
    graph = small_graph()
    model, data = prepared(LightGCNConfig(embedding_dim=4, reg_weight=0.2), graph)
    assert type(model.gcn) is PyGLightGCN
    theirs = PyGLightGCN(NUM_USERS + graph["item"].num_nodes, 4, 3).double()
    theirs.load_state_dict(model.gcn.state_dict())
    shifted = graph[INTERACTS].edge_index + torch.tensor([[0], [NUM_USERS]])
    x = theirs.get_embedding(torch.cat([shifted, shifted.flip([0])], dim=1))
    u, i, j = NODES
    positive, negative = ((x[u] * x[k]).sum(dim=1) for k in (i, j))
    # That of PyG has no factor of 1/2.
    loss = theirs.recommendation_loss(positive, negative, NODES.flatten(), lambda_reg=0.2 / 2)
    assert model.loss(data, TRIPLES).item() == pytest.approx(loss.item(), rel=1e-6)
