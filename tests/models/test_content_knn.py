import numpy as np
import pytest
import torch
from small_graph import NUM_ITEMS, NUM_USERS, fitted, interactions, small_graph

from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.models import ContentKNNConfig
from lirdrec_pyg.nn import SeenItems


def brute_force(features: list[np.ndarray], masks: list[np.ndarray], taken: np.ndarray, k: int) -> np.ndarray:
    units = [
        np.where(mask[:, None], x / np.linalg.norm(x, axis=1, keepdims=True), 0) for x, mask in zip(features, masks)
    ]
    joined = np.concatenate(units, axis=1)
    norm = np.linalg.norm(joined, axis=1)
    scores = np.zeros(taken.shape)
    for item in norm.nonzero()[0]:
        cosine = {
            other: joined[item] @ joined[other] / norm[item] / norm[other]
            for other in norm.nonzero()[0]
            if other != item
        }
        for other in sorted(cosine, key=lambda j: -cosine[j])[:k]:
            scores[:, item] += taken[:, other] * max(0.0, cosine[other])
    return scores


@pytest.mark.parametrize("masked", [False, True])
def test_scores_are_those_of_brute_force(masked: bool) -> None:
    """Item 2 has no features at all, so it is not a neighbor of any item."""
    masks = {"image": np.ones(NUM_ITEMS, bool), "text": np.ones(NUM_ITEMS, bool)}
    if masked:
        masks["image"][[2, 4]] = masks["text"][[2, 5]] = False
    graph = small_graph(masks=masks if masked else None)
    features = [graph["item"].x_image.numpy(), graph["item"].x_text.numpy()]
    for k in (1, 3, 50):
        expected = brute_force(features, list(masks.values()), interactions(graph).numpy(), k)
        model, _ = fitted(ContentKNNConfig(knn_k=k), graph)
        scores = model.scores(SeenItems.of(graph[INTERACTS].edge_index, NUM_USERS), torch.arange(NUM_USERS))
        assert np.allclose(scores.numpy(), expected, atol=1e-6)
        assert not (masked and scores[:, 2].any())
