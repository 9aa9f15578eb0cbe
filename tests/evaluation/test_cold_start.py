import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    Split,
    build_graph,
    held_out_edges,
    known_interactions,
    new_item_edges,
    set_new_items,
)
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.evaluation import CUTOFFS, cold_start, evaluate_cold_start
from lirdrec_pyg.models import Vectors

NUM_USERS, NUM_WARM, NUM_NEW = 9, 14, 8
NAMES = ["warm", "warm among all", "cold", "all", "cold among all", "cold, random", "cold, content"]


def make(seed: int = 0, masked: bool = False, with_warm: bool = True, num_users: int = NUM_USERS) -> HeteroData:
    """Interactions of every kind; the last user has none in training."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, size=(num_users, NUM_WARM), p=[0.5, 0.3, 0.1, 0.1])
    kind[-1][kind[-1] == 1] = 2
    if not with_warm:
        kind[kind > 1] = 0
    pairs = [np.stack(np.nonzero(kind == label)) for label in (1, 2, 3)]
    # Cosines are positive and negative.
    features = {"image": rng.standard_normal((NUM_WARM, 4)), "text": rng.standard_normal((NUM_WARM, 3))}
    masks = {"text": np.arange(NUM_WARM) % 3 != 0} if masked else None
    graph = build_graph(pairs[0], features, val=pairs[1], test=pairs[2], masks=masks, num_users=num_users)
    # Each split has half of the new items.
    new = rng.random((num_users, NUM_NEW)) < 0.4
    new[0, [0, NUM_NEW // 2]] = new[-1, [0, NUM_NEW // 2]] = True
    held_out = {}
    is_valid = np.arange(NUM_NEW) < NUM_NEW // 2
    for split, half in ((Split.VALID, is_valid), (Split.TEST, ~is_valid)):
        held_out[split] = torch.from_numpy(np.stack(np.nonzero(new & half)))
    features = {"image": rng.standard_normal((NUM_NEW, 4)), "text": rng.standard_normal((NUM_NEW, 3))}
    return set_new_items(graph, features, {"text": np.arange(NUM_NEW) % 3 != 1} if masked else None, held_out)


def vectors_of(scores: np.ndarray) -> Vectors:
    """Vectors with the dot products ``scores``."""
    num_items = scores.shape[1]
    user = torch.from_numpy(scores).float()
    linear = torch.empty(num_items, 0)
    return Vectors(user, torch.ones(len(user), 1), torch.eye(num_items), torch.zeros(1, num_items, num_items), linear)


def by_user(edges: Tensor | None, num_users: int = NUM_USERS) -> list[set[int]]:
    assert edges is not None
    return [{i for u, i in edges.T.tolist() if u == user} for user in range(num_users)]


def recalls(scores: np.ndarray, trained: list[set[int]], wanted: list[set[int]], exclude: bool) -> dict[str, float]:
    """Recall, hit rate, precision and coverage at every cutoff, one user at a time; columns are candidates."""
    found: dict[str, list[float]] = {}
    shown: dict[int, set[int]] = {k: set() for k in CUTOFFS}
    for user, labels in enumerate(wanted):
        if not labels or not trained[user]:
            continue
        candidates = set(range(scores.shape[1])) - (trained[user] if exclude else set())
        ranked = sorted(candidates, key=lambda i: -scores[user, i])
        for k in CUTOFFS:
            hits = len(labels & set(ranked[:k]))
            shown[k] |= set(ranked[:k])
            found.setdefault(f"recall@{k}", []).append(hits / len(labels))
            found.setdefault(f"hit_rate@{k}", []).append(float(hits > 0))
            found.setdefault(f"precision@{k}", []).append(hits / k)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return means | {f"coverage@{k}": len(items) / scores.shape[1] for k, items in shown.items()}


def unit(x: Tensor) -> np.ndarray:
    values = x.double().numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def content_scores(data: HeteroData) -> np.ndarray:
    """For each user and new item, the largest mean cosine of all modalities with a training item of the user."""
    scores = np.full((data["user"].num_nodes, NUM_NEW), -np.inf)
    for user, item in data[INTERACTS].edge_index.T.tolist():
        for new in range(NUM_NEW):
            cosines = []
            for m in ("image", "text"):
                both = data["item"].get(f"mask_{m}"), data[NEW_ITEM].get(f"mask_{m}")
                real = all(mask is None or bool(mask[n]) for mask, n in zip(both, (item, new)))
                product = unit(data["item"][f"x_{m}"])[item] @ unit(data[NEW_ITEM][f"x_{m}"])[new]
                cosines.append(product if real else 0.0)
            scores[user, new] = max(scores[user, new], float(np.mean(cosines)))
    return scores


def assert_part(actual: dict[str, float], expected: dict[str, float]) -> None:
    assert {name: actual[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("split", "seed"), [("valid", 0), ("test", 0), ("test", 1), ("valid", 3)])
def test_every_ranking_equals_brute_force(split: str, seed: int) -> None:
    data = make(seed, masked=seed % 2 == 1)
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(float(NUM_WARM + NUM_NEW)), (NUM_USERS, 1)), axis=1)
    found = evaluate_cold_start(data, vectors_of(scores), split)
    assert list(found) == NAMES

    trained = by_user(data[INTERACTS].edge_index)
    warm, cold = by_user(held_out_edges(data, split)), by_user(new_item_edges(data, split))
    shifted = [{i + NUM_WARM for i in items} for items in cold]
    assert_part(found["warm"], recalls(scores[:, :NUM_WARM], trained, warm, exclude=True))
    assert_part(found["warm among all"], recalls(scores, trained, warm, exclude=True))
    assert_part(found["cold"], recalls(scores[:, NUM_WARM:], trained, cold, exclude=False))
    both = [a | b for a, b in zip(warm, shifted)]
    assert_part(found["all"], recalls(scores, trained, both, exclude=True))
    assert_part(found["cold among all"], recalls(scores, trained, shifted, exclude=True))
    assert_part(found["cold, content"], recalls(content_scores(data), trained, cold, exclude=False))

    users = [user for user in range(NUM_USERS) if both[user] and trained[user]]
    lists = [[i for i in scores[user].argsort()[::-1] if i not in trained[user]][:20] for user in users]
    offered = [item >= NUM_WARM for items in lists for item in items]
    clicked = known_interactions(data)[1] >= NUM_WARM
    assert_part(found["cold among all"], {"offered@20": np.mean(offered), "interacted": float(clicked.float().mean())})


def test_the_ranking_by_content_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data, vectors = make(masked=True), vectors_of(np.random.default_rng(0).random((NUM_USERS, NUM_WARM + NUM_NEW)))
    whole = evaluate_cold_start(data, vectors, "test")
    for size in (1, 4 * NUM_NEW * 10):
        monkeypatch.setattr(cold_start, "_BLOCK_BYTES", size)
        for name, metrics in evaluate_cold_start(data, vectors, "test").items():
            assert metrics == pytest.approx(whole[name], rel=1e-6)


def test_a_random_ranking_has_the_expected_recall() -> None:
    num_users, num_new = 1000, 100
    rng = np.random.default_rng(0)
    train = np.stack([np.arange(num_users), rng.integers(0, 3, num_users)])
    graph = build_graph(train, {"image": rng.standard_normal((3, 4))})
    pairs = torch.from_numpy(np.stack([np.arange(num_users), rng.integers(0, num_new, num_users)]))
    data = set_new_items(graph, {"image": rng.standard_normal((num_new, 4))}, held_out={Split.TEST: pairs})
    vectors = vectors_of(np.zeros((num_users, 3 + num_new)))
    found = evaluate_cold_start(data, vectors, "test")["cold, random"]
    for k in CUTOFFS:
        share = k / num_new
        # Four standard deviations of the mean of independent draws.
        assert found[f"recall@{k}"] == pytest.approx(share, abs=4 * (share * (1 - share) / num_users) ** 0.5)
        assert found[f"coverage@{k}"] == 1.0
    assert evaluate_cold_start(data, vectors, "test")["cold, random"] == found
    assert evaluate_cold_start(data, vectors, "test", seed=1)["cold, random"] != found


def test_baselines_do_not_depend_on_the_model() -> None:
    data = make()
    rng = np.random.default_rng(1)
    one, other = (
        evaluate_cold_start(data, vectors_of(rng.random((NUM_USERS, NUM_WARM + NUM_NEW))), "valid") for _ in range(2)
    )
    assert one["cold"] != other["cold"]
    assert one["cold, random"] == other["cold, random"]
    assert one["cold, content"] == other["cold, content"]


def test_a_split_may_have_new_items_only() -> None:
    data = make(with_warm=False)
    found = evaluate_cold_start(data, vectors_of(np.random.default_rng(0).random((NUM_USERS, 22))), "valid")
    assert list(found) == NAMES[2:]
    shares = {name: found["cold among all"].pop(name) for name in ("offered@20", "interacted")}
    assert found["all"] == found["cold among all"]
    assert 0 < shares["offered@20"] < 1


def test_splits_without_users_to_evaluate_are_refused() -> None:
    data, vectors = make(), vectors_of(np.zeros((NUM_USERS, NUM_WARM + NUM_NEW)))
    data[NEW_ITEM].val_edge_label_index = torch.tensor([[NUM_USERS - 1], [0]])
    with pytest.raises(DataError, match="No user of the validation split"):
        evaluate_cold_start(data, vectors, "valid")
    del data[NEW_ITEM]["val_edge_label_index"]
    with pytest.raises(DataError, match="`split='cold-items'`"):
        evaluate_cold_start(data, vectors, "valid")
    del data[NEW_ITEM]
    with pytest.raises(DataError, match="`split='cold-items'`"):
        evaluate_cold_start(data, vectors, "test")
    assert NEW_ITEM not in data.node_types
