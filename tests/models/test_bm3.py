import pytest
import torch
from small_graph import (
    NUM_USERS,
    TRIPLES,
    assert_gradients_reach_all,
    gradients,
    interactions,
    mean_of_layers,
    prepared,
    small_graph,
)
from torch import Tensor

from lirdrec_pyg.config import BM3Config
from lirdrec_pyg.data import item_features


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (1 - (a * b).sum(dim=1) / a.norm(dim=1) / b.norm(dim=1)).mean()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_vectors_and_loss_are_the_formulas(num_layers: int) -> None:
    graph = small_graph()
    config = BM3Config(embedding_dim=4, num_layers=num_layers, dropout=0.0, modality_weight=1.5, reg_weight=0.2)
    model, data = prepared(config, graph)
    start = torch.cat([model.user, model.item])
    h = mean_of_layers(interactions(graph), start, num_layers)
    h = torch.cat([h[:NUM_USERS], h[NUM_USERS:] + model.item])
    online = h @ model.predictor.weight.T + model.predictor.bias
    assert torch.allclose(torch.cat(model(data)), online, atol=1e-6)

    u, i = TRIPLES[0], NUM_USERS + TRIPLES[1]
    loss = distance(online[u], h[i].detach()) + distance(online[i], h[u].detach())
    for modality, projection in zip(("image", "text"), model.projections, strict=True):
        x = item_features(graph, modality)[TRIPLES[1]].double() @ projection.weight.T + projection.bias
        predicted = x @ model.predictor.weight.T + model.predictor.bias
        loss = loss + 1.5 * (distance(predicted, h[i].detach()) + distance(predicted, x.detach()))
    loss = loss + 0.2 * ((model.user**2).mean() + (model.item**2).mean())
    assert model.loss(data, TRIPLES).item() == pytest.approx(loss.item(), rel=1e-6)
    expected = gradients(model, loss)
    for name, gradient in gradients(model, model.loss(data, TRIPLES)).items():
        # Nothing flows through a target.
        assert torch.allclose(gradient, expected[name], atol=1e-6), name
    assert_gradients_reach_all(model, model.loss(data, TRIPLES))


def test_negatives_play_no_part_and_dropout_only_in_training() -> None:
    model, data = prepared(BM3Config(embedding_dim=4), small_graph())
    model.eval()
    other = TRIPLES.clone()
    other[2] = 4
    assert torch.equal(model.loss(data, TRIPLES), model.loss(data, other))
    model.train()
    assert not torch.equal(model.loss(data, TRIPLES), model.loss(data, TRIPLES))
