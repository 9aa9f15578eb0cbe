"""The linear branch against its formulas, with dense matrices in float64."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_graph import NUM_ITEMS, NUM_USERS, interactions, prepared, small_graph
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import item_features
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import LIRDRecConfig, Vectors
from lirdrec_pyg.models import linear as linear_module
from lirdrec_pyg.models.linear import completed, linear_items, linear_ranker, linear_weights, with_linear
from lirdrec_pyg.nn import DotProducts, SeenItems

L2, CONTENT = 30.0, {"text": 0.7, "image": 2.0}


def formula(data: HeteroData) -> tuple[Tensor, Tensor]:
    """The normalized interactions, and B."""
    taken = interactions(data)
    degree = [taken.sum(dim=side, keepdim=True).clamp(min=1) for side in (1, 0)]
    x = taken * degree[0] ** -0.25 * degree[1] ** -0.25
    gram = x.T @ x
    clicked = taken.sum(dim=0) > 0
    mean = gram.diagonal()[clicked].mean()
    gram = gram + L2 * mean / (taken.sum() / clicked.sum()) * torch.eye(NUM_ITEMS)
    for name, weight in CONTENT.items():
        features = item_features(data, name).double()
        f = F.normalize(features - features.mean(dim=0), dim=1)
        gram = gram + weight * mean * f @ f.T
    inverse = gram.inverse()
    weights = -inverse / inverse.diagonal()
    return taken * degree[1] ** -0.25, weights - torch.diag(weights.diagonal())


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-4)


def test_weights_are_the_formula() -> None:
    data = small_graph()
    history, weights = formula(data)
    close(linear_weights(data, L2, CONTENT), weights)
    (block,) = linear_ranker(data, linear_weights(data, L2, CONTENT)).top_k(torch.arange(NUM_USERS), NUM_ITEMS)
    close(torch.empty_like(block.score).scatter(1, block.item, block.score), history @ weights)


def test_vectors_of_full_rank_have_these_scores_and_unit_covariance() -> None:
    data = small_graph()
    history, weights = formula(data)
    linear = linear_items(data, NUM_ITEMS - 1, L2, CONTENT)  # one column less, as B is nearly singular
    taken = interactions(data).float()
    full = history @ weights
    assert torch.linalg.matrix_norm((taken @ linear.given @ linear.item.T).double() - full) < 0.05 * full.norm()
    close(torch.cov(linear.item.T), torch.eye(NUM_ITEMS - 1, dtype=torch.double))


def test_the_linear_part_of_a_user_is_as_long_as_the_other_and_that_of_an_item_has_the_weight() -> None:
    data, columns = small_graph(), 3
    learned = Vectors.of(torch.randn(NUM_USERS, 4), torch.randn(NUM_ITEMS, 4))
    linear = linear_items(data, columns, L2, CONTENT)
    both = with_linear(learned, data, linear.scaled(0.25))
    has_history = SeenItems.of(data["user", "interacts", "item"].edge_index, NUM_USERS).start.diff() > 0
    expected = torch.where(has_history, learned.user.norm(dim=1), 0)
    torch.testing.assert_close(both.user[:, both.width :].norm(dim=1), expected)
    assert torch.equal(both.user[:, : both.width], learned.user)
    # Scores then vary by the weight times the length of the user.
    assert torch.equal(both.item[:, both.width :], 0.25 * linear.item)


def test_what_is_left_open_is_chosen_by_validation() -> None:
    graph = small_graph()
    calls: list[Any] = []
    task = RankingTask.of(torch.tensor([[0, 1, 2], [5, 6, 7]]), SeenItems.of(torch.empty(2, 0).long(), 9), NUM_ITEMS)

    def measure(ranker: Any) -> float:
        calls.append(evaluate_ranker(ranker, task, cutoffs=(2,))["recall@2"])
        return calls[-1]

    learned = Vectors.of(torch.randn(NUM_USERS, 4), torch.randn(NUM_ITEMS, 4))
    found = completed(LIRDRecConfig(linear_dim=4), graph, learned, measure)
    assert found.linear_l2 in (100.0, 300.0, 1000.0)
    assert set(found.linear_content) == {"image", "text"}
    linear = linear_items(graph, 4, found.linear_l2, found.linear_content)
    weighted = with_linear(learned, graph, linear.scaled(found.linear_weight))
    best = evaluate_ranker(DotProducts(weighted.user, weighted.item), task, cutoffs=(2,))["recall@2"]
    assert best == max(calls[-11:])
    # What is given stays.
    given = LIRDRecConfig(linear_dim=4, linear_l2=7.0, linear_content={"text": 1.0}, linear_weight=0.3)
    assert completed(given, graph, learned, measure) == given


def test_the_search_tries_no_settings_twice_and_ends_with_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small_graph()
    tried: list[float] = []

    def weights(_: Any, l2: float, content: Any) -> float:
        tried.append(l2)
        return l2

    monkeypatch.setattr(linear_module, "linear_weights", weights)
    monkeypatch.setattr(linear_module, "linear_ranker", lambda _, l2: l2)
    config = LIRDRecConfig(linear_dim=4, linear_weight=0.3, linear_content={"text": 1.0})
    learned = Vectors.of(torch.randn(NUM_USERS, 4), torch.randn(NUM_ITEMS, 4))

    def chosen(best: float) -> float | None:
        tried.clear()
        return completed(config, graph, learned, lambda l2: -abs(math.log(l2 / best))).linear_l2

    for best, expected in ((1.0, 100.0), (300.0, 300.0), (1e6, 1000.0)):
        assert chosen(best) == expected
        assert len(tried) == len({*tried}) == 3
    monkeypatch.setattr(linear_module, "_MAX_WORK", 2 * NUM_ITEMS**3)
    assert chosen(1e6) == 300.0
    assert tried == [300.0, 100.0]


def test_a_weight_that_is_given_or_too_many_items_are_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LIRDRecConfig(embedding_dim=4, linear_dim=4, linear_weight=0.3)
    model, data = prepared(config)
    assert model.vectors(data).linear.size(1) == 0  # what else is needed is not chosen yet
    found = model.complete(config, data, None)
    assert (found.linear_l2, found.linear_weight) == (300.0, 0.3)
    assert model.vectors(data).linear.size(1) == 4
    monkeypatch.setattr("lirdrec_pyg.models.linear.MAX_ITEMS", NUM_ITEMS - 1)
    assert model.complete(found, data, None).linear_dim == 0
    assert model.vectors(data).linear.size(1) == 0


def test_weights_of_features_are_checked_before_the_training() -> None:
    for content, message in (({"smell": 1.0}, "'smell'.*image, text"), ({"text": -1.0}, "'text'.*at least 0")):
        with pytest.raises(ConfigError, match=message):
            prepared(LIRDRecConfig(linear_dim=4, linear_content=content))


@pytest.mark.parametrize("measured", [True, False])
def test_without_validation_there_are_defaults(measured: bool) -> None:
    learned = Vectors.of(torch.randn(NUM_USERS, 4), torch.randn(NUM_ITEMS, 4))
    measure = (lambda _: 0.5) if measured else None
    found = completed(LIRDRecConfig(linear_dim=4), small_graph(), learned, measure)
    assert (found.linear_l2, found.linear_content) == (300.0, {"image": 1.0, "text": 1.0})
    assert (found.linear_weight == 0) == measured  # of equal ones, the first is taken: no branch
