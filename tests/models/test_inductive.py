"""New items and new users, against the formulas of the docstrings in dense, slow double precision."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import WITH_TORCH_SPARSE

from lirdrec_pyg.config import LIRDRecConfig
from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    SIMILAR,
    build_graph,
    feature_mask,
    item_features,
    modalities,
    set_new_items,
)
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import (
    LIRDRec,
    Neighbourhood,
    Vectors,
    attach_items,
    check_inductive,
    fold_in_users,
    inductive,
    model_vectors,
)

NUM_USERS, NUM_ITEMS, NUM_NEW, DIM, K = 15, 40, 6, 5, 4
WIDTHS = {"image": 7, "text": 6}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are so small that threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(
    num_items: int = NUM_ITEMS, masked: bool = False, seed: int = 0, **settings: Any
) -> tuple[LIRDRec, HeteroData]:
    """A model, and a graph with new items; the last five items have no interactions."""
    rng = np.random.default_rng(seed)
    train = np.stack(np.nonzero(rng.random((NUM_USERS, num_items - 5)) < 0.3))
    features = {m: rng.standard_normal((num_items, width)) for m, width in WIDTHS.items()}
    masks = {"image": np.arange(num_items) % 5 != 0, "text": np.arange(num_items) % 5 != 2} if masked else None
    config = LIRDRecConfig(**{"embedding_dim": DIM, "knn_k": K, **settings})
    graph = LIRDRec.graph_transform(config)(build_graph(train, features, masks=masks, num_users=NUM_USERS))
    new = {m: rng.standard_normal((NUM_NEW, width)) for m, width in WIDTHS.items()}
    new_masks = {"image": np.arange(NUM_NEW) % 3 != 0, "text": np.arange(NUM_NEW) % 3 != 1} if masked else None
    graph = set_new_items(graph, new, new_masks)
    torch.manual_seed(seed)
    model = LIRDRec.from_config(config, graph)
    for _ in range(2):
        model.start_epoch()
        model(graph)
    return model, graph


def np64(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class Dense:
    """Every number of the formulas as a dense matrix of the whole graph, new items among the others."""

    def __init__(self, model: LIRDRec, data: HeteroData) -> None:
        self.model, self.data = model, data
        self.num_items = data["item"].num_nodes
        user, item = data[INTERACTS].edge_index.numpy()
        taken = np.zeros((NUM_USERS, self.num_items))
        taken[user, item] = 1.0
        self.degree = taken.sum(axis=0)
        adj = taken / np.sqrt(taken.sum(axis=1, keepdims=True) + 1e-7) / np.sqrt(self.degree + 1e-7)
        users, items = unit(np64(model.user)).reshape(NUM_USERS, -1), self.encode("item").reshape(self.num_items, -1)
        self.layers = [items]
        for _ in range(model.bipartite_conv.num_layers):
            users, items = adj @ items, adj.T @ users
            self.layers.append(items)
        self.similar = np.zeros((self.num_items, self.num_items))
        source, target = data[SIMILAR].edge_index.numpy()
        self.similar[target, source] = np64(data[SIMILAR].edge_weight)

    def encode(self, node_type: str) -> np.ndarray:
        xs = [np64(item_features(self.data, m, node_type)) for m in modalities(self.data)]
        xs.append(np.concatenate([scipy.fft.dct(x, norm="ortho", axis=1) for x in xs], axis=1))
        encoded = []
        for x, encoder in zip(xs, self.model.encoders, strict=True):
            w = {name: np64(p) for name, p in encoder.named_parameters()}
            encoded.append(unit(leaky(x @ w["lin1.weight"].T + w["lin1.bias"]) @ w["lin2.weight"].T))
        return np.stack(encoded, axis=1)

    def neighbours(self) -> np.ndarray:
        """The weights a_j of all items, a row a new item."""
        clicked = self.degree > 0
        known, new = self.encode("item"), self.encode(NEW_ITEM)
        mean = known[clicked].mean(axis=0)
        for x, node_type in ((known, "item"), (new, NEW_ITEM)):
            for branch, modality in enumerate(modalities(self.data)):
                mask = feature_mask(self.data, modality, node_type)
                if mask is not None:
                    x[~mask.numpy(), branch] = mean[branch]
        known, new = ((x - mean).reshape(len(x), -1) for x in (known, new))
        cov = known[clicked].T @ known[clicked] / clicked.sum()
        ridge = 0.1 * np.trace(cov) / len(cov)
        whitening = np.linalg.inv(scipy.linalg.sqrtm(cov + ridge * np.eye(len(cov))).real)
        cosine = unit(new @ whitening) @ unit(known @ whitening).T
        weights = np.zeros_like(cosine)
        for row, cos in zip(weights, cosine, strict=True):
            nearest = sorted(np.flatnonzero(clicked), key=lambda j: -cos[j])[:20]
            row[nearest] = np.exp(10 * cos[nearest]) / np.exp(10 * cos[nearest]).sum()
        return weights

    def attach(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and layers of the new items."""
        a = self.neighbours()
        encoded = self.encode(NEW_ITEM)
        layers = [encoded.reshape(len(encoded), -1), *(a @ layer for layer in self.layers[1:])]
        total = np.concatenate([sum(self.layers), sum(layers)])
        num_new = len(encoded)
        similar = np.zeros((self.num_items + num_new,) * 2)
        similar[: self.num_items, : self.num_items] = self.similar
        similar[self.num_items :, : self.num_items] = (1 - 1 / k) * a
        similar[self.num_items :, self.num_items :] = np.eye(num_new) / k
        out = total + np.linalg.matrix_power(similar, self.model.item_conv.num_layers) @ total
        return out[self.num_items :], np.stack(layers)

    def fold_in(self, layers: np.ndarray, histories: list[list[int]]) -> np.ndarray:
        """Users of whom each took some items, by the layers of all items, shape (L + 1, items, B * d)."""
        fusion = self.model.fusion
        theta = np64(fusion.theta).mean(axis=0)
        degree = np.append(self.degree, np.zeros(layers.shape[1] - self.num_items))
        found = []
        for items in histories:
            x = np.zeros(layers.shape[2])
            for layer in layers[:-1]:
                for i in set(items):
                    x += layer[i] / (np.sqrt(len(set(items))) * np.sqrt(degree[i] + 1))
            logits = []
            for b, branch in enumerate(np.split(x, len(theta))):
                w = {
                    n: np64(p) for n, p in (*fusion.fc1[b].named_parameters("1"), *fusion.fc2[b].named_parameters("2"))
                }
                score = w["2.weight"] @ leaky(w["1.weight"] @ branch + w["1.bias"]) + w["2.bias"]
                logits.append(float(fusion.network_weight) * score[0] + float(fusion.memory_weight) * theta[b])
            alpha = np.exp(logits) / np.exp(logits).sum()
            found.append(np.concatenate([w * part for w, part in zip(alpha, np.split(x, len(theta)), strict=True)]))
        return np.stack(found)


