import numpy as np
import torch
from small_graph import (
    NUM_ITEMS,
    NUM_USERS,
    TRIPLES,
    assert_is_the_formula,
    bpr,
    graph_of,
    interactions,
    mean_of_layers,
    prepared,
    small_graph,
    squares,
)
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import item_features
from lirdrec_pyg.models import MMHCL, MMHCLConfig

CONFIG = MMHCLConfig(
    embedding_dim=4,
    knn_k=3,
    user_contrast_weight=0.4,
    item_contrast_weight=0.7,
    temperature=0.5,
    reg_weight=0.1,
)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def by_common_items(taken: Tensor) -> Tensor:
    common = taken @ taken.T
    common = common - common.diag().diag()
    return common / common.sum(dim=1, keepdim=True).clamp_min(1)


def by_content(graph: HeteroData, k: int) -> Tensor:
    hyperedges = []
    for modality in ("image", "text"):
        x = unit(item_features(graph, modality).double())
        cosine = x @ x.T
        hyperedges.append(torch.zeros_like(cosine).scatter(1, cosine.topk(k, dim=1).indices, 1))
    joined = torch.cat(hyperedges, dim=1) @ torch.cat(hyperedges, dim=1).T
    scale = joined.sum(dim=1) ** -0.5
    return scale[:, None] * joined * scale


def contrast(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    x, y = unit(x), unit(y)
    between, within = (x @ y.T / temperature).exp(), (x @ x.T / temperature).exp()
    others = between.sum(dim=1) + within.sum(dim=1) - within.diagonal()
    return -(between.diagonal() / others).log().mean()


def hyper(model: MMHCL, graph: HeteroData) -> Tensor:
    user: Tensor = model.hyper_user
    item: Tensor = model.hyper_item
    for _ in range(CONFIG.num_user_layers):
        user = by_common_items(interactions(graph)) @ user
    for _ in range(CONFIG.num_item_layers):
        item = by_content(graph, CONFIG.knn_k) @ item
    return torch.cat([user, item])


def test_formula() -> None:
    graph = small_graph()
    model, data = prepared(CONFIG, graph)
    h = hyper(model, graph)
    x = mean_of_layers(interactions(graph), torch.cat([model.user, model.item]), CONFIG.num_layers) + unit(h)
    u, i, j = TRIPLES + torch.tensor([[0], [NUM_USERS], [NUM_USERS]])
    loss = bpr(x[:NUM_USERS], x[NUM_USERS:]) + 0.1 * squares(x[u], x[i], x[j])
    # Some users and items occur several times in the batch, but count once.
    for nodes, weight in (((0, 1, 2, 5), 0.4), ((0, 1, 2, 3, 4, 5, 6, 7), 0.7)):
        rows = torch.tensor(nodes) + (NUM_USERS if len(nodes) == NUM_ITEMS else 0)
        loss = loss + weight * contrast(x[rows], h[rows], 0.5)
    assert_is_the_formula(model, data, [x], loss)


def test_users_without_items_in_common_have_no_vector_from_others() -> None:
    # Users 0 and 1 share an item, user 2 has an item alone, and user 3 has none.
    model, data = prepared(CONFIG, graph_of(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])))
    model.float()
    with torch.no_grad():
        model.user.zero_()
        model.item.zero_()
        user, _ = model(data)
    # An odd number of steps along the only edge.
    torch.testing.assert_close(user[:2], unit(model.hyper_user[[1, 0]].detach()))
    assert not user[2:].any()
