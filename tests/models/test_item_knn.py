import numpy as np
import pytest
import torch
from small_graph import NUM_ITEMS, NUM_USERS, interactions, prepared, small_graph

from lirdrec_pyg.config import ItemKNNConfig
from lirdrec_pyg.data import INTERACTS, build_graph
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.models import item_knn
from lirdrec_pyg.nn import SeenItems


def bonds(taken: np.ndarray, user_power: float, item_power: float) -> np.ndarray:
    """By loops: a row for each item that a user has, a column for each that may be recommended."""
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
def test_with_all_neighbours_scores_are_those_of_the_whole_matrix(user_power: float, item_power: float) -> None:
    graph = small_graph()
    config = ItemKNNConfig(num_neighbours=100, user_power=user_power, item_power=item_power)
    model, data = prepared(config, graph)
    model.fit(data)
    taken = interactions(graph).numpy()
    expected = bonds(taken, user_power, item_power)
    expected /= np.maximum(expected.sum(axis=1, keepdims=True), 1e-12)
    scores = model.scores(SeenItems.of(graph[INTERACTS].edge_index, NUM_USERS), torch.arange(NUM_USERS))
    assert np.allclose(scores.numpy(), taken @ expected, atol=1e-6)


@pytest.mark.parametrize("block_bytes", [64 * 2**20, 4 * 100 * 7])
def test_each_item_keeps_its_nearest_neighbours(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_knn, "_BLOCK_BYTES", block_bytes)
    graph = synthetic_data(num_users=200, num_items=100).graph
    model, data = prepared(ItemKNNConfig(num_neighbours=4, user_power=0.5, item_power=0.5), graph)
    model.fit(data)
    full = bonds(interactions(graph).numpy(), 0.5, 0.5)
    best = -np.sort(-full, axis=1)[:, :4]
    total = best.sum(axis=1, keepdims=True)
    # Equal bonds leave a choice of neighbours, but not of their similarities.
    expected = best / np.where(total > 0, total, 1)
    assert np.allclose(model.similarity.numpy(), expected, atol=1e-6)
    chosen = np.take_along_axis(full, model.neighbour.numpy(), axis=1)
    assert np.allclose(chosen, best, atol=1e-6)
    assert not (model.neighbour == torch.arange(100).unsqueeze(1)).any()


def test_neighbours_are_those_of_what_the_user_has() -> None:
    """A hub is the best neighbour of all others, and has itself room for one only."""
    pairs = [(u, 0) for u in range(6)] + [(0, 1), (1, 1), (2, 2), (3, 3), (4, 4)]
    graph = build_graph(torch.tensor(pairs).T, {"m": torch.randn(5, 2)}, num_users=6)
    model, data = prepared(ItemKNNConfig(num_neighbours=1), graph)
    model.fit(data)
    assert model.neighbour.view(-1).tolist() == [1, 0, 0, 0, 0]
    scores = model.scores(SeenItems.of(graph[INTERACTS].edge_index, 6), torch.tensor([5, 4]))
    assert scores.tolist() == [[0, 1, 0, 0, 0], [1, 1, 0, 0, 0]]


def test_a_few_users_who_have_everything_make_no_neighbours() -> None:
    """Of pairs that belong together, beside users who take items at random in masses."""
    rng = np.random.default_rng(0)
    taken = np.zeros((110, 100))
    for user in range(100):
        pair = rng.integers(50)
        taken[user, [2 * pair, 2 * pair + 1]] = 1
    taken[100:] = rng.random((10, 100)) < 0.6
    taken[100:, :2] = 1
    graph = build_graph(np.stack(np.nonzero(taken)), {"m": torch.randn(100, 2)}, num_users=110)
    alone = np.flatnonzero(taken[:100].sum(axis=0))

    def share_of_partners(user_power: float) -> float:
        model, data = prepared(ItemKNNConfig(num_neighbours=1, user_power=user_power), graph)
        model.fit(data)
        return float(np.mean(model.neighbour[alone, 0].numpy() == (alone ^ 1)))

    assert share_of_partners(ItemKNNConfig().user_power) == 1
    assert share_of_partners(0.0) < 0.5


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
