import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lirdrec_pyg.data import INTERACTS, build_graph
from lirdrec_pyg.evaluation import CUTOFFS, Bucket, RankingTask, evaluate_buckets, evaluate_ranking
from lirdrec_pyg.nn import DotProducts

BOUNDS = {"0": (0, 0), "1-4": (1, 4), "5-9": (5, 9), "10-19": (10, 19), "20-49": (20, 49), "50-99": (50, 99)}


def inside(count: int, label: str) -> bool:
    low, high = BOUNDS.get(label, (100, 10**9))
    return low <= count <= high


def make(seed: int, num_users: int, num_items: int) -> tuple[RankingTask, list[Bucket], Tensor, dict[str, float]]:
    """Users and items of varying activity, some items without training interactions."""
    rng = np.random.default_rng(seed)
    taste = rng.random((num_users, 1)) ** 2 * rng.random(num_items) ** 2 * 1.5
    interacted = rng.random((num_users, num_items)) < taste
    held_out = rng.random(interacted.shape) < 0.1
    interacted[0, 0], held_out[0, :2] = True, (False, True)
    train, test = (np.stack(np.nonzero(mask)) for mask in (interacted & ~held_out, held_out))
    graph = build_graph(train, {"m": np.ones((num_items, 1))}, test=test, num_users=num_users)
    task = RankingTask.from_graph(graph, "test")
    user, item = torch.from_numpy(rng.random((num_users, num_items))).float(), torch.eye(num_items)
    return (
        task,
        evaluate_buckets(graph, DotProducts(user, item), task),
        graph[INTERACTS].edge_index,
        evaluate_ranking(user, item, task),
    )


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), num_users=st.integers(1, 60), num_items=st.integers(3, 130))
def test_buckets_partition_the_pairs_and_average_to_all(seed: int, num_users: int, num_items: int) -> None:
    task, buckets, train, whole = make(seed, num_users, num_items)
    pairs = task.pairs.T.tolist()
    activity = np.bincount(train[0], minlength=num_users)
    popularity = np.bincount(train[1], minlength=num_items)
    kinds = {"user activity": [activity[u] for u, _ in pairs], "item popularity": [popularity[i] for _, i in pairs]}
    assert [b.kind for b in buckets] == sorted((b.kind for b in buckets), reverse=True)
    for kind, counts in kinds.items():
        parts = [b for b in buckets if b.kind == kind]
        # In ascending order, without duplicates and without empty ones.
        assert [b.interactions for b in parts] == [
            label for label in (*BOUNDS, "100 or more") if any(inside(count, label) for count in counts)
        ]
        for bucket in parts:
            held = [pair for pair, count in zip(pairs, counts) if inside(count, bucket.interactions)]
            assert bucket.num_pairs == len(held)
            assert bucket.num_users == len({user for user, _ in held})
            assert bucket.metrics.keys() == whole.keys()
        assert sum(b.num_pairs for b in parts) == len(pairs)
        for k in CUTOFFS:
            # Each hit is counted in one bucket.
            hits = sum(b.num_users * k * b.metrics[f"precision@{k}"] for b in parts)
            assert hits == pytest.approx(len(task.user_index) * k * whole[f"precision@{k}"], rel=1e-4, abs=1e-4)
    users = [b for b in buckets if b.kind == "user activity"]
    assert sum(b.num_users for b in users) == len(task.user_index)
    for name, value in whole.items():
        if "coverage" not in name:
            mean = sum(b.num_users * b.metrics[name] for b in users) / len(task.user_index)
            assert mean == pytest.approx(value, rel=1e-4, abs=1e-6)
        else:
            assert max(b.metrics[name] for b in users) <= value + 1e-6


def test_a_bucket_of_items_counts_its_hits_among_all_candidates() -> None:
    # User 0 ranks the items 4 3 2 1 0 and has item 4 in training, as five others do.
    train = np.array([[0, 1, 2, 3, 4, 5], [4] * 6])
    graph = build_graph(train, {"m": np.ones((5, 1))}, test=np.array([[0, 1], [1, 3]]))
    user = torch.arange(5.0).repeat(6, 1)
    task = RankingTask.from_graph(graph, "test")
    (all_users, unseen_items) = evaluate_buckets(graph, DotProducts(user, torch.eye(5)), task)
    assert (all_users.kind, all_users.interactions) == ("user activity", "1-4")
    assert (unseen_items.kind, unseen_items.interactions) == ("item popularity", "0")
    # Item 1 is third after 3 and 2, and item 3 is first: held-out items of other users stay candidates.
    assert unseen_items.metrics["mrr@5"] == pytest.approx((1 / 3 + 1) / 2)
    assert unseen_items.num_users == unseen_items.num_pairs == 2
    assert all_users.metrics == unseen_items.metrics


def test_appended_new_items_have_no_interactions() -> None:
    graph = build_graph(np.array([[0], [1]]), {"m": np.ones((2, 1))})
    task = RankingTask.of(torch.tensor([[0, 0], [0, 3]]), None, 4)
    buckets = evaluate_buckets(graph, DotProducts(torch.ones(1, 4), torch.eye(4)), task)
    assert [(b.kind, b.interactions, b.num_pairs) for b in buckets] == [
        ("user activity", "1-4", 2),
        ("item popularity", "0", 2),
    ]
