import numpy as np
import pytest
import torch
from small_graph import NUM_ITEMS, NUM_USERS, fitted, interactions, prepared, small_graph

from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models import EASE, EASEConfig, closed_form
from lirdrec_pyg.nn import SeenItems


def columns_by_regression(taken: np.ndarray, l2: float) -> np.ndarray:
    """Ridge regression of each item on all others, which is what the closed form minimizes."""
    num_items = taken.shape[1]
    weight = np.zeros((num_items, num_items))
    for item in range(num_items):
        others = np.delete(np.arange(num_items), item)
        x = taken[:, others]
        weight[others, item] = np.linalg.solve(x.T @ x + l2 * np.eye(num_items - 1), x.T @ taken[:, item])
    return weight


@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_weights_are_those_of_a_regression_for_each_item(l2: float) -> None:
    graph = small_graph()
    model, _ = fitted(EASEConfig(l2=l2), graph)
    taken = interactions(graph).numpy()
    expected = columns_by_regression(taken, l2)
    assert np.allclose(model.weight.numpy(), expected, atol=1e-6)
    assert not model.weight.diagonal().any()
    scores = model.scores(SeenItems.of(graph[INTERACTS].edge_index, NUM_USERS), torch.tensor([3, 8, 0]))
    assert np.allclose(scores.numpy(), (taken @ expected)[[3, 8, 0]], atol=1e-6)


def test_too_many_items_are_rejected_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"20,001 items.*`k_core`.*item-knn"):
        EASE(20_001)
    monkeypatch.setattr(closed_form, "MAX_ITEMS", NUM_ITEMS - 1)
    with pytest.raises(DataError, match="`k_core`"):
        prepared(EASEConfig())
