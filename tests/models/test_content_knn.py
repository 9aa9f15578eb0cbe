import numpy as np
import pytest
import torch
from small_graph import NUM_ITEMS, NUM_USERS, interactions, prepared, small_graph

from lirdrec_pyg.config import ContentKNNConfig
from lirdrec_pyg.data import INTERACTS, build_graph
from lirdrec_pyg.nn import SeenItems


def brute_force(features: list[np.ndarray], masks: list[np.ndarray], taken: np.ndarray, k: int) -> np.ndarray:
    units = [
        np.where(mask[:, None], x / np.linalg.norm(x, axis=1, keepdims=True), 0) for x, mask in zip(features, masks)
    ]
    joined = np.concatenate(units, axis=1)
    scores = np.zeros(taken.shape)
    for item in range(len(joined)):
        own = np.linalg.norm(joined[item])
        if not own:
            continue
        cosine = {
            other: joined[item] @ joined[other] / own / np.linalg.norm(joined[other])
            for other in range(len(joined))
            if other != item and joined[other].any()
        }
        for other in sorted(cosine, key=lambda j: -cosine[j])[:k]:
            scores[:, item] += taken[:, other] * max(0.0, cosine[other])
    return scores


@pytest.mark.parametrize("k", [1, 3, 50])
def test_scores_are_those_of_brute_force(k: int) -> None:
    graph = small_graph()
    model, data = prepared(ContentKNNConfig(knn_k=k), graph)
    model.fit(data)
    features = [graph["item"].x_image.numpy(), graph["item"].x_text.numpy()]
    expected = brute_force(features, [np.ones(NUM_ITEMS, bool)] * 2, interactions(graph).numpy(), k)
    history = SeenItems.of(graph[INTERACTS].edge_index, NUM_USERS)
    scores = model.scores(history, torch.arange(NUM_USERS))
    assert np.allclose(scores.numpy(), expected, atol=1e-6)
    # Some users, in any order.
    assert np.allclose(model.scores(history, torch.tensor([4, 1])).numpy(), expected[[4, 1]], atol=1e-6)


def test_an_item_without_features_is_no_ones_neighbour() -> None:
    graph = small_graph()
    masks = {"image": np.ones(NUM_ITEMS, bool), "text": np.ones(NUM_ITEMS, bool)}
    masks["image"][[2, 4]] = masks["text"][[2, 5]] = False
    features = {m: graph["item"][f"x_{m}"] for m in masks}
    graph = build_graph(graph[INTERACTS].edge_index, features, masks=masks, num_users=NUM_USERS)
    model, data = prepared(ContentKNNConfig(knn_k=3), graph)
    model.fit(data)
    xs = [graph["item"].x_image.numpy(), graph["item"].x_text.numpy()]
    expected = brute_force(xs, list(masks.values()), interactions(graph).numpy(), 3)
    scores = model.scores(SeenItems.of(graph[INTERACTS].edge_index, NUM_USERS), torch.arange(NUM_USERS))
    assert np.allclose(scores.numpy(), expected, atol=1e-6)
    assert not scores[:, 2].any()
