import numpy as np
import pytest
import torch
from small_graph import NUM_ITEMS, NUM_USERS, interactions, prepared, small_graph

from lirdrec_pyg.config import ItemKNNConfig
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.models import item_knn
from lirdrec_pyg.nn import SeenItems


def similarity(taken: np.ndarray, shrink: float) -> np.ndarray:
    count = taken.sum(axis=0)
    found = taken.T @ taken / np.maximum(np.sqrt(np.outer(count, count)) + shrink, 1e-12)
    np.fill_diagonal(found, 0)
    return found


@pytest.mark.parametrize("shrink", [0.0, 5.0])
def test_with_all_neighbours_scores_are_those_of_the_cosine_matrix(shrink: float) -> None:
    graph = small_graph()
    model, data = prepared(ItemKNNConfig(num_neighbours=100, shrink=shrink), graph)
    model.fit(data)
    taken = interactions(graph).numpy()
    scores = model.scores(SeenItems.of(graph[INTERACTS].edge_index, NUM_USERS), torch.arange(NUM_USERS))
    assert np.allclose(scores.numpy(), taken @ similarity(taken, shrink), atol=1e-6)


@pytest.mark.parametrize("block_bytes", [64 * 2**20, 4 * 100 * 7])
def test_each_item_keeps_its_most_similar_neighbours(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_knn, "_BLOCK_BYTES", block_bytes)
    graph = synthetic_data(num_users=200, num_items=100).graph
    model, data = prepared(ItemKNNConfig(num_neighbours=4, shrink=1.0), graph)
    model.fit(data)
    taken = interactions(graph).numpy()
    full = similarity(taken, 1.0)
    # Equal similarities leave a choice of neighbours, but not of their similarities.
    assert np.allclose(model.similarity.numpy(), -np.sort(-full, axis=1)[:, :4], atol=1e-6)
    chosen = np.take_along_axis(full, model.neighbour.numpy(), axis=1)
    assert np.allclose(model.similarity.numpy(), chosen, atol=1e-6)
    assert not (model.neighbour == torch.arange(100).unsqueeze(1)).any()


def test_a_saved_model_is_the_fitted_one() -> None:
    graph = small_graph()
    model, data = prepared(ItemKNNConfig(num_neighbours=3), graph)
    model.fit(data)
    other = prepared(ItemKNNConfig(num_neighbours=3), graph)[0].float()
    other.load_state_dict(model.state_dict())
    assert other.neighbour.shape == (NUM_ITEMS, 3)
    one, two = (next(iter(m.ranker(data).top_k(torch.arange(5), 4))) for m in (model, other))
    assert torch.equal(one.score, two.score)
    assert torch.equal(one.item, two.item)
