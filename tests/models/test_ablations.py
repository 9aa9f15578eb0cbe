"""LIRDRec without one of its parts, or with one more; what holds for all models is in test_contract.py."""

from typing import Any

import pytest
import torch
from small_graph import NUM_ITEMS, prepared, small_graph
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import SIMILAR
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig


def make(graph: HeteroData | None = None, **settings: Any) -> tuple[LIRDRec, HeteroData]:
    return prepared(LIRDRecConfig(embedding_dim=4, knn_k=3, **settings), graph)


def test_branches() -> None:
    assert make()[0].branches == ("image", "text", "shared")
    assert make(dct="none")[0].branches == ("image", "text")
    assert make(id_branch=True)[0].branches == ("image", "text", "shared", "id")
    assert make(only_modality="text")[0].branches == ("text", "shared")


def test_without_the_item_graph_items_are_the_sum_of_the_layers() -> None:
    without, data = make(item_graph=False)
    assert SIMILAR not in data.edge_types
    assert without.sampling_depth() == (2, 0)
    with_graph, other = make()
    assert with_graph.sampling_depth() == (2, 1)
    with_graph.load_state_dict(without.state_dict())
    vectors = with_graph.vectors(other)
    torch.testing.assert_close(without.vectors(data).item, vectors.item_layers.sum(dim=0))
    assert not torch.allclose(without.vectors(data).item, vectors.item, atol=1e-3)


def test_one_modality_is_a_model_that_never_saw_the_other() -> None:
    model, data = make(only_modality="text")
    changed = small_graph()
    changed["item"].x_image = torch.randn(NUM_ITEMS, 6)
    assert all(map(torch.equal, model(data), model(make(changed, only_modality="text")[1])))
    assert "x_image" in changed["item"]
    with pytest.raises(ConfigError, match=r"only.modality.*'sound'.*image.*text"):
        make(only_modality="sound")


def test_the_id_branch_has_a_free_vector_for_each_item() -> None:
    model, data = make(id_branch=True)
    expected = model.item_id / model.item_id.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.encode_items(data)[:, -1], expected)
