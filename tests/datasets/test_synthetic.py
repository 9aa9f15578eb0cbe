from pathlib import Path

import numpy as np
import pytest
import torch

from lirdrec_pyg.data import INTERACTS, Dataset, check_graph, held_out_edges, modalities
from lirdrec_pyg.datasets import Synthetic, synthetic_data, true_scores

NUM_USERS, NUM_ITEMS, COLD = 300, 200, 20


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_data(NUM_USERS, NUM_ITEMS)


def pairs(data: Dataset, split: str) -> np.ndarray:
    graph = data.graph
    return (graph[INTERACTS].edge_index if split == "train" else held_out_edges(graph, split)).numpy()


def recall(data: Dataset, scores: np.ndarray, split: str = "test", k: int = 20) -> float:
    """Return the mean recall at ``k`` over the users with held-out items; training items are not candidates."""
    scores = scores.astype(np.float64).copy()
    scores[tuple(pairs(data, "train"))] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :k]
    user, item = pairs(data, split)
    found = [np.isin(item[user == u], top[u]).mean() for u in np.unique(user)]
    return float(np.mean(found))


def popularity(data: Dataset) -> np.ndarray:
    count = np.bincount(pairs(data, "train")[1], minlength=NUM_ITEMS)
    return np.broadcast_to(count, (NUM_USERS, NUM_ITEMS))


def test_the_truth_ranks_far_better_than_popularity(data: Dataset) -> None:
    truth = true_scores(data.graph, torch.arange(NUM_USERS)).numpy()
    random = np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS))
    for split in ("valid", "test"):
        assert recall(data, truth, split) > 3 * recall(data, popularity(data), split)
    # Popularity cannot rank the cold items, which are only in the test split.
    assert recall(data, popularity(data), "valid") > 1.2 * recall(data, random, "valid")


@pytest.mark.parametrize(("modality", "other"), [("image", "text"), ("text", "image")])
def test_features_reveal_the_taste_of_users(data: Dataset, modality: str, other: str) -> None:
    """The mean of the features a user has in training ranks held-out items above chance, each modality by itself."""
    x = data.graph["item"][f"x_{modality}"].numpy()
    x = (x - x.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0), axis=1, keepdims=True)
    user, item = pairs(data, "train")
    profile = np.zeros((NUM_USERS, x.shape[1]))
    np.add.at(profile, user, x[item])
    random = np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS))
    assert recall(data, profile @ x.T) > 1.2 * recall(data, random)
    assert not np.array_equal(x, data.graph["item"][f"x_{other}"].numpy())


def test_the_graph_is_as_documented(data: Dataset) -> None:
    graph = data.graph
    check_graph(graph)
    assert (graph["user"].num_nodes, graph["item"].num_nodes) == (len(data.users), len(data.items))
    assert (len(data.users), len(data.items)) == (NUM_USERS, NUM_ITEMS)
    assert modalities(graph) == ("image", "text")
    assert data.items.ids[3] == "item-3"
    assert data.facts["cold items"] == COLD
    parts = [set(map(tuple, pairs(data, split).T.tolist())) for split in ("train", "valid", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert np.bincount([user for part in parts for user, _ in part]).min() >= 6


def test_cold_items_are_only_for_testing(data: Dataset) -> None:
    first = NUM_ITEMS - COLD
    assert pairs(data, "train")[1].max() < first
    assert pairs(data, "valid")[1].max() < first
    assert (pairs(data, "test")[1] >= first).any()


def test_warm_interactions_are_split_8_1_1(data: Dataset) -> None:
    warm = {
        split: pairs(data, split)[0][pairs(data, split)[1] < NUM_ITEMS - COLD] for split in ("train", "valid", "test")
    }
    train, val, test = (np.bincount(user, minlength=NUM_USERS) for user in warm.values())
    total = train + val + test
    expected = np.where(total >= 3, np.maximum(1, np.rint(total / 10)), 0)
    assert np.array_equal(val, expected)
    assert np.array_equal(test, expected)


def test_everything_depends_on_the_seed() -> None:
    first, again, other = (synthetic_data(50, 60, seed=seed).graph for seed in (1, 1, 2))
    assert torch.equal(first["item"].x_image, again["item"].x_image)
    assert torch.equal(first[INTERACTS].edge_index, again[INTERACTS].edge_index)
    assert not torch.equal(first["item"].x_image, other["item"].x_image)
    assert not torch.equal(first[INTERACTS].edge_index, other[INTERACTS].edge_index)


@pytest.mark.parametrize("mean", [6, 10, 20])
def test_users_have_the_requested_number_of_interactions(mean: float) -> None:
    data = synthetic_data(NUM_USERS, NUM_ITEMS, mean_interactions=mean)
    total = sum(pairs(data, split).shape[1] for split in ("train", "valid", "test"))
    assert total / NUM_USERS == pytest.approx(mean, rel=0.1)


def test_the_data_set_keeps_the_truth(tmp_path: Path) -> None:
    dataset = Synthetic(str(tmp_path), num_users=50, num_items=60, seed=3)
    graph = synthetic_data(50, 60, seed=3).graph
    users = torch.arange(50)
    assert torch.equal(true_scores(dataset[0], users), true_scores(graph, users))
    assert torch.equal(dataset[0][INTERACTS].edge_index, graph[INTERACTS].edge_index)
    assert torch.equal(dataset[0]["item"].x_text, graph["item"].x_text)


def test_data_sets_of_other_sizes_and_seeds_share_a_folder(tmp_path: Path) -> None:
    settings = [(50, 60, 0), (55, 60, 0), (50, 66, 0), (50, 60, 1)]
    for users, items, seed in [*settings, *settings]:
        dataset = Synthetic(str(tmp_path), users, items, seed)
        graph = synthetic_data(users, items, seed=seed).graph
        assert (len(dataset.users), len(dataset.items)) == (users, items)
        assert torch.equal(dataset[0]["item"].x_image, graph["item"].x_image)
        assert torch.equal(dataset[0][INTERACTS].edge_index, graph[INTERACTS].edge_index)
    names = {path.name for path in (tmp_path / "processed").iterdir()}
    assert {"graph-55-60-0.safetensors", "users-55-60-0.parquet", "items-55-60-0.parquet"} <= names


def test_its_path_is_the_word_synthetic() -> None:
    data = Dataset.from_path("synthetic")
    assert data.facts["source"] == "synthetic"
    check_graph(data.graph)