def close(actual: Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected), rtol=1e-4, atol=2e-5)


def assert_same_vectors(actual: Vectors, expected: Vectors, **tolerance: float) -> None:
    torch.testing.assert_close(vars(actual), vars(expected), **tolerance)


def attach(model: LIRDRec, data: HeteroData, vectors: Vectors, k: int) -> Vectors:
    return attach_items(model, data, vectors, Neighbourhood.of(model, data, vectors), k)


def neighbours_of(model: LIRDRec, data: HeteroData) -> tuple[Tensor, Tensor]:
    neighbourhood = Neighbourhood.of(model, data, model.vectors(data))
    return inductive._neighbours(model, data, neighbourhood, model.encode_items(data, NEW_ITEM).detach())


# --- New items -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("num_item_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize("num_items", [12, NUM_ITEMS])
def test_new_items_follow_the_formula(num_items: int, num_layers: int, num_item_layers: int, masked: bool) -> None:
    """Of twelve items seven have clicks, which is less than the twenty neighbours asked for."""
    model, data = make(num_items, masked, num_layers=num_layers, num_item_layers=num_item_layers)
    before = model.vectors(data)
    vectors = attach(model, data, before, K)
    item, layers = Dense(model, data).attach(K)
    close(vectors.item[num_items:], item)
    close(vectors.item_layers[:, num_items:], layers)
    assert_same_vectors(vectors.items_until(num_items), before, rtol=0, atol=0)


