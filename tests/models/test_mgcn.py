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
    normalised,
    prepared,
    small_graph,
)
from torch import Tensor
from torch.nn import Linear
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import MGCNConfig
from lirdrec_pyg.data import item_features
from lirdrec_pyg.models import MGCN

CONFIG = MGCNConfig(embedding_dim=4, knn_k=3, contrast_weight=0.4, temperature=0.5, reg_weight=0.1)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def affine(x: Tensor, layer: Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


def item_graph(x: Tensor, k: int) -> Tensor:
    unit = x / x.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    kept = torch.zeros_like(cosine).scatter(1, cosine.topk(k, dim=1).indices, 1) * cosine.clamp_min(0)
    scale = kept.sum(dim=1) ** -0.5
    return scale[:, None] * kept * scale


def views(model: MGCN, graph: HeteroData) -> tuple[Tensor, Tensor]:
    taken = interactions(graph)
    to_users = normalised(taken)[:NUM_USERS, NUM_USERS:]
    behaviour = mean_of_layers(taken, torch.cat([model.user, model.item]), CONFIG.num_layers)
    content = []
    for m, modality in enumerate(("image", "text")):
        x = item_features(graph, modality).double()
        purified = model.item * sigmoid(affine(affine(x, model.projections[m]), model.purifiers[m]))
        item = item_graph(x, CONFIG.knn_k) @ purified
        content.append(torch.cat([to_users @ item, item]))
    score = torch.stack([affine(e, model.query[0]).tanh() @ model.query[2].weight[0] for e in content])
    alpha = score.exp() / score.exp().sum(dim=0)
    shared = sum(a[:, None] * e for a, e in zip(alpha, content, strict=True))
    own = sum(
        sigmoid(affine(behaviour, preference)) * (e - shared)
        for preference, e in zip(model.preferences, content, strict=True)
    )
    return behaviour, (shared + own) / 3


def info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    similarity = (x @ y.T / temperature).exp()
    return -(similarity.diagonal() / similarity.sum(dim=1)).log().mean()


def test_vectors_and_loss_are_the_formulas() -> None:
    graph = small_graph()
    model, data = prepared(CONFIG, graph)
    behaviour, fused = views(model, graph)
    x = behaviour + fused
    assert torch.allclose(torch.cat(model(data)), x, atol=1e-6)

    u, i, j = TRIPLES[0], TRIPLES[1] + NUM_USERS, TRIPLES[2] + NUM_USERS
    loss = bpr(x[:NUM_USERS], x[NUM_USERS:]) + 0.1 * sum((x[k] ** 2).sum() for k in (u, i, j)) / (2 * len(u))
    loss = loss + 0.4 * sum(info_nce(fused[k], behaviour[k], 0.5) for k in (u, i))
    assert model.loss(data, TRIPLES).item() == pytest.approx(loss.item(), rel=1e-6)
    expected = gradients(model, loss)
    for name, gradient in gradients(model, model.loss(data, TRIPLES)).items():
        assert torch.allclose(gradient, expected[name], atol=1e-6), name


def test_gradients_reach_all_parameters() -> None:
    model, data = prepared(CONFIG, small_graph())
    assert_gradients_reach_all(model, model.loss(data, TRIPLES))
    assert model(data)[1].shape == (NUM_ITEMS, 4)
