import numpy as np
import pytest
import torch
from small_graph import NUM_USERS, fitted, graph_of, interactions, small_graph

from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.models import ItemKNNConfig, item_knn
from lirdrec_pyg.nn import SeenItems


def bonds(taken: np.ndarray, user_power: float, item_power: float) -> np.ndarray:
    """p_ji by loops: a row for each item of a user, a column for each item that may be recommended."""
    num_items = taken.shape[1]
    found = np.zeros((num_items, num_items))
    for row in taken:
        had = np.flatnonzero(row)
        for j in had:
            for i in had:
                if i != j:
                    found[j, i] += len(had) ** -user_power / taken[:, i].sum() ** item_power
    return found


@pytest.mark.parametrize(("user_power", "item_power"), [(0.5, 0.0), (1.0, 0.25), (0.0, 0.5)])
def test_with_all_neighbors_scores_are_those_of_the_whole_matrix(user_power: float, item_power: float) -> None:
    graph = small_graph()
    model, _ = fitted(ItemKNNConfig(num_neighbors=100, user_power=user_power, item_power=item_power), graph)
    taken = interactions(graph).numpy()
    expected = bonds(taken, user_power, item_power)
    expected /= np.maximum(expected.sum(axis=1, keepdims=True), 1e-12)
    scores = model.scores(SeenItems.of(graph[INTERACTS].edge_index, NUM_USERS), torch.arange(NUM_USERS))
    assert np.allclose(scores.numpy(), taken @ expected, atol=1e-6)


@pytest.mark.parametrize("block_bytes", [64 * 2**20, 4 * 50 * 7])
def test_each_item_keeps_its_nearest_neighbors(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_knn, "_BLOCK_BYTES", block_bytes)
    taken = (np.random.default_rng(0).random((80, 50)) < 0.1).astype(float)
    model, _ = fitted(ItemKNNConfig(num_neighbors=4, user_power=0.5, item_power=0.5), graph_of(taken))
    full = bonds(taken, 0.5, 0.5)
    best = -np.sort(-full, axis=1)[:, :4]
    total = best.sum(axis=1, keepdims=True)
    # Neighbors with equal bonds may differ, their similarities may not.
    assert np.allclose(model.similarity.numpy(), best / np.where(total > 0, total, 1), atol=1e-6)
    assert np.allclose(np.take_along_axis(full, model.neighbor.numpy(), axis=1), best, atol=1e-6)
    assert not (model.neighbor == torch.arange(50).unsqueeze(1)).any()


def test_neighbors_are_those_of_the_items_in_the_history() -> None:
    """A hub is the best neighbor of all others, but has only one neighbor itself."""
    taken = np.zeros((6, 5))
    taken[:, 0] = 1
    taken[[0, 1, 2, 3, 4], [1, 1, 2, 3, 4]] = 1
    model, data = fitted(ItemKNNConfig(num_neighbors=1), graph_of(taken))
    assert model.neighbor.view(-1).tolist() == [1, 0, 0, 0, 0]
    scores = model.scores(SeenItems.of(data[INTERACTS].edge_index, 6), torch.tensor([5, 4]))
    assert scores.tolist() == [[0, 1, 0, 0, 0], [1, 1, 0, 0, 0]]


def test_a_few_users_with_very_many_items_do_not_determine_neighbors() -> None:
    """Pairs of items that belong together, besides users with many random items."""
    rng = np.random.default_rng(0)
    taken = np.zeros((110, 100))
    for user in range(100):
        pair = rng.integers(50)
        taken[user, [2 * pair, 2 * pair + 1]] = 1
    taken[100:] = rng.random((10, 100)) < 0.6
    taken[100:, :2] = 1
    paired = np.flatnonzero(taken[:100].sum(axis=0))

    def share_of_partners(**settings: float) -> float:
        model, _ = fitted(ItemKNNConfig(num_neighbors=1, **settings), graph_of(taken))
        return float(np.mean(model.neighbor[paired, 0].numpy() == (paired ^ 1)))

    assert share_of_partners() == 1
    assert share_of_partners(user_power=0.0) < 0.5
