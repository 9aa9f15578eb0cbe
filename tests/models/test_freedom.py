import pytest
import torch
from small_graph import (
    NUM_ITEMS,
    NUM_USERS,
    TRIPLES,
    assert_is_the_formula,
    bpr,
    dense,
    gradients,
    interactions,
    linear,
    mean_of_layers,
    prepared,
    small_graph,
)

from lirdrec_pyg.data import SIMILAR, item_features
from lirdrec_pyg.models import FREEDOMConfig


@pytest.mark.parametrize(("num_layers", "num_item_layers"), [(2, 1), (1, 2)])
def test_formula(num_layers: int, num_item_layers: int) -> None:
    graph = small_graph()
    config = FREEDOMConfig(
        embedding_dim=4, num_layers=num_layers, num_item_layers=num_item_layers, knn_k=3, modality_weight=0.3
    )
    model, data = prepared(config, graph)
    similar = torch.linalg.matrix_power(dense(data[SIMILAR], NUM_ITEMS), num_item_layers)
    x = mean_of_layers(interactions(graph), torch.cat([model.user, model.item]), num_layers)
    user, item = x[:NUM_USERS], x[NUM_USERS:] + similar @ model.item
    loss = bpr(user, item)
    for modality, projection in zip(("image", "text"), model.projections, strict=True):
        loss = loss + 0.3 * bpr(user, linear(item_features(graph, modality).double(), projection))
    assert_is_the_formula(model, data, [user, item], loss)
    model.modality_weight = 0.0
    # Zero, but present: several processes wait for the gradients of all parameters.
    assert not gradients(model, model.loss(data, TRIPLES))["projections.0.weight"].any()


def test_training_drops_edges() -> None:
    assert FREEDOMConfig.training_defaults["edge_dropout"] == 0.8
