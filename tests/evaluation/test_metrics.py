import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import build_graph
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.evaluation import CUTOFFS, RankingTask, evaluate_ranking, ranking_metrics
from lirdrec_pyg.nn import TopK, ranking, top_k

Pairs = set[tuple[int, int]]


def graph_of(train: Pairs, val: Pairs, num_users: int, num_items: int, test: Pairs | None = None) -> HeteroData:
    def edges(pairs: Pairs) -> Tensor:
        return torch.tensor(sorted(pairs), dtype=torch.long).view(-1, 2).T

    features = {"m": torch.ones(num_items, 1)}
    return build_graph(edges(train), features, val=edges(val), test=edges(test or set()), num_users=num_users)


def metrics_of(
    scores: np.ndarray, train: Pairs, held_out: Pairs, cutoffs: tuple[int, ...] = CUTOFFS
) -> dict[str, float]:
    """Every metric by its definition, one user at a time."""
    num_users, num_items = scores.shape
    sums: dict[str, float] = {}
    shown: dict[int, set[int]] = {k: set() for k in cutoffs}
    evaluated = 0
    for user in range(num_users):
        labels = {i for u, i in held_out if u == user}
        seen = {i for u, i in train if u == user}
        if not labels or not seen:
            continue
        evaluated += 1
        ranked = sorted((i for i in range(num_items) if i not in seen), key=lambda i: -scores[user, i])
        for k in cutoffs:
            hits = [item in labels for item in ranked[:k]]
            places = [place for place, hit in enumerate(hits, start=1) if hit]
            ideal = min(len(labels), k)
            shown[k] |= set(ranked[:k])
            for name, value in {
                "recall": len(places) / len(labels),
                "precision": len(places) / k,
                "hit_rate": float(bool(places)),
                "mrr": 1 / places[0] if places else 0.0,
                "map": sum((n + 1) / place for n, place in enumerate(places)) / ideal,
                "ndcg": sum(1 / math.log2(p + 1) for p in places)
                / sum(1 / math.log2(p + 1) for p in range(1, ideal + 1)),
            }.items():
                sums[f"{name}@{k}"] = sums.get(f"{name}@{k}", 0.0) + value
    means = {name: total / evaluated for name, total in sums.items()}
    return means | {f"coverage@{k}": len(items) / num_items for k, items in shown.items()}


