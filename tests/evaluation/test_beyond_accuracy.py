import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import LinkPredPersonalization

from lirdrec_pyg.data import build_graph
from lirdrec_pyg.evaluation import (
    BeyondAccuracy,
    Personalization,
    RankingTask,
    evaluate_ranker,
    evaluate_splits,
    gini,
    item_clusters,
)
from lirdrec_pyg.nn import DotProducts, TopK

NONE = -math.inf


def graph_of(train: Sequence[tuple[int, int]], num_users: int, x: Tensor, mask: Tensor | None = None) -> HeteroData:
    masks = {} if mask is None else {"m": mask}
    return build_graph(torch.tensor(train).T, {"m": x}, num_users=num_users, masks=masks)


def metrics_of(
    data: HeteroData,
    lists: Sequence[Sequence[int]],
    category: Sequence[int],
    cutoffs: tuple[int, ...],
    rows_per_block: int = 2,
) -> dict[str, float]:
    """Metrics of given lists, padded with an excluded item to equal length."""
    length = max(map(len, lists))
    item = torch.tensor([[*one, *[0] * (length - len(one))] for one in lists])
    score = torch.tensor([[*[0.0] * len(one), *[NONE] * (length - len(one))] for one in lists])
    beyond = BeyondAccuracy(data, torch.tensor(category), cutoffs)
    starts = range(0, len(lists), rows_per_block)
    blocks = [TopK(slice(s, s + rows_per_block), *(x[s : s + rows_per_block] for x in (score, item))) for s in starts]
    assert [*beyond.follow(blocks)] == blocks
    return beyond.compute()


def test_every_metric_computed_by_hand() -> None:
    # Items 0 to 3 have 4, 2, 1 and 0 training interactions; the categories are {0, 1}, {2} and {3}.
    train = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (0, 2)]
    data = graph_of(train, 4, torch.eye(4))
    # The last user has fewer than two recommendations, and is left out.
    found = metrics_of(data, [[0, 1], [1, 2], [0, 3], [2]], [7, 7, 1, 2], (2,))
    bits = [0, 1, 2, 2]  # -log2 of 4/4, 2/4, 1/4, and again 1/4 for the item without interactions
    assert found == pytest.approx(
        {
            "average_popularity@2": (4 + 2 + 2 + 1 + 4 + 0) / 6,
            "novelty@2": (bits[0] + bits[1] + bits[1] + bits[2] + bits[0] + bits[3]) / 6,
            "diversity@2": 2 / 3,
            # The pairs of users share 1, 1 and 0 of 2 items.
            "personalization@2": (1 / 2 + 1 / 2 + 1) / 3,
            # Recommended 1, 1, 2 and 2 times.
            "gini@2": (-3 * 1 - 1 * 1 + 1 * 2 + 3 * 2) / (4 * 6),
        }
    )
    # In each list, two of the three pairs of items differ in their category.
    assert metrics_of(data, [[0, 1, 2], [3, 2, 1]], [7, 7, 1, 1], (3,))["diversity@3"] == pytest.approx(4 / 6)


def test_lists_that_are_all_the_same_or_all_different() -> None:
    data = graph_of([(0, 0), (1, 1)], 2, torch.eye(4))
    same = metrics_of(data, [[0, 1], [0, 1]], [5, 5, 6, 6], (2,))
    assert (same["personalization@2"], same["diversity@2"], same["gini@2"]) == (0, 0, 0.5)
    different = metrics_of(data, [[0, 2], [1, 3]], [5, 5, 6, 6], (2,))
    assert (different["personalization@2"], different["diversity@2"], different["gini@2"]) == (1, 1, 0)


def test_metrics_of_no_list_are_left_out() -> None:
    data = graph_of([(0, 0), (1, 1)], 2, torch.eye(4))
    found = metrics_of(data, [[0, 1, 2], [0]], [0, 1, 2, 3], (3, 10))
    # One list of three: there is no pair of users.
    assert found.keys() == {f"{name}@3" for name in ("average_popularity", "novelty", "diversity", "gini")}
    assert found["diversity@3"] == 1


