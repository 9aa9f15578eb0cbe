import pytest
import torch
from small_graph import TRIPLES, assert_gradients_reach_all, bpr, prepared, small_graph
from torch import nn

from lirdrec_pyg.config import VBPRConfig


def test_scores_and_loss_are_the_formulas() -> None:
    graph = small_graph()
    model, data = prepared(VBPRConfig(embedding_dim=4, reg_weight=0.3, projection_reg_weight=0.05), graph)
    nn.init.normal_(model.item_bias)
    nn.init.normal_(model.feature_bias.weight)
    xs = [graph["item"].x_image.double(), graph["item"].x_text.double()]
    f = torch.cat([x / x.norm(dim=1, keepdim=True) for x in xs], dim=1)
    scores = model.user_gamma @ model.item_gamma.T + model.user_theta @ (f @ model.projection.weight.T).T
    scores = scores + model.item_bias[:, 0] + f @ model.feature_bias.weight[0]
    user, item = model(data)
    assert torch.allclose(user @ item.T, scores)

    u, i, j = TRIPLES
    factors = sum((x[u] ** 2).sum() for x in (model.user_gamma, model.user_theta))
    factors = factors + sum((x[k] ** 2).sum() for x in (model.item_gamma, model.item_bias) for k in (i, j))
    projection = (model.projection.weight**2).sum() + (model.feature_bias.weight**2).sum()
    expected = bpr(user, item) + 0.3 * factors / (2 * len(u)) + 0.05 * projection / 2
    assert model.loss(data, TRIPLES).item() == pytest.approx(expected.item())


def test_gradients_reach_all_parameters() -> None:
    model, data = prepared(VBPRConfig(embedding_dim=4), small_graph())
    assert_gradients_reach_all(model, model.loss(data, TRIPLES))
