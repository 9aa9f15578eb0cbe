import numpy as np
import torch
from brute_force import nearest_by_cosine
from small_graph import NUM_ITEMS, NUM_USERS, small_graph

from lirdrec_pyg.data import INTERACTS, build_graph, check_graph, feature_mask, item_features
from lirdrec_pyg.transforms import AddItemHypergraph, similar_by


def test_items_are_joined_by_the_neighbors_they_have_in_common() -> None:
    start = small_graph()
    features = {m: item_features(start, m) for m in ("image", "text")}
    masks = {"text": np.array([True] * 5 + [False] * 3)}
    graph = build_graph(start[INTERACTS].edge_index, features, masks=masks, num_users=NUM_USERS)
    graph = AddItemHypergraph(3)(graph)
    check_graph(graph)
    joined, found = torch.zeros(2, NUM_ITEMS, NUM_ITEMS, dtype=torch.double)
    for modality in features:
        neighbors = nearest_by_cosine(item_features(graph, modality).double(), 3, feature_mask(graph, modality))
        joined += torch.tensor([[len(set(a) & set(b)) for b in neighbors] for a in neighbors])
        store = graph[similar_by(modality)]
        incidence = torch.zeros(NUM_ITEMS, NUM_ITEMS, dtype=torch.double)
        incidence[tuple(store.edge_index.flip([0]))] = store.edge_weight.double()
        found += incidence @ incidence.T
    scale = joined.sum(dim=1) ** -0.5
    torch.testing.assert_close(found, scale[:, None] * joined * scale, rtol=1e-5, atol=1e-6)
