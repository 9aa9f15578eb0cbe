import torch
from small_graph import TRIPLES, assert_is_the_formula, bpr, prepared, small_graph, squares
from torch import nn

from lirdrec_pyg.models import VBPRConfig


def test_formula() -> None:
    graph = small_graph()
    model, data = prepared(VBPRConfig(embedding_dim=4, reg_weight=0.3, projection_reg_weight=0.05), graph)
    nn.init.normal_(model.item_bias)
    nn.init.normal_(model.feature_bias.weight)
    xs = [graph["item"].x_image.double(), graph["item"].x_text.double()]
    f = torch.cat([x / x.norm(dim=1, keepdim=True) for x in xs], dim=1)
    scores = model.user_gamma @ model.item_gamma.T + model.user_theta @ (f @ model.projection.weight.T).T
    scores = scores + model.item_bias[:, 0] + f @ model.feature_bias.weight[0]
    user, item = model(data)
    torch.testing.assert_close(user @ item.T, scores)

    u, i, j = TRIPLES
    norms = squares(
        model.user_gamma[u], model.user_theta[u], *(x[k] for x in (model.item_gamma, model.item_bias) for k in (i, j))
    )
    projection = (model.projection.weight**2).sum() + (model.feature_bias.weight**2).sum()
    loss = bpr(torch.eye(len(scores)).double(), scores.T) + 0.3 * norms + 0.05 * projection / 2
    assert_is_the_formula(model, data, [user.detach(), item.detach()], loss)