@settings(max_examples=25)
@given(num_lists=st.integers(2, 12), num_items=st.integers(4, 30), k=st.integers(1, 4), seed=st.integers(0, 999))
def test_personalization_equals_that_of_pyg_over_all_pairs(num_lists: int, num_items: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = torch.from_numpy(np.stack([rng.permutation(num_items)[:k] for _ in range(num_lists)]))
    own, pyg = Personalization(k, num_items), LinkPredPersonalization(k, max_src_nodes=None)
    for block in lists.split(5):
        own.update(block)
        pyg.update(block, ())
    assert float(own.compute()) == pytest.approx(float(pyg.compute()), abs=1e-6)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_gini_is_the_mean_difference_over_twice_the_mean(exposure: list[int]) -> None:
    e = torch.tensor(exposure)
    mean_difference = (e.unsqueeze(0) - e.unsqueeze(1)).abs().double().mean()
    assert gini(e) == pytest.approx(float(mean_difference / (2 * e.double().mean())))


class TestItemClusters:
    def test_items_of_one_direction_are_one_cluster(self) -> None:
        direction = torch.arange(90) % 3
        x = torch.eye(3)[direction] * torch.rand(90, 1).add(0.1)
        found = item_clusters(graph_of([(0, 0)], 1, x))
        # Not more clusters than directions, and none of them in two.
        assert len(set(zip(found.tolist(), direction.tolist(), strict=True))) == len(set(found.tolist())) == 3

    def test_an_item_without_features_is_a_cluster_of_its_own(self) -> None:
        mask = torch.tensor([True, False, True, False, True])
        found = item_clusters(graph_of([(0, 0)], 1, torch.ones(5, 2), mask)).tolist()
        assert found[0] == found[2] == found[4]
        assert len(set(found)) == 3

    def test_they_do_not_depend_on_the_seed_of_the_caller(self) -> None:
        data = graph_of([(0, 0)], 1, torch.randn(300, 8, generator=torch.Generator().manual_seed(5)))
        before = torch.get_rng_state()
        found = item_clusters(data)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(17)
        assert torch.equal(item_clusters(data), found)


def test_splits_are_evaluated_in_one_pass_each() -> None:
    generator = torch.Generator().manual_seed(0)
    num_users, num_items = 30, 60
    score = torch.randn(num_users, num_items, generator=generator)
    train, val, test = (torch.stack([torch.arange(num_users), torch.arange(num_users) + n]) for n in (0, 9, 21))
    data = build_graph(train, {"m": torch.randn(num_items, 4, generator=generator)}, val=val, test=test)
    passes = []

    class Counted(DotProducts):
        def top_k(self, *args: object) -> object:  # type: ignore[override]
            passes.append(args)
            return super().top_k(*args)  # type: ignore[arg-type]

    ranker = Counted(score, torch.eye(num_items))
    tasks = {split: RankingTask.from_graph(data, split) for split in ("valid", "test")}
    found = evaluate_splits(ranker, tasks, data)
    assert len(passes) == 2
    assert found.keys() == {"valid", "test", "beyond_accuracy"}
    assert found["test"] == evaluate_ranker(ranker, tasks["test"])
    assert found["beyond_accuracy"]["valid"].keys() == {
        f"{name}@{k}"
        for name in ("average_popularity", "novelty", "diversity", "personalization", "gini")
        for k in (10, 20)
    }
    # The lists do not depend on what is held out.
    assert found["beyond_accuracy"]["valid"] == found["beyond_accuracy"]["test"]
    ranked = score.scatter(1, train[1].unsqueeze(1), NONE).topk(20).indices
    exposure = ranked.flatten().bincount(minlength=num_items)
    assert found["beyond_accuracy"]["test"]["gini@20"] == pytest.approx(gini(exposure))
    assert found["test"]["coverage@20"] == pytest.approx(float((exposure > 0).float().mean()))
