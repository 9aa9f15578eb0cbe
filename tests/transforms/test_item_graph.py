import copy

import pytest
import torch
from brute_force import nearest_by_cosine
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, SIMILAR, build_graph, feature_mask, item_features, modalities
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.transforms import (
    AddItemKNN,
    CacheAdjacency,
    NormalizeBipartite,
    modality_weights,
)


def dense(data: HeteroData) -> Tensor:
    """The item graph with one row per item and one column per neighbor."""
    neighbor, item = data[SIMILAR].edge_index
    matrix = torch.zeros(data["item"].num_nodes, data["item"].num_nodes)
    return matrix.index_put((item, neighbor), data[SIMILAR].edge_weight, accumulate=True)


def test_rows_of_the_graph_sum_to_one(graph: HeteroData) -> None:
    for k in (1, 3, 50):
        torch.testing.assert_close(dense(AddItemKNN(k)(graph)).sum(dim=1), torch.ones(9))


@pytest.mark.parametrize("weights", [{}, {"text": 0.25}, {"image": 3.0, "text": 1.0}, {"image": 0.0}])
def test_graph_is_the_weighted_sum_over_the_modalities(graph: HeteroData, weights: dict[str, float]) -> None:
    shares = {"image": 0.1, "text": 0.9} if not weights else modality_weights(("image", "text"), weights)
    expected = torch.zeros(9, 9)
    for modality in modalities(graph):
        nearest = nearest_by_cosine(item_features(graph, modality), 3, feature_mask(graph, modality))
        for item, neighbors in enumerate(nearest):
            expected[item, neighbors] += shares[modality] / (len(neighbors) + 1e-7)
    data = AddItemKNN(3, weights)(graph)
    torch.testing.assert_close(dense(data), expected)
    assert data[SIMILAR].edge_index.size(1) == int((expected > 0).sum())


def test_graph_is_directed() -> None:
    # Item 2 is nearest to 1, but 1 is nearer to 0.
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.5]])
    matrix = dense(AddItemKNN(2)(build_graph(torch.zeros(2, 1, dtype=torch.long), {"m": x})))
    assert (matrix > 0).tolist() == [[True, True, False], [True, True, False], [False, True, True]]


def test_modality_weights() -> None:
    cases: list[tuple[tuple[str, ...], dict[str, float], dict[str, float]]] = [
        (("image",), {}, {"image": 1.0}),
        (("image", "text"), {}, {"image": 0.1, "text": 0.9}),
        (("text", "image"), {}, {"text": 0.9, "image": 0.1}),
        (("text", "audio"), {}, {"text": 0.5, "audio": 0.5}),
        (("image", "text", "audio"), {}, {"image": 0.1, "text": 0.45, "audio": 0.45}),
        (("image", "text"), {"text": 0.3}, {"image": 0.7, "text": 0.3}),
        (("image", "text"), {"text": 1.0}, {"image": 0.0, "text": 1.0}),
        (("image", "text"), {"image": 2.0, "text": 6.0}, {"image": 0.25, "text": 0.75}),
        (("a",), {"a": 0.2}, {"a": 1.0}),
    ]
    for names, given, expected in cases:
        weights = modality_weights(names, given)
        assert weights == pytest.approx(expected)
        assert tuple(weights) == names


def test_invalid_modality_weights_are_refused() -> None:
    cases: list[tuple[dict[str, float], str]] = [
        ({"video": 0.5}, "'video' in `graph_weights`.*image, text"),
        ({"text": -0.1}, "'text' in `graph_weights` is -0.1"),
        ({"text": float("nan")}, "'text' in `graph_weights` is nan"),
        ({"text": float("inf")}, "'text' in `graph_weights` is inf"),
        ({"image": 0.0, "text": 0.0}, "All weights in `graph_weights` are 0"),
        ({"image": 1.5}, "`graph_weights` sums to 1.5.*text"),
    ]
    for given, message in cases:
        with pytest.raises(ConfigError, match=message):
            modality_weights(("image", "text"), given)


def test_graphs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="`k` is 0"):
        AddItemKNN(k=0)
    with pytest.raises(DataError, match="no features"):
        AddItemKNN(k=2)(HeteroData())


def test_the_input_graph_is_not_modified(graph: HeteroData) -> None:
    before = copy.deepcopy(graph)
    AddItemKNN(3)(graph)
    assert graph.edge_types == before.edge_types
    assert list(graph["item"].keys()) == list(before["item"].keys())
    assert torch.equal(item_features(graph, "image"), item_features(before, "image"))


def test_repr() -> None:
    assert repr(AddItemKNN(3, {"text": 0.5})) == "AddItemKNN(k=3, weights={'text': 0.5}, search='auto')"


def test_a_cached_adjacency_of_an_old_item_graph_is_removed(graph: HeteroData) -> None:
    prepared = CacheAdjacency()(NormalizeBipartite()(AddItemKNN(2)(graph)))
    data = AddItemKNN(5)(prepared)
    assert "adj_t" not in data[SIMILAR]
    torch.testing.assert_close(CacheAdjacency()(data)[SIMILAR].adj_t.to_dense(), dense(data))
    torch.testing.assert_close(prepared[SIMILAR].adj_t.to_dense(), dense(prepared))
    for edge_type in (INTERACTS, INTERACTED_BY):
        assert data[edge_type].adj_t is prepared[edge_type].adj_t
