import torch
from small_graph import (
    NUM_USERS,
    TRIPLES,
    assert_is_the_formula,
    bpr,
    interactions,
    linear,
    mean_of_layers,
    normalized,
    prepared,
    small_graph,
    squares,
)
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import item_features
from lirdrec_pyg.models import MGCN, MGCNConfig

CONFIG = MGCNConfig(embedding_dim=4, knn_k=3, contrast_weight=0.4, temperature=0.5, reg_weight=0.1)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def item_graph(x: Tensor, k: int) -> Tensor:
    cosine = unit(x) @ unit(x).T
    kept = torch.zeros_like(cosine).scatter(1, cosine.topk(k, dim=1).indices, 1) * cosine.clamp_min(0)
    scale = kept.sum(dim=1) ** -0.5
    return scale[:, None] * kept * scale


def views(model: MGCN, graph: HeteroData) -> tuple[Tensor, Tensor]:
    taken = interactions(graph)
    to_users = normalized(taken)[:NUM_USERS, NUM_USERS:]
    behavior = mean_of_layers(taken, torch.cat([model.user, model.item]), CONFIG.num_layers)
    content = []
    for m, modality in enumerate(("image", "text")):
        x = item_features(graph, modality).double()
        purified = model.item * sigmoid(linear(linear(x, model.projections[m]), model.purifiers[m]))
        item = item_graph(x, CONFIG.knn_k) @ purified
        content.append(torch.cat([to_users @ item, item]))
    score = torch.stack([linear(e, model.query[0]).tanh() @ model.query[2].weight[0] for e in content])
    alpha = score.exp() / score.exp().sum(dim=0)
    shared = sum(a[:, None] * e for a, e in zip(alpha, content, strict=True))
    own = sum(sigmoid(linear(behavior, p)) * (e - shared) for p, e in zip(model.preferences, content, strict=True))
    return behavior, (shared + own) / 3


def info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    similarity = (unit(x) @ unit(y).T / temperature).exp()
    return -(similarity.diagonal() / similarity.sum(dim=1)).log().mean()


def test_formula() -> None:
    graph = small_graph()
    model, data = prepared(CONFIG, graph)
    behavior, fused = views(model, graph)
    x = behavior + fused
    nodes = TRIPLES + torch.tensor([[0], [NUM_USERS], [NUM_USERS]])
    loss = bpr(x[:NUM_USERS], x[NUM_USERS:]) + 0.1 * squares(x[nodes])
    loss = loss + 0.4 * sum(info_nce(fused[k], behavior[k], 0.5) for k in nodes[:2])
    assert_is_the_formula(model, data, [x], loss)
