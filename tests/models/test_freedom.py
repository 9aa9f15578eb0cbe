import pytest
import torch
from small_graph import (
    NUM_ITEMS,
    NUM_USERS,
    TRIPLES,
    assert_gradients_reach_all,
    bpr,
    gradients,
    interactions,
    mean_of_layers,
    prepared,
    small_graph,
)

from lirdrec_pyg.config import FREEDOMConfig
from lirdrec_pyg.data import SIMILAR, item_features


@pytest.mark.parametrize(("num_layers", "num_item_layers"), [(2, 1), (1, 2)])
def test_vectors_and_loss_are_the_formulas(num_layers: int, num_item_layers: int) -> None:
    graph = small_graph()
    config = FREEDOMConfig(
        embedding_dim=4, num_layers=num_layers, num_item_layers=num_item_layers, knn_k=3, modality_weight=0.3
    )
    model, data = prepared(config, graph)
    similar = torch.zeros(NUM_ITEMS, NUM_ITEMS, dtype=torch.double)
    similar[tuple(data[SIMILAR].edge_index.flip([0]))] = data[SIMILAR].edge_weight.double()
    x = mean_of_layers(interactions(graph), torch.cat([model.user, model.item]), num_layers)
    user = x[:NUM_USERS]
    item = x[NUM_USERS:] + torch.linalg.matrix_power(similar, num_item_layers) @ model.item
    assert torch.allclose(torch.cat(model(data)), torch.cat([user, item]), atol=1e-6)

    loss = bpr(user, item)
    for modality, projection in zip(("image", "text"), model.projections, strict=True):
        projected = item_features(graph, modality).double() @ projection.weight.T + projection.bias
        loss = loss + 0.3 * bpr(user, projected)
    assert model.loss(data, TRIPLES).item() == pytest.approx(loss.item(), rel=1e-6)
    expected = gradients(model, loss)
    for name, gradient in gradients(model, model.loss(data, TRIPLES)).items():
        assert torch.allclose(gradient, expected[name], atol=1e-6), name


def test_gradients_reach_all_but_a_bias_that_makes_no_difference() -> None:
    model, data = prepared(FREEDOMConfig(embedding_dim=4, knn_k=3), small_graph())
    for projection in model.projections:
        # Equal for all items of a user, it cancels out.
        projection.bias = None
    assert_gradients_reach_all(model, model.loss(data, TRIPLES))
    model.modality_weight = 0.0
    # Zero, but there: several processes wait for the gradients of all parameters.
    assert not gradients(model, model.loss(data, TRIPLES))["projections.0.weight"].any()


def test_its_training_leaves_edges_out() -> None:
    assert FREEDOMConfig.training["edge_dropout"] == 0.8
