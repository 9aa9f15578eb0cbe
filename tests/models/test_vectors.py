from typing import Any

import pytest
import torch
from dense_lirdrec import DenseLIRDRec
from small_graph import BACKENDS, NUM_ITEMS, NUM_USERS, dense, prepared, small_graph
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import SIMILAR
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig, Vectors, layerwise_vectors


def make(backend: Any = "torch", **settings: Any) -> tuple[LIRDRec, HeteroData]:
    """A model in its third epoch, and its graph."""
    model, graph = prepared(LIRDRecConfig(embedding_dim=5, knn_k=4, **settings), backend=backend)
    for _ in range(3):
        model.start_epoch()
        model(graph)
    return model, graph


def test_layers_and_weights_are_those_of_the_propagation() -> None:
    for num_layers in (0, 1, 3):
        model, graph = make(num_layers=num_layers)
        vectors = model.vectors(graph)
        torch.testing.assert_close(vectors.item_layers, DenseLIRDRec(model, graph).item_layers(), rtol=1e-5, atol=1e-6)
        total = vectors.item_layers.sum(dim=0)
        expected = total + dense(graph[SIMILAR], NUM_ITEMS) @ total
        torch.testing.assert_close(vectors.item, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(vectors.user_weight.sum(dim=1), torch.ones(NUM_USERS).double())
        user = model.split_branches(model.bipartite_conv(*model._inputs(graph))[0])
        expected = (vectors.user_weight.unsqueeze(-1) * user).flatten(start_dim=1)
        torch.testing.assert_close(vectors.user, expected.detach())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_layers": 3, "num_item_layers": 2},
        {"num_layers": 0, "num_item_layers": 0},
        {"dct": "2d"},
        {"dct": "none", "item_graph": False},
        {"loss": "softmax"},
    ],
    ids=str,
)
def test_layerwise_vectors_equal_those_of_one_pass(settings: dict[str, Any], backend: str) -> None:
    model, data = make(backend, **settings)
    model.float()
    expected = model.vectors(data)
    config = LIRDRecConfig(knn_k=4, **settings)
    stored = LIRDRec.graph_transform(config)(small_graph())
    for source in (LIRDRec.sampling_transform(config)(stored), data):
        # Blocks with a remainder, of one row, and larger than all.
        for block_rows in (3, 1, 1000):
            found = layerwise_vectors(model, source, block_rows)
            torch.testing.assert_close(vars(found), vars(expected), rtol=0, atol=1e-5)
    assert model.training
    assert not found.user.requires_grad


def test_items_are_split_and_joined() -> None:
    vectors = (lambda model, graph: model.vectors(graph))(*make())
    for first in (0, 5, NUM_ITEMS):
        known, new = vectors.items_until(first), vectors.items_from(first)
        assert (len(known.item), len(new.item)) == (first, NUM_ITEMS - first)
        assert known.item_layers.shape[1] == first
        joined = known.append_items(new.item, new.item_layers, new.linear)
        torch.testing.assert_close(vars(joined), vars(vectors), rtol=0, atol=0)
    moved = vectors.to("meta")
    assert isinstance(moved, Vectors)
    assert {x.device.type for x in vars(moved).values()} == {"meta"}