def representations(num_users: int, num_items: int, seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Vectors of users and items whose scores have no ties, and the scores."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(num_items, dtype=np.float32), (num_users, 1)), axis=1)
    return torch.from_numpy(scores), torch.eye(num_items), scores


@settings(max_examples=40)
@given(
    num_items=st.integers(2, 70),
    num_users=st.integers(1, 9),
    density=st.floats(0.05, 0.9),
    rows_per_block=st.sampled_from([1, 2, 7, 100]),
    joined_rows=st.sampled_from([1, 3, 4, 7, 100]),
    seed=st.integers(0, 2**16),
)
def test_every_metric_at_every_cutoff_equals_brute_force(
    num_items: int, num_users: int, density: float, rows_per_block: int, joined_rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    interacted = rng.random((num_users, num_items)) < density
    held_out = interacted & (rng.random(interacted.shape) < 0.4)
    # At least one pair of each kind, of one user.
    interacted[0, :2], held_out[0, :2] = True, (True, False)
    train, val = ({(int(u), int(i)) for u, i in np.argwhere(mask)} for mask in (interacted & ~held_out, held_out))
    user, item, scores = representations(num_users, num_items, seed)

    task = RankingTask.from_graph(graph_of(train, val, num_users, num_items), "valid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ROWS", {"cpu": rows_per_block})
        patch.setattr("lirdrec_pyg.evaluation.metrics._BLOCK_ROWS", joined_rows)
        actual = evaluate_ranking(user, item, task)
    assert actual == pytest.approx(metrics_of(scores, train, val), rel=1e-5, abs=1e-6)


def test_metrics_of_a_ranking_computed_by_hand() -> None:
    # User 0 ranks 4 3 2 1 0, has 4 in training, and holds out 2 and 0: ranks 2 and 4 of 3 2 1 0.
    train, val = {(0, 4)}, {(0, 2), (0, 0)}
    task = RankingTask.from_graph(graph_of(train, val, 1, 5), "valid")
    actual = evaluate_ranking(torch.arange(5.0).unsqueeze(0), torch.eye(5), task, cutoffs=(1, 2, 4))
    ideal = 1 + 1 / math.log2(3)
    expected = {
        "recall": (0, 1 / 2, 1),
        "precision": (0, 1 / 2, 1 / 2),
        "hit_rate": (0, 1, 1),
        "mrr": (0, 1 / 2, 1 / 2),
        "map": (0, 1 / 4, 1 / 2),
        "ndcg": (0, 1 / math.log2(3) / ideal, (1 / math.log2(3) + 1 / math.log2(5)) / ideal),
        "coverage": (1 / 5, 2 / 5, 4 / 5),
    }
    assert actual == pytest.approx(
        {f"{name}@{k}": value for name, row in expected.items() for k, value in zip((1, 2, 4), row, strict=True)}
    )


def test_training_items_are_never_ranked_even_if_there_are_too_few_others() -> None:
    # All users have items 2 and 3 in training; the other items are fewer than the cutoff.
    train = {(user, item) for user in range(3) for item in (2, 3)}
    task = RankingTask.from_graph(graph_of(train, {(0, 0), (1, 1), (2, 0)}, 3, 4), "valid")
    user = torch.tensor([[1.0, 0.0, 9.0, 8.0]] * 3)
    actual = evaluate_ranking(user, torch.eye(4), task, cutoffs=(1, 5))
    assert actual["coverage@5"] == pytest.approx(2 / 4)
    assert actual["recall@1"] == pytest.approx(2 / 3)
    assert actual["mrr@5"] == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_without_training_items_every_item_is_ranked() -> None:
    user, item, scores = representations(6, 30, seed=3)
    held_out = {(u, (7 * u + n) % 30) for u in range(6) for n in range(4)}
    actual = evaluate_ranking(user, item, RankingTask.of(torch.tensor(sorted(held_out)).T, None, 30))
    # Equivalent to one more item, ranked last, that all users have in training.
    train = {(u, 30) for u in range(6)}
    expected = metrics_of(np.pad(scores, ((0, 0), (0, 1)), constant_values=-1), train, held_out)
    for name, value in actual.items():
        assert value == pytest.approx(expected[name] * (31 / 30 if "coverage" in name else 1), rel=1e-5)


def test_given_rankings_have_the_same_metrics() -> None:
    user, item, scores = representations(5, 60, seed=1)
    train = {(u, u) for u in range(5)}
    held_out = {(u, (11 * u + 3 * n + 1) % 60) for u in range(5) for n in range(3)} - train
    task = RankingTask.from_graph(graph_of(train, held_out, 5, 60), "valid")
    order = torch.from_numpy(scores)
    order[range(5), range(5)] = -torch.inf
    best = order.topk(50, dim=1)
    for size in (1, 2, 5):
        rows = [slice(start, min(start + size, 5)) for start in range(0, 5, size)]
        blocks = [TopK(row, best.values[row], best.indices[row]) for row in rows]
        assert ranking_metrics(blocks, task) == pytest.approx(metrics_of(scores, train, held_out), rel=1e-5)
    evaluated = evaluate_ranking(user, item, task)
    assert ranking_metrics(top_k(user, item, task.user_index, 50, task.seen), task) == evaluated
    assert ranking_metrics(blocks, task, cutoffs=(5,)).keys() == {name for name in evaluated if name.endswith("@5")}


class TestRankingTask:
    def test_users_without_training_interactions_are_skipped(self) -> None:
        train, val = {(0, 0), (2, 1), (4, 1)}, {(4, 2), (1, 1), (0, 2), (4, 0), (3, 0)}
        task = RankingTask.from_graph(graph_of(train, val, 6, 3), "valid")
        assert task.user_index.tolist() == [0, 4]
        assert sorted(map(tuple, task.label_index.T.tolist())) == [(0, 2), (1, 0), (1, 2)]
        assert task.label_index[0].tolist() == [0, 1, 1]
        assert task.seen is not None
        row, item = task.seen.pairs(torch.arange(6))
        assert set(zip(row.tolist(), item.tolist())) == train
        assert task.num_items == 3

    def test_splits_are_separate(self) -> None:
        graph = graph_of({(0, 0)}, {(0, 1)}, 1, 3, test={(0, 2)})
        assert RankingTask.from_graph(graph, "valid").label_index.tolist() == [[0], [1]]
        assert RankingTask.from_graph(graph, "test").label_index.tolist() == [[0], [2]]

    def test_a_task_of_any_pairs_is_sorted_by_user(self) -> None:
        pairs = torch.tensor([[7, 2, 7, 5, 2], [3, 9, 1, 0, 4]])
        task = RankingTask.of(pairs, None, 10)
        assert task.user_index.tolist() == [2, 5, 7]
        assert task.label_index.tolist() == [[0, 0, 1, 2, 2], [9, 4, 0, 3, 1]]
        assert task.pairs.tolist() == [[2, 2, 5, 7, 7], [9, 4, 0, 3, 1]]
        assert (task.seen, task.num_items) == (None, 10)

    @settings(max_examples=30)
    @given(pairs=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1), data=st.data())
    def test_a_selection_keeps_exactly_its_pairs(self, pairs: Pairs, data: st.DataObject) -> None:
        task = RankingTask.of(torch.tensor(sorted(pairs)).T, None, 7)
        assert set(map(tuple, task.pairs.T.tolist())) == pairs
        kept = data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
        part = task.select(torch.tensor(kept))
        wanted = [pair for pair, keep in zip(task.pairs.T.tolist(), kept) if keep]
        assert part.pairs.T.tolist() == wanted
        assert part.user_index.tolist() == sorted({user for user, _ in wanted})
        assert (part.seen, part.num_items) == (task.seen, 7)

    def test_splits_without_users_to_evaluate_are_refused(self) -> None:
        held_out: list[Pairs] = [set(), {(1, 0)}]
        for pairs in held_out:
            with pytest.raises(DataError, match="The validation split is empty, or none of its users"):
                RankingTask.from_graph(graph_of({(0, 0)}, pairs, 2, 2), "valid")
        with pytest.raises(DataError, match="The test split is empty"):
            RankingTask.from_graph(graph_of({(0, 0)}, {(0, 1)}, 1, 2), "test")
