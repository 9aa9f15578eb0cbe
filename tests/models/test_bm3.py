import pytest
import torch
from small_graph import (
    NUM_USERS,
    TRIPLES,
    assert_is_the_formula,
    interactions,
    linear,
    mean_of_layers,
    prepared,
    small_graph,
)
from torch import Tensor

from lirdrec_pyg.data import item_features
from lirdrec_pyg.models import BM3Config


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (1 - (a * b).sum(dim=1) / a.norm(dim=1) / b.norm(dim=1)).mean()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_formula(num_layers: int) -> None:
    graph = small_graph()
    config = BM3Config(embedding_dim=4, num_layers=num_layers, dropout=0.0, modality_weight=1.5, reg_weight=0.2)
    model, data = prepared(config, graph)
    h = mean_of_layers(interactions(graph), torch.cat([model.user, model.item]), num_layers)
    h = torch.cat([h[:NUM_USERS], h[NUM_USERS:] + model.item])
    online = linear(h, model.predictor)

    u, i = TRIPLES[0], NUM_USERS + TRIPLES[1]
    # No gradient flows through a target.
    loss = distance(online[u], h[i].detach()) + distance(online[i], h[u].detach())
    for modality, projection in zip(("image", "text"), model.projections, strict=True):
        x = linear(item_features(graph, modality)[TRIPLES[1]].double(), projection)
        predicted = linear(x, model.predictor)
        loss = loss + 1.5 * (distance(predicted, h[i].detach()) + distance(predicted, x.detach()))
    loss = loss + 0.2 * ((model.user**2).mean() + (model.item**2).mean())
    assert_is_the_formula(model, data, [online], loss)


def test_negatives_are_not_used_and_dropout_only_in_training() -> None:
    model, data = prepared(BM3Config(embedding_dim=4))
    model.eval()
    other = torch.stack([*TRIPLES[:2], torch.full_like(TRIPLES[2], 4)])
    assert torch.equal(model.loss(data, TRIPLES), model.loss(data, other))
    model.train()
    assert not torch.equal(model.loss(data, TRIPLES), model.loss(data, TRIPLES))
