import numpy as np
import pytest
import torch
from brute_force import nearest_by_cosine
from small_graph import NUM_ITEMS, small_graph

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, build_graph, check_graph, feature_mask, item_features
from lirdrec_pyg.transforms import AddModalityKNN, CacheAdjacency, NormalizeBipartite, edge_cosines, similar_by


def test_each_modality_has_the_normalized_cosines_of_its_neighbors() -> None:
    masks = {"text": np.array([True] * 5 + [False] * 3)}
    start = small_graph()
    features = {m: item_features(start, m) for m in ("image", "text")}
    graph = AddModalityKNN(3)(build_graph(start[INTERACTS].edge_index, features, masks=masks, num_users=9))
    check_graph(graph)
    for modality in features:
        x, mask = item_features(graph, modality).double(), feature_mask(graph, modality)
        cosine = torch.zeros(NUM_ITEMS, NUM_ITEMS, dtype=torch.double)
        for item, neighbors in enumerate(nearest_by_cosine(x, 3, mask)):
            for other in neighbors:
                similarity = x[item] @ x[other] / x[item].norm() / x[other].norm()
                cosine[item, other] = 1.0 if item == other else max(0.0, float(similarity))
        scale = cosine.sum(dim=1) ** -0.5
        store = graph[similar_by(modality)]
        found = torch.zeros_like(cosine)
        found[tuple(store.edge_index.flip([0]))] = store.edge_weight.double()
        assert torch.allclose(found, scale[:, None] * cosine * scale, atol=1e-6)


def test_their_adjacencies_are_cached() -> None:
    graph = CacheAdjacency()(NormalizeBipartite()(AddModalityKNN(3)(small_graph())))
    assert all("adj_t" in graph[edge_type] for edge_type in graph.edge_types)
    assert {INTERACTS, INTERACTED_BY, similar_by("image"), similar_by("text")} == set(graph.edge_types)


def test_cosines_of_edges_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.transforms.modality_graphs._BLOCK_BYTES", 8 * 4 * 7)
    x = torch.randn(50, 4)
    edge_index = torch.randint(50, (2, 300))
    expected = torch.nn.functional.cosine_similarity(x[edge_index[0]], x[edge_index[1]])
    assert torch.allclose(edge_cosines(x, edge_index), expected, atol=1e-6)
