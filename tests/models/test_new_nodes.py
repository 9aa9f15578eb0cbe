"""New items and new users, against the formulas of the docstrings in dense matrices."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from dense_lirdrec import DenseLIRDRec
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graph import BACKENDS
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    SIMILAR,
    build_graph,
    feature_mask,
    item_features,
    set_new_items,
)
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import (
    ItemRegression,
    LIRDRec,
    LIRDRecConfig,
    Vectors,
    attach_items,
    attach_unclicked,
    continue_from,
    fold_in_users,
    model_vectors,
    new_nodes,
)
from lirdrec_pyg.nn import SeenItems

NUM_USERS, NUM_ITEMS, NUM_NEW, DIM, K = 15, 40, 6, 5, 4
WIDTHS = {"image": 7, "text": 6}


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
    model = LIRDRec.from_config(config, graph).double()
    for _ in range(2):
        model.start_epoch()
        model(graph)
    return model, graph


def assert_same(actual: Any, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(vars(actual), vars(expected), **tolerance)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-5, atol=1e-6)


def attach(model: LIRDRec, data: HeteroData, vectors: Vectors) -> Vectors:
    return attach_items(model, data, vectors, ItemRegression.of(model, data, vectors))


# --- New items -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_new_items_follow_the_formula(masked: bool) -> None:
    for num_layers, num_item_layers in ((0, 1), (1, 0), (2, 1), (3, 2)):
        model, data = make(masked=masked, num_layers=num_layers, num_item_layers=num_item_layers)
        before = model.vectors(data)
        regression = ItemRegression.of(model, data, before)
        vectors = attach_items(model, data, before, regression)
        item, layers = DenseLIRDRec(model, data).attached(regression.strength.tolist(), before.item)
        assert_close(vectors.item[NUM_ITEMS:], item)
        assert_close(vectors.item_layers[:, NUM_ITEMS:], layers)
        assert_same(vectors.items_until(NUM_ITEMS), before, rtol=0, atol=0)


def test_predictions_in_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make(masked=True)
    whole = model_vectors(model, data)
    monkeypatch.setattr(new_nodes, "_BLOCK_ROWS", 4)
    assert_same(model_vectors(model, data), whole)


def test_of_many_items_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make()
    vectors = model.vectors(data)
    monkeypatch.setattr(new_nodes, "_MAX_ITEMS", 9)
    few = ItemRegression.of(model, data, vectors)
    assert len(few.key) == len(few.weight) == 9
    found = few.predict(model, data, "item", torch.arange(NUM_ITEMS))
    assert found[:, : vectors.item.size(1)].isfinite().all()


def test_strengths_predict_held_out_items_best() -> None:
    rng = torch.Generator().manual_seed(0)
    useful, noise = (torch.nn.functional.normalize(torch.randn(300, 4, generator=rng).double()) for _ in range(2))
    target = (useful @ torch.randn(4, 6, generator=rng).double()).sin()
    kernels = [((x @ x.T - 1) / 0.3).exp() for x in (noise, useful)]

    def error(strengths: tuple[float, ...]) -> float:
        kernel = sum(s * k for s, k in zip(strengths, kernels))
        known, mean = target[60:], target[60:].mean(dim=0)
        coefficients = torch.linalg.solve(kernel[60:, 60:] + torch.eye(240), known - mean)
        return float((mean + kernel[:60, 60:] @ coefficients - target[:60]).square().sum())

    found = new_nodes._strengths(kernels, target)
    assert found[0] == 0 < found[1]
    assert max(new_nodes._strengths(kernels[:1], target)) > 0  # else all new items would be alike
    grid = new_nodes._STRENGTHS
    assert error(found) == pytest.approx(min(error((a, b)) for a in grid for b in grid))


@pytest.mark.parametrize("masked", [False, True])
def test_order_and_batches_of_new_items_do_not_matter(masked: bool) -> None:
    model, data = make(masked=masked, num_item_layers=2)
    base = model.vectors(data)
    together = attach(model, data, base).items_from(NUM_ITEMS)

    def batch(rows: list[int], vectors: Vectors) -> Vectors:
        x = {m: item_features(data, m, NEW_ITEM)[rows] for m in WIDTHS}
        masks = {m: feature_mask(data, m, NEW_ITEM)[rows] for m in WIDTHS} if masked else None
        return attach(model, set_new_items(data, x, masks), vectors)

    order = [4, 1, 5, 0, 2, 3]
    first = batch(order[:2], base)
    both = batch(order[2:], first)
    assert torch.equal(both.item[: NUM_ITEMS + 2], first.item)
    assert_close(both.item[NUM_ITEMS:], together.item[order])
    assert_close(both.item_layers[:, NUM_ITEMS:], together.item_layers[:, order])
    assert_close(torch.cat([batch([n], base).item[NUM_ITEMS:] for n in range(NUM_NEW)]), together.item)


def test_an_item_with_the_features_of_another_gets_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make()
    clicked = data[INTERACTS].edge_index[1].unique()[:NUM_NEW]
    data = set_new_items(data, {m: item_features(data, m)[clicked] for m in WIDTHS})
    vectors = model_vectors(model, data)
    assert_close(vectors.item_layers[0, NUM_ITEMS:], vectors.item_layers[0, clicked])
    # The stronger the regression, the closer the new item is to it.
    monkeypatch.setattr(new_nodes, "_STRENGTHS", (1e6,))
    vectors = model_vectors(model, data)
    torch.testing.assert_close(vectors.item[NUM_ITEMS:], vectors.item[clicked], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        vectors.item_layers[:, NUM_ITEMS:], vectors.item_layers[:, clicked], rtol=1e-3, atol=1e-3
    )


def test_equal_items_give_no_nan() -> None:
    x = {"image": torch.ones(6, 3), "text": torch.ones(6, 2)}
    config = LIRDRecConfig(embedding_dim=4, knn_k=2)
    data = LIRDRec.graph_transform(config)(build_graph(np.array([[0, 0, 1], [0, 1, 2]]), x))
    data = set_new_items(data, {m: values[:2] for m, values in x.items()})
    vectors = model_vectors(LIRDRec.from_config(config, data), data)
    assert vectors.item.shape == (8, 12)
    assert vectors.item.isfinite().all()


def test_prepared_graphs_and_single_precision_give_the_same() -> None:
    model, data = make(num_item_layers=2, masked=True)
    expected = model_vectors(model, data)
    for backend in BACKENDS:
        ready = LIRDRec.input_transform(LIRDRecConfig(), backend)(copy.copy(data))
        assert_same(model_vectors(model, ready), expected, rtol=1e-4, atol=1e-5)
    found = model_vectors(model.float(), data)
    assert found.item.dtype == found.item_layers.dtype == torch.float
    torch.testing.assert_close(found.item.double(), expected.item, rtol=1e-4, atol=2e-5)


def test_features_in_half_precision_are_encoded_as_in_training() -> None:
    model, data = make()
    half = {m: item_features(data, m).half() for m in WIDTHS}
    graph = LIRDRec.graph_transform(LIRDRecConfig(knn_k=K))(
        build_graph(data[INTERACTS].edge_index, half, num_users=NUM_USERS)
    )
    graph = LIRDRec.input_transform(LIRDRecConfig())(set_new_items(graph, {m: x[3:7] for m, x in half.items()}))
    layers = model_vectors(model.float(), graph).item_layers
    assert_close(layers[0, NUM_ITEMS:], layers[0, 3:7])


def test_model_vectors_are_those_of_the_graph_with_and_without_new_items() -> None:
    model, data = make()
    known = model.vectors(data)
    assert_same(model_vectors(model, data), attach(model, data, known), rtol=0, atol=0)
    del data[NEW_ITEM]
    assert_same(model_vectors(model, data), known, rtol=0, atol=0)
    assert NEW_ITEM not in data.node_types


@pytest.mark.parametrize("training", [True, False])
def test_attaching_changes_neither_model_nor_graph(training: bool) -> None:
    model, data = make()
    model.train(training)
    before, types = copy.deepcopy(model.state_dict()), data.node_types
    keys = [list(store.keys()) for store in data.stores]
    vectors = attach(model, data, model.vectors(data))
    assert not vectors.item.requires_grad
    assert all(module.training is training for module in model.modules())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert data.node_types == types
    assert [list(store.keys()) for store in data.stores] == keys


def test_a_model_without_config_that_cannot_encode_new_items_is_rejected() -> None:
    _, data = make()
    for model, cause in (
        (LIRDRec(NUM_USERS, WIDTHS, dct="2d"), "`dct='2d'`.*`dct='feature'`"),
        (LIRDRec(NUM_USERS, WIDTHS, num_id_items=NUM_ITEMS), "`id_branch=True`"),
    ):
        with pytest.raises(ConfigError, match=f"new items.*{cause}"):
            model_vectors(model, data)


# --- New users -------------------------------------------------------------------------------------------------------

HISTORIES = [[0, 3, 9], [5], list(range(NUM_ITEMS)), [NUM_ITEMS - 1, 2], [NUM_ITEMS - 2]]


def pairs(histories: list[list[int]]) -> Tensor:
    return torch.tensor([(u, i) for u, items in enumerate(histories) for i in items], dtype=torch.long).view(-1, 2).T


def new(count: int) -> Tensor:
    """Positions of users who were not part of the training."""
    return torch.full((count,), -1)


def trained(data: HeteroData) -> tuple[SeenItems, Tensor]:
    """Training items of the users, and training interactions of all items, new ones among them."""
    edges = data[INTERACTS].edge_index
    return SeenItems.of(edges, NUM_USERS), torch.bincount(edges[1], minlength=NUM_ITEMS + NUM_NEW)


@pytest.mark.parametrize("with_new", [False, True])
def test_new_users_follow_the_formula(with_new: bool) -> None:
    for num_layers in (1, 2, 3):
        model, data = make(num_layers=num_layers)
        vectors = model_vectors(model, data) if with_new else model.vectors(data)
        histories = [*HISTORIES, [NUM_ITEMS, NUM_ITEMS + 3, 1], [NUM_ITEMS + 5]] if with_new else HISTORIES
        found = fold_in_users(model, vectors, *trained(data), pairs(histories), new(len(histories)))
        assert_close(found.user, DenseLIRDRec(model, data).folded_in(vectors.item_layers, histories))
        torch.testing.assert_close(found.user_weight.sum(dim=1), torch.ones(len(histories)).double())
        assert found.item is vectors.item
        assert found.item_layers is vectors.item_layers
        # Other new users make no difference.
        for row, history in enumerate(histories):
            alone = fold_in_users(model, vectors, *trained(data), pairs([history]), new(1))
            torch.testing.assert_close(alone.user[0], found.user[row])


def test_a_new_user_is_a_user_of_the_larger_graph_without_a_free_vector() -> None:
    """With one layer, the new user does not change the inputs of their own representation."""
    model, data = make(num_layers=1)
    history = [0, 3, 9, 20]
    edges = torch.cat([data[INTERACTS].edge_index, torch.tensor([[NUM_USERS] * 4, history])], dim=1)
    larger = build_graph(edges, {m: item_features(data, m) for m in WIDTHS})
    larger[SIMILAR].update(data[SIMILAR])
    extended = LIRDRec.from_config(LIRDRecConfig(embedding_dim=DIM, num_layers=1), larger).double()
    state = model.state_dict()
    state["user"] = torch.cat([state["user"], torch.zeros(1, 3, DIM)])
    for key in ("fusion.theta", "fusion.last_attention"):
        state[key] = torch.cat([state[key], state[key].mean(dim=0, keepdim=True)])
    extended.load_state_dict(state)
    expected = extended.vectors(larger)
    found = fold_in_users(model, model.vectors(data), *trained(data), pairs([history]), new(1))
    assert_close(found.user[0], expected.user[-1])
    assert_close(found.user_weight[0], expected.user_weight[-1])


def test_known_users_without_later_items_keep_their_vectors() -> None:
    for fusion in ("pwc", "mean", "static", "attention"):
        model, data = make(fusion=fusion)
        vectors, known = model.vectors(data), torch.tensor([3, 0, 7])
        again = data[INTERACTS].edge_index[:, data[INTERACTS].edge_index[0] == 3][1]  # items of the training
        later = torch.stack([torch.zeros_like(again), again])
        for history in (pairs([]), later):
            found = fold_in_users(model, vectors, *trained(data), history, known)
            assert_close(found.user, vectors.user[known])
            assert_close(found.user_weight, vectors.user_weight[known])


def test_a_known_user_with_later_items_is_that_user_of_the_larger_graph() -> None:
    """With one layer, the user does not change the inputs of their own representation."""
    model, data = make(num_layers=1)
    user, edges = 4, data[INTERACTS].edge_index
    later = [item for item in range(NUM_ITEMS) if item not in edges[1][edges[0] == user]][:3]
    larger = build_graph(
        torch.cat([edges, torch.tensor([[user] * 3, later])], dim=1), {m: item_features(data, m) for m in WIDTHS}
    )
    larger[SIMILAR].update(data[SIMILAR])
    expected = model.vectors(larger)
    found = fold_in_users(model, model.vectors(data), *trained(data), pairs([[], later]), torch.tensor([-1, user]))
    assert_close(found.user[1], expected.user[user])
    assert_close(found.user_weight[1], expected.user_weight[user])
    assert found.user[0].eq(0).all()


def test_order_and_repetition_in_a_history_do_not_matter() -> None:
    model, graph = make()
    vectors, once = model.vectors(graph), pairs(HISTORIES)
    expected = fold_in_users(model, vectors, *trained(graph), once, new(len(HISTORIES)))

    @settings(max_examples=15)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        repeated = data.draw(st.lists(st.integers(0, once.size(1) - 1), max_size=9))
        order = data.draw(st.permutations([*range(once.size(1)), *repeated]))
        found = fold_in_users(model, vectors, *trained(graph), once[:, order], new(len(HISTORIES)))
        assert_same(found, expected, rtol=0, atol=0)

    check()


def test_a_user_without_history_has_a_zero_vector() -> None:
    model, data = make()
    found = fold_in_users(model, model.vectors(data), *trained(data), pairs([[], [3], []]), new(3))
    assert found.user[[0, 2]].eq(0).all()
    assert found.user[1].ne(0).any()
    assert found.user_weight.isfinite().all()


def test_new_users_need_a_layer() -> None:
    model, data = make(num_layers=0)
    with pytest.raises(ConfigError, match="`num_layers=0`"):
        fold_in_users(model, model.vectors(data), *trained(data), pairs([[1]]), new(1))


def test_items_without_interactions_are_represented_as_new_ones() -> None:
    for changes in ({}, {"item_graph": False}, {"num_item_layers": 2}):
        model, data = make(masked=True, **changes)
        vectors = model.vectors(data)
        regression = ItemRegression.of(model, data, vectors)
        rest = torch.bincount(data[INTERACTS].edge_index[1], minlength=NUM_ITEMS) == 0
        assert rest[-5:].all()
        features, masks = ({m: read(data, m)[rest] for m in WIDTHS} for read in (item_features, feature_mask))
        expected = attach_items(model, set_new_items(data, features, masks), vectors, regression)
        found = attach_unclicked(model, data, vectors, regression)
        assert_close(found.item[rest], expected.item[NUM_ITEMS:])
        assert not torch.allclose(found.item[rest], vectors.item[rest], atol=0.01)
        assert torch.equal(found.item[~rest], vectors.item[~rest])
        assert found.item_layers is vectors.item_layers
    config = LIRDRecConfig(embedding_dim=DIM, knn_k=K)
    complete = build_graph(np.stack(np.ones((2, 8)).nonzero()), {m: item_features(data, m)[:8] for m in WIDTHS})
    complete = LIRDRec.graph_transform(config)(complete)
    model = LIRDRec.from_config(config, complete)
    vectors = model.vectors(complete)
    found = attach_unclicked(model, complete, vectors, ItemRegression.of(model, complete, vectors))
    assert torch.equal(found.item, vectors.item)


def test_a_larger_model_continues_from_a_trained_one() -> None:
    for fusion in ("pwc", "mean", "static", "attention"):
        model, data = make(fusion=fusion)
        history = [[0, 3, 9], [5], []]
        edges = torch.cat([data[INTERACTS].edge_index, pairs(history) + torch.tensor([[NUM_USERS], [0]])], dim=1)
        larger = build_graph(edges, {m: item_features(data, m) for m in WIDTHS}, num_users=NUM_USERS + 3)
        larger[SIMILAR].update(data[SIMILAR])
        fresh = LIRDRec.from_config(LIRDRecConfig(embedding_dim=DIM, knn_k=K, fusion=fusion), larger).double()
        random = fresh.user.detach().clone()
        learned = torch.arange(NUM_USERS + 3) < NUM_USERS
        folded = fold_in_users(model, model.vectors(data), *trained(data), pairs(history), new(3)).user
        continue_from(fresh, model, learned, folded)
        for name, value in fresh.state_dict().items():
            old = model.state_dict()[name]
            assert torch.equal(value[: len(old)] if old.dim() else value, old), name
        length = model.user.norm(dim=-1).mean(dim=0)
        expected = torch.nn.functional.normalize(model.split_branches(folded[:2]), dim=-1) * length.unsqueeze(-1)
        assert_close(fresh.user[NUM_USERS : NUM_USERS + 2], expected)
        assert torch.equal(fresh.user[NUM_USERS + 2], random[NUM_USERS + 2])  # without a fold-in
        if fusion in ("pwc", "static"):
            assert_close(fresh.fusion.theta[NUM_USERS:], model.fusion.theta.mean(dim=0).expand(3, -1))
        # On the old graph, nothing changed.
        whole = torch.arange(NUM_USERS) >= 0
        again, _ = make(fusion=fusion, seed=1)
        continue_from(again, model, whole, folded[:0])
        assert_close(again.vectors(data).user, model.vectors(data).user)
