import numpy as np
import pytest
import torch
from small_graph import NUM_ITEMS, NUM_USERS, WIDTHS, fitted, interactions, small_graph

from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import MMGFConfig, mm_gf
from lirdrec_pyg.nn import SeenItems

WITH_FEATURES = np.arange(NUM_ITEMS) != 2


def normalized(matrix: np.ndarray, alpha: float) -> np.ndarray:
    found = np.zeros_like(matrix)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        found[row, column] = matrix[row, column] / (matrix[row].sum() ** alpha * matrix[:, column].sum() ** (1 - alpha))
    return found


def refined(x: np.ndarray) -> np.ndarray:
    low, median, high = np.percentile(x, [25, 50, 75], axis=0)
    scaled = (x - median) / (high - low)
    return scaled - scaled.min()


def graphs(alpha: float, power: float, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The filtered graph of the interactions, and the graphs of the image and the text."""
    graph = small_graph(masks={"image": WITH_FEATURES})
    taken = normalized(interactions(graph).numpy(), alpha)
    filtered = (taken.T @ taken) ** power
    if order == 2:
        filtered = 2 * filtered - filtered @ filtered
    image = np.zeros((NUM_ITEMS, WIDTHS["image"]))
    image[WITH_FEATURES] = refined(graph["item"]["x_image"].numpy().astype(float)[WITH_FEATURES])
    text = refined(graph["item"]["x_text"].numpy().astype(float))
    of_features = [(normalized(x, alpha) @ normalized(x, alpha).T) ** power for x in (image, text)]
    return filtered, *of_features


def scale(graph: np.ndarray) -> float:
    """The root mean square of the differences from the mean of each row, without the diagonal."""
    total = 0.0
    for item, row in enumerate(graph):
        others = np.delete(row, item)
        total += ((others - others.mean()) ** 2).sum()
    return (total / graph.size) ** 0.5


@pytest.mark.parametrize(("alpha", "power", "order", "block"), [(0.3, 0.7, 1, 2**24), (0.5, 1.5, 2, 2 * NUM_ITEMS)])
def test_unseen_items_rank_as_by_the_weighted_sum_of_the_graphs(
    alpha: float, power: float, order: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mm_gf, "_QUANTILE_VALUES", block)
    config = MMGFConfig(alpha, power, order, modality_weight=0.6, graph_weights={"image": 0.25})
    model, data = fitted(config, small_graph(masks={"image": WITH_FEATURES}))
    filtered, image, text = graphs(alpha, power, order)
    total = filtered / scale(filtered) + 0.6 * (0.25 * image / scale(image) + 0.75 * text / scale(text))
    taken = interactions(data).numpy()
    expected = taken @ total
    found = model.scores(SeenItems.of(data[INTERACTS].edge_index, NUM_USERS), torch.arange(NUM_USERS)).numpy()
    for user in range(NUM_USERS - 1):
        unseen = taken[user] == 0
        # Constants of a user change no ranking.
        assert np.allclose(
            found[user, unseen] - found[user, unseen].mean(),
            expected[user, unseen] - expected[user, unseen].mean(),
            atol=1e-5,
        )
    assert not model.weight.diagonal().any()


def test_equal_features_change_nothing() -> None:
    graph = small_graph()
    graph["item"]["x_text"], graph["item"]["x_image"] = torch.ones(NUM_ITEMS, 2), torch.zeros(NUM_ITEMS, 3)
    model, _ = fitted(MMGFConfig(), graph)
    without, _ = fitted(MMGFConfig(modality_weight=0.0), graph)
    assert torch.equal(model.weight, without.weight)


def test_unknown_modalities_are_rejected() -> None:
    with pytest.raises(ConfigError, match="'audio' in `graph_weights`"):
        fitted(MMGFConfig(graph_weights={"audio": 0.5}))
