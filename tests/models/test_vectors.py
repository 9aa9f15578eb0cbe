import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.typing import WITH_TORCH_SPARSE

from lirdrec_pyg.config import LIRDRecConfig
from lirdrec_pyg.data import INTERACTS, SIMILAR, build_graph
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models import LIRDRec, Vectors

NUM_USERS, NUM_ITEMS = 13, 17
BACKENDS = [
    "raw",
    "torch",
    pytest.param(
        "torch-sparse", marks=pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are so small that threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(backend: str = "raw", seed: int = 0, **settings: Any) -> tuple[LIRDRec, HeteroData]:
    """A model in its third epoch, and a graph; the last user and the last item have no interactions."""
    rng = np.random.default_rng(seed)
    train = np.stack(np.nonzero(rng.random((NUM_USERS - 1, NUM_ITEMS - 1)) < 0.4))
    features = {"image": rng.standard_normal((NUM_ITEMS, 6)), "text": rng.standard_normal((NUM_ITEMS, 5))}
    config = LIRDRecConfig(**{"embedding_dim": 9, "knn_k": 4, **settings})
    graph = LIRDRec.graph_transform(config)(build_graph(train, features, num_users=NUM_USERS))
    if backend != "raw":
        graph = LIRDRec.input_transform(config, backend)(graph)
    torch.manual_seed(seed)
    model = LIRDRec.from_config(config, graph)
    for _ in range(3):
        model.start_epoch()
        model(graph)
    return model, graph


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("num_layers", "num_item_layers", "dct"),
    [(0, 1, "feature"), (1, 0, "feature"), (2, 1, "feature"), (2, 2, "2d"), (3, 1, "feature"), (6, 1, "feature")],
)
def test_users_and_items_are_those_of_forward_to_the_last_bit(
    num_layers: int, num_item_layers: int, dct: str, backend: str
) -> None:
    model, graph = make(backend, num_layers=num_layers, num_item_layers=num_item_layers, dct=dct)
    user, item = model.eval()(graph)
    vectors = model.vectors(graph)
    assert torch.equal(vectors.user, user)
    assert torch.equal(vectors.item, item)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_layers_are_those_of_the_propagation_and_sum_to_what_the_item_graph_takes(num_layers: int) -> None:
    model, graph = make(num_layers=num_layers)
    vectors = model.vectors(graph)
    assert vectors.item_layers.shape == (num_layers + 1, NUM_ITEMS, 27)

    user, item = graph[INTERACTS].edge_index
    adj = torch.zeros(NUM_USERS, NUM_ITEMS)
    adj[user, item] = 1.0
    adj *= (adj.sum(dim=1, keepdim=True) + 1e-7).rsqrt() * (adj.sum(dim=0) + 1e-7).rsqrt()
    similar = torch.zeros(NUM_ITEMS, NUM_ITEMS)
    similar[graph[SIMILAR].edge_index[1], graph[SIMILAR].edge_index[0]] = graph[SIMILAR].edge_weight
    x_user = torch.nn.functional.normalize(model.user.detach(), dim=-1).flatten(start_dim=1)
    x_item = model.encode_items(graph).detach().flatten(start_dim=1)
    for layer in vectors.item_layers:
        torch.testing.assert_close(layer, x_item, rtol=1e-4, atol=1e-6)
        x_user, x_item = adj @ x_item, adj.T @ x_user
    total = vectors.item_layers.sum(dim=0)
    torch.testing.assert_close(vectors.item, total + similar @ total, rtol=1e-4, atol=1e-6)


def test_user_weights_are_those_by_which_the_branches_were_scaled() -> None:
    model, graph = make()
    vectors = model.vectors(graph)
    assert vectors.user_weight.shape == (NUM_USERS, 3)
    torch.testing.assert_close(vectors.user_weight.sum(dim=1), torch.ones(NUM_USERS))
    user, _ = model.bipartite_conv(*model._inputs(graph))
    expected = vectors.user_weight.unsqueeze(-1) * model.split_branches(user)
    torch.testing.assert_close(vectors.user, expected.flatten(start_dim=1).detach())


@pytest.mark.parametrize("training", [True, False])
def test_making_vectors_leaves_no_trace(training: bool) -> None:
    model, graph = make()
    model.train(training)
    model.item_conv.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    with torch.no_grad():
        model.user.mul_(-1.0)
    before["user"].mul_(-1.0)
    vectors = model.vectors(graph)
    assert not any(x.requires_grad for x in vars(vectors).values())
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_graph_without_the_item_graph_has_no_vectors() -> None:
    model, graph = make()
    del graph[SIMILAR]
    with pytest.raises(DataError, match="lacks the item graph"):
        model.vectors(graph)
    assert SIMILAR not in graph.edge_types


def test_items_are_parted_and_joined_again() -> None:
    model, graph = make()
    vectors = model.vectors(graph)
    for first in (0, 5, NUM_ITEMS):
        known, new = vectors.items_until(first), vectors.items_from(first)
        assert (len(known.item), len(new.item)) == (first, NUM_ITEMS - first)
        assert known.item_layers.shape[1] == first
        joined = known.append_items(new.item, new.item_layers)
        for name, x in vars(vectors).items():
            assert torch.equal(getattr(joined, name), x)


def test_vectors_move_to_a_device() -> None:
    model, graph = make()
    moved = model.vectors(graph).to("meta")
    assert isinstance(moved, Vectors)
    assert {x.device.type for x in vars(moved).values()} == {"meta"}