def test_a_neighbourhood_in_blocks_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make(masked=True)
    vectors = model_vectors(model, data, K)
    whole = Neighbourhood.of(model, data, vectors)
    monkeypatch.setattr(inductive, "_BLOCK_ROWS", 7)
    torch.testing.assert_close(vars(Neighbourhood.of(model, data, vectors)), vars(whole), rtol=1e-5, atol=1e-6)
    # The new items at the end of the vectors have no part in it.
    alone = Neighbourhood.of(model, data, model.vectors(data))
    torch.testing.assert_close(vars(alone), vars(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_an_item_has_its_share_among_its_own_neighbours(k: int) -> None:
    model, data = make(knn_k=k)
    item, _ = Dense(model, data).attach(k)
    close(attach(model, data, model.vectors(data), k).item[NUM_ITEMS:], item)


def test_only_items_with_clicks_are_neighbours() -> None:
    model, data = make()
    neighbours, weight = neighbours_of(model, data)
    clicked = set(data[INTERACTS].edge_index[1].tolist())
    assert neighbours.shape == weight.shape == (NUM_NEW, 20)
    assert set(range(NUM_ITEMS - 5, NUM_ITEMS)).isdisjoint(clicked)
    assert set(neighbours.flatten().tolist()) <= clicked
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(NUM_NEW))
    close(torch.zeros(NUM_NEW, NUM_ITEMS).scatter(1, neighbours, weight.detach()), Dense(model, data).neighbours())


@pytest.mark.parametrize("num_item_layers", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_neither_order_nor_portions_matter(masked: bool, num_item_layers: int) -> None:
    model, data = make(masked=masked, num_item_layers=num_item_layers)
    base = model.vectors(data)
    together = attach(model, data, base, K).items_from(NUM_ITEMS)

    def portion(rows: list[int], vectors: Vectors) -> Vectors:
        x = {m: item_features(data, m, NEW_ITEM)[rows] for m in WIDTHS}
        masks = {m: feature_mask(data, m, NEW_ITEM)[rows] for m in WIDTHS} if masked else None
        return attach(model, set_new_items(data, x, masks), vectors, K)

    order = [4, 1, 5, 0, 2, 3]
    first = portion(order[:2], base)
    both = portion(order[2:], first)
    assert torch.equal(both.item[: NUM_ITEMS + 2], first.item)
    torch.testing.assert_close(both.item[NUM_ITEMS:], together.item[order], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both.item_layers[:, NUM_ITEMS:], together.item_layers[:, order], rtol=1e-5, atol=1e-6)
    alone = torch.cat([portion([n], base).item[NUM_ITEMS:] for n in range(NUM_NEW)])
    torch.testing.assert_close(alone, together.item, rtol=1e-5, atol=1e-6)


def test_an_item_with_the_features_of_another_takes_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make()
    clicked = data[INTERACTS].edge_index[1].unique()[:NUM_NEW]
    data = set_new_items(data, {m: item_features(data, m)[clicked] for m in WIDTHS})
    vectors = model_vectors(model, data, K)
    torch.testing.assert_close(vectors.item_layers[0, NUM_ITEMS:], vectors.item_layers[0, clicked])
    neighbours, weight = neighbours_of(model, data)
    assert neighbours[:, 0].tolist() == clicked.tolist()
    assert (weight[:, 0] > weight[:, 1]).all()
    # The surer the nearest is, the more the item is like it.
    monkeypatch.setattr(inductive, "_SHARPNESS", 1e4)
    vectors = model_vectors(model, data, K)
    torch.testing.assert_close(
        vectors.item_layers[:, NUM_ITEMS:], vectors.item_layers[:, clicked], rtol=1e-4, atol=1e-5
    )


def test_equal_items_everywhere_make_no_nan() -> None:
    x = {"image": torch.ones(6, 3), "text": torch.ones(6, 2)}
    config = LIRDRecConfig(embedding_dim=4, knn_k=2)
    data = LIRDRec.graph_transform(config)(build_graph(np.array([[0, 0, 1], [0, 1, 2]]), x))
    data = set_new_items(data, {m: values[:2] for m, values in x.items()})
    vectors = model_vectors(LIRDRec.from_config(config, data), data, 2)
    assert vectors.item.shape == (8, 12)
    assert vectors.item.isfinite().all()


@pytest.mark.parametrize(
    "backend",
    [
        "torch",
        pytest.param(
            "torch-sparse", marks=pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")
        ),
    ],
)
def test_a_prepared_graph_gives_the_same(backend: Any) -> None:
    model, data = make(num_item_layers=2, masked=True)
    prepared = LIRDRec.input_transform(LIRDRecConfig(), backend)(copy.copy(data))
    assert_same_vectors(model_vectors(model, prepared, K), model_vectors(model, data, K), rtol=1e-4, atol=1e-5)


def test_a_model_in_double_precision_takes_new_items_too() -> None:
    model, data = make(num_item_layers=2)
    expected = model_vectors(model, data, K)
    found = model_vectors(model.double(), data, K)
    assert found.item.dtype == found.item_layers.dtype == torch.double
    torch.testing.assert_close(found.item.float(), expected.item, rtol=1e-4, atol=1e-5)


def test_features_in_half_precision_are_encoded_as_those_of_the_training() -> None:
    model, data = make()
    half = {m: item_features(data, m).half() for m in WIDTHS}
    graph = LIRDRec.graph_transform(LIRDRecConfig(knn_k=K))(
        build_graph(data[INTERACTS].edge_index, half, num_users=NUM_USERS)
    )
    graph = LIRDRec.input_transform(LIRDRecConfig())(set_new_items(graph, {m: x[3:7] for m, x in half.items()}))
    layers = model_vectors(model, graph, K).item_layers
    torch.testing.assert_close(layers[0, NUM_ITEMS:], layers[0, 3:7], rtol=1e-5, atol=1e-6)


def test_model_vectors_are_those_of_the_graph_with_and_without_new_items() -> None:
    model, data = make()
    known = model.vectors(data)
    assert_same_vectors(model_vectors(model, data, K), attach(model, data, known, K), rtol=0, atol=0)
    del data[NEW_ITEM]
    assert_same_vectors(model_vectors(model, data, K), known, rtol=0, atol=0)
    assert NEW_ITEM not in data.node_types


@pytest.mark.parametrize("training", [True, False])
def test_attaching_leaves_no_trace(training: bool) -> None:
    model, data = make()
    model.train(training)
    before, types = copy.deepcopy(model.state_dict()), data.node_types
    keys = [list(store.keys()) for store in data.stores]
    vectors = attach(model, data, model.vectors(data), K)
    assert not vectors.item.requires_grad
    assert all(module.training is training for module in model.modules())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert data.node_types == types
    assert [list(store.keys()) for store in data.stores] == keys


def test_a_transform_over_all_items_can_take_no_other() -> None:
    model, data = make(dct="2d")
    with pytest.raises(ConfigError, match=r"trained with --dct 2d.*Train with --dct feature"):
        check_inductive(model)
    with pytest.raises(ConfigError, match="--dct 2d"):
        model_vectors(model, data, K)
    check_inductive(make()[0])


# --- New users -------------------------------------------------------------------------------------------------------

HISTORIES = [[0, 3, 9], [5], list(range(NUM_ITEMS)), [NUM_ITEMS - 1, 2], [NUM_ITEMS - 2]]


def pairs(histories: list[list[int]]) -> Tensor:
    return torch.tensor([(u, i) for u, items in enumerate(histories) for i in items], dtype=torch.long).view(-1, 2).T


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("with_new", [False, True])
def test_new_users_follow_the_formula(num_layers: int, with_new: bool) -> None:
    model, data = make(num_layers=num_layers)
    vectors = model_vectors(model, data, K) if with_new else model.vectors(data)
    histories = [*HISTORIES, [NUM_ITEMS, NUM_ITEMS + 3, 1], [NUM_ITEMS + 5]] if with_new else HISTORIES
    found = fold_in_users(model, data, vectors, pairs(histories), len(histories))
    close(found.user, Dense(model, data).fold_in(np64(vectors.item_layers), histories))
    torch.testing.assert_close(found.user_weight.sum(dim=1), torch.ones(len(histories)))
    assert found.item is vectors.item
    assert found.item_layers is vectors.item_layers


def test_a_new_user_is_a_user_of_the_larger_graph_who_has_no_vector_of_their_own() -> None:
    """With one layer nobody else's part in it is changed by the newcomer."""
    model, data = make(num_layers=1)
    history = [0, 3, 9, 20]
    edges = torch.cat([data[INTERACTS].edge_index, torch.tensor([[NUM_USERS] * 4, history])], dim=1)
    larger = build_graph(edges, {m: item_features(data, m) for m in WIDTHS})
    larger[SIMILAR].update(data[SIMILAR])
    extended = LIRDRec.from_config(LIRDRecConfig(embedding_dim=DIM, num_layers=1), larger)
    state = model.state_dict()
    state["user"] = torch.cat([state["user"], torch.zeros(1, 3, DIM)])
    for key in ("fusion.theta", "fusion.last_attention"):
        state[key] = torch.cat([state[key], state[key].mean(dim=0, keepdim=True)])
    extended.load_state_dict(state)
    expected = extended.vectors(larger)
    found = fold_in_users(model, data, model.vectors(data), pairs([history]), 1)
    torch.testing.assert_close(found.user[0], expected.user[-1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.user_weight[0], expected.user_weight[-1], rtol=1e-5, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_order_and_repetition_in_a_history_do_not_matter(data: st.DataObject) -> None:
    model, graph = make()
    vectors = model.vectors(graph)
    expected = fold_in_users(model, graph, vectors, pairs(HISTORIES), len(HISTORIES))
    once = pairs(HISTORIES)
    repeated = data.draw(st.lists(st.integers(0, once.size(1) - 1), max_size=9))
    order = data.draw(st.permutations([*range(once.size(1)), *repeated]))
    found = fold_in_users(model, graph, vectors, once[:, order], len(HISTORIES))
    assert_same_vectors(found, expected, rtol=0, atol=0)


def test_nobody_changes_by_the_company() -> None:
    model, data = make()
    vectors = model.vectors(data)
    together = fold_in_users(model, data, vectors, pairs(HISTORIES), len(HISTORIES))
    for row, history in enumerate(HISTORIES):
        alone = fold_in_users(model, data, vectors, pairs([history]), 1)
        torch.testing.assert_close(alone.user[0], together.user[row])


def test_a_user_without_history_has_no_direction() -> None:
    model, data = make()
    found = fold_in_users(model, data, model.vectors(data), pairs([[], [3], []]), 3)
    assert found.user[[0, 2]].eq(0).all()
    assert found.user[1].ne(0).any()
    assert found.user_weight.isfinite().all()


def test_without_a_layer_items_say_nothing_about_users() -> None:
    model, data = make(num_layers=0)
    with pytest.raises(ConfigError, match="--num-layers 0"):
        fold_in_users(model, data, model.vectors(data), pairs([[1]]), 1)
