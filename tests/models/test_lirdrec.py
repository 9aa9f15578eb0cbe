import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_lirdrec import DenseLIRDRec
from small_graph import BACKENDS, NUM_ITEMS, NUM_USERS, TRIPLES, gradients, small_graph
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import (
    INTERACTED_BY,
    INTERACTS,
    SIMILAR,
    build_graph,
    item_features,
    load_graph,
    modalities,
    save_graph,
)
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig
from lirdrec_pyg.nn.dct import DCTMode
from lirdrec_pyg.transforms import SparseBackend

DIM = 4
WIDTHS = {"image": 6, "text": 5, "audio": 3}
SHARES = {
    1: {"image": 1.0},
    2: {"image": 0.1, "text": 0.9},
    3: {"image": 0.1, "text": 0.45, "audio": 0.45},
}


def make_graph(names: tuple[str, ...] = ("image", "text"), k: int = 3, seed: int = 0) -> HeteroData:
    graph = small_graph(seed, {name: WIDTHS.get(name, 4) for name in names})
    return LIRDRec.graph_transform(LIRDRecConfig(knn_k=k))(graph)


def make_model(graph: HeteroData, seed: int = 0, **settings: Any) -> LIRDRec:
    torch.manual_seed(seed)
    config = LIRDRecConfig(**{"embedding_dim": DIM, "reg_weight": 0.05, **settings})
    return LIRDRec.from_config(config, graph).double()


def prepare(graph: HeteroData, backend: SparseBackend = "torch", mode: DCTMode = "feature") -> HeteroData:
    return LIRDRec.input_transform(LIRDRecConfig(dct=mode), backend)(graph)


# --- The method ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["feature", "2d"])
@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_forward_equals_the_dense_equations(num_modalities: int, mode: DCTMode) -> None:
    graph = make_graph(tuple(WIDTHS)[:num_modalities])
    for num_layers, num_item_layers in itertools.product([0, 2, 3], [0, 1, 2]):
        model = make_model(graph, num_layers=num_layers, num_item_layers=num_item_layers, dct=mode)
        model.start_epoch()
        actual = model(graph)
        assert [x.shape[1] for x in actual] == [(num_modalities + 1) * DIM] * 2
        # The edge weights of the graph are float32.
        expected = DenseLIRDRec(model, graph).forward(3, SHARES[num_modalities])
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_negatives", [1, 3])
def test_loss_and_its_gradients_equal_the_closed_form(num_negatives: int) -> None:
    graph = make_graph()
    model = make_model(graph)
    triples = torch.tensor([[0, 1, 1, 5], [0, 2, 3, 6], [5, 6, 0, 1], [4, 3, 2, 0], [6, 0, 5, 5]])[: 2 + num_negatives]

    user, item = DenseLIRDRec(model, graph).forward(3, SHARES[2])
    gaps = torch.stack([item[j] @ user[u] - item[i] @ user[u] for u, i, *js in triples.T.tolist() for j in js])
    terms = gaps.exp().view(-1, num_negatives).sum(dim=1).log1p()
    expected = terms.mean() + 0.05 * (user.square().mean() + item.square().mean())

    actual = model.loss(graph, triples)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    found = gradients(model, actual)
    assert None not in found.values()
    torch.testing.assert_close(found, gradients(model, expected), rtol=1e-4, atol=1e-6)


def permuted(graph: HeteroData, order: Tensor) -> HeteroData:
    """The same data with item ``order[n]`` at position n."""
    features = {name: item_features(graph, name)[order] for name in modalities(graph)}
    user, item = graph[INTERACTS].edge_index
    other = build_graph(torch.stack([user, order.argsort()[item]]), features, num_users=NUM_USERS)
    return LIRDRec.graph_transform(LIRDRecConfig(knn_k=3))(other)


def test_the_order_of_items_matters_in_2d_mode_only() -> None:
    for seed in range(3):
        graph, order = make_graph(seed=seed), torch.randperm(NUM_ITEMS)
        model = make_model(graph)
        user, item = model(graph)
        torch.testing.assert_close(model(permuted(graph, order)), (user, item[order]), rtol=1e-5, atol=1e-5)
    order = torch.arange(NUM_ITEMS).roll(1)
    model = make_model(graph, dct="2d")
    item, moved = model(graph)[1], model(permuted(graph, order))[1]
    assert (moved - item[order]).abs().max() > 0.1
    # Only the shared branch depends on the order.
    torch.testing.assert_close(moved[:, : 2 * DIM], item[order, : 2 * DIM], rtol=1e-5, atol=1e-5)


def test_an_isolated_user_changes_no_other_representation() -> None:
    graph = make_graph()
    model = make_model(graph)
    larger = copy.copy(graph)
    larger["user"].num_nodes = NUM_USERS + 1
    extended = make_model(larger, seed=1)
    of_users = {"user", "fusion.theta", "fusion.last_attention"}
    state = {
        name: torch.cat([value, extended.state_dict()[name][-1:]]) if name in of_users else value
        for name, value in model.state_dict().items()
    }
    extended.load_state_dict(state)
    user, item = model(graph)
    extended_user, extended_item = extended(larger)
    torch.testing.assert_close((extended_user[:-1], extended_item), (user, item))


def test_there_are_user_vectors_of_each_branch_and_no_item_vectors() -> None:
    model = make_model(make_graph())
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["user"] == (NUM_USERS, 3, DIM)
    assert shapes["fusion.theta"] == (NUM_USERS, 3)
    assert not [name for name, shape in shapes.items() if NUM_ITEMS in shape]
    assert "num_users=9, in_channels={'image': 6, 'text': 5}, embedding_dim=4" in repr(model)


def test_user_vectors_start_as_xavier_normal() -> None:
    model = LIRDRec(3000, {"image": 2, "text": 2}, embedding_dim=50)
    scale = (2 / 3050) ** 0.5
    for branch in range(3):
        vectors = model.user[:, branch]
        assert vectors.std().item() == pytest.approx(scale, rel=0.02)
        assert vectors.mean().item() == pytest.approx(0.0, abs=0.02 * scale)
        # A normal distribution: 4.55 % are beyond two standard deviations, in a uniform one none.
        assert (vectors.abs() > 2 * scale).float().mean().item() == pytest.approx(0.0455, abs=0.004)


def test_gradients_are_deterministic() -> None:
    # Large enough for torch to sum gradients of repeated rows in parallel, in an order that may vary.
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    features = {"image": rng.standard_normal((60, 6)), "text": rng.standard_normal((60, 5))}
    config = LIRDRecConfig(embedding_dim=32)
    graph = LIRDRec.graph_transform(config)(build_graph(np.stack(np.nonzero(rng.random((50, 60)) < 0.1)), features))
    data = LIRDRec.input_transform(config)(graph)
    model = LIRDRec.from_config(config, data)
    triples = torch.stack([torch.randint(n, (8192,)) for n in (data["user"].num_nodes, 60, 60)])
    first = gradients(model, model.loss(data, triples))
    for _ in range(5):
        torch.testing.assert_close(gradients(model, model.loss(data, triples)), first, rtol=0, atol=0)
    torch.set_num_threads(1)


# --- Graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["forward", "loss", "recommend", "vectors"])
def test_a_graph_without_the_item_graph_is_rejected_and_not_changed(call: str) -> None:
    graph = make_graph()
    model = make_model(graph)
    model.item_conv.eval()
    modes = [module.training for module in model.modules()]
    del graph[SIMILAR]
    with pytest.raises(DataError, match=r"no item graph.*LIRDRec\.graph_transform"):
        getattr(model, call)(graph, *([TRIPLES] if call == "loss" else []))
    assert SIMILAR not in graph.edge_types
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(("mode", "other"), [("feature", "2d"), ("2d", "feature")])
def test_a_cached_transform_is_used_in_its_own_mode_only(
    mode: DCTMode, other: DCTMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make_graph()
    model = make_model(graph, dct=mode)
    expected = model(graph)
    torch.testing.assert_close(model(prepare(graph, mode=other)), expected, rtol=1e-5, atol=1e-5)
    # A file does not contain the mode of its transform.
    save_graph(prepare(graph, mode=other), tmp_path / "graph.safetensors")
    torch.testing.assert_close(model(load_graph(tmp_path / "graph.safetensors")), expected, rtol=1e-5, atol=1e-5)

    def fail(*_: Any) -> None:
        raise AssertionError("computed again")

    for name in ("forward", "fold_into"):
        monkeypatch.setattr(model.dct, name, fail)
    torch.testing.assert_close(model(prepare(graph, mode=mode).to("cpu")), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError, match="computed again"):
        model(graph)


def test_a_new_item_graph_on_a_prepared_graph_is_used() -> None:
    graph = make_graph(k=2)
    model, wider = make_model(graph), LIRDRec.graph_transform(LIRDRecConfig(knn_k=5))
    for backend in BACKENDS:
        stale = prepare(wider(prepare(graph, backend)), backend)
        torch.testing.assert_close(model(stale), model(prepare(wider(graph), backend)), rtol=0, atol=0)
        assert not torch.equal(model(stale)[1], model(prepare(graph, backend))[1])


def test_awkward_names_of_modalities() -> None:
    for names in (("keys", "type"), ("a.b",), ("shared", "user", "x_"), ("dct",), ("ä b",)):
        graph, plain = make_graph(names), make_graph(tuple(f"m{n}" for n in range(len(names))))
        model, twin = make_model(graph), make_model(plain)
        assert list(model.in_channels) == list(names)
        assert model.state_dict().keys() == twin.state_dict().keys()
        assert all(map(torch.equal, model(prepare(graph)), twin(prepare(plain))))


def test_half_precision_features_are_encoded_in_the_models_precision() -> None:
    graph = make_graph()
    model = make_model(graph).float()
    half = copy.copy(graph)
    for name in modalities(graph):
        half["item"][f"x_{name}"] = item_features(graph, name).half()
    out = model(half)
    assert all(x.dtype == torch.float32 for x in out)
    torch.testing.assert_close(out, model(graph), rtol=1e-2, atol=1e-2)


def test_missing_weights_in_one_direction_are_rejected() -> None:
    graph = make_graph()
    graph[INTERACTS].edge_weight = torch.ones(graph[INTERACTS].edge_index.size(1))
    with pytest.raises(ValueError, match="one direction only"):
        make_model(graph)(graph)
    assert "edge_weight" not in graph[INTERACTED_BY]


# --- Training in several processes or with sparse gradients ----------------------------------------------------------


def test_users_are_synchronized_between_processes() -> None:
    graph = make_graph()
    mine, theirs, users = make_model(graph), make_model(graph), torch.tensor([0, 2, 5])
    mine.fusion.last_attention[:] = 0.25
    theirs.fusion.last_attention[:] = 0.75
    theirs.fusion.last_attention[0] = torch.nan  # never seen there
    known = torch.tensor([[True, True, False], [False, True, True]]).unsqueeze(-1)
    parts: list[Tensor] = []
    for model, rows in zip((mine, theirs), known, strict=True):
        model.synchronize_users(users, rows, lambda part: parts.append(part) or part)
    for model, rows in zip((mine, theirs), known, strict=True):
        model.synchronize_users(users, rows, lambda _: parts[0] + parts[1])
        assert model.fusion.last_attention[users].tolist() == [[0.25] * 3, [0.5] * 3, [0.75] * 3]
    assert mine.fusion.last_attention[1].tolist() == [0.25] * 3
    make_model(graph, fusion="mean").synchronize_users(users, known[0], torch.clone)


def test_sparse_user_gradients() -> None:
    model = make_model(make_graph())
    assert not model.sparse_user_gradients
    assert model.use_sparse_user_gradients() is model.user
    assert model.sparse_user_gradients


# --- Recommendations -------------------------------------------------------------------------------------------------


def test_recommendations_are_sorted_and_exclude_seen_items() -> None:
    graph = make_graph()
    model = make_model(graph)
    score, item = model.recommend(prepare(graph), k=4)
    user_rep, item_rep = model(graph)
    seen = set(map(tuple, graph[INTERACTS].edge_index.T.tolist()))
    for u in range(NUM_USERS):
        scores = (item_rep @ user_rep[u]).tolist()
        ranked = sorted((i for i in range(NUM_ITEMS) if (u, i) not in seen), key=lambda i: -scores[i])[:4]
        assert item[u, : len(ranked)].tolist() == ranked
        assert score[u, : len(ranked)].tolist() == pytest.approx([scores[i] for i in ranked], rel=1e-4)
        assert score[u, len(ranked) :].eq(-torch.inf).all()
    score, item = model.recommend(graph, torch.tensor([3, 0]), k=50, exclude_seen=False)
    expected = (user_rep[[3, 0]] @ item_rep.T).sort(dim=1, descending=True)
    assert torch.equal(item, expected.indices)
    torch.testing.assert_close(score, expected.values)


@pytest.mark.parametrize("training", [True, False])
def test_recommending_changes_nothing(training: bool) -> None:
    graph = make_graph()
    model = make_model(graph).train(training)
    model(graph)
    model.item_conv.eval()
    modes, before = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.user.add_(1.0)
    before["user"].add_(1.0)
    score, _ = model.recommend(graph)
    assert not score.requires_grad
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_users_are_passed_as_positions_of_any_integer_type() -> None:
    graph = make_graph()
    model = make_model(graph)
    expected = [x[[4, 1]] for x in model.recommend(graph, k=3)]
    some = [torch.tensor([4, 1], dtype=kind) for kind in (torch.int64, torch.int32, torch.uint8, torch.uint16)]
    for index in ([4, 1], np.array([4, 1]), *some):
        torch.testing.assert_close([*model.recommend(graph, index, k=3)], expected)
    for index in ([], some[0][:0]):
        assert [x.shape for x in model.recommend(graph, index, k=3)] == [(0, 3)] * 2


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, NUM_USERS], "contains 9. .*from 0 to 8"),
        (torch.tensor([2, -1]), "contains -1. .*from 0 to 8"),
        ([0.0, 1.0], r"torch.float32 .*integers of shape \(N,\)"),
        (torch.ones(NUM_USERS, dtype=torch.bool), r"torch.bool and shape \(9,\)"),
        (torch.tensor([[0, 1]]), r"shape \(1, 2\)"),
        (torch.tensor(3), r"shape \(\)"),
        (["ann"], "cannot be converted"),
    ],
)
def test_invalid_users_are_rejected(index: Any, message: str) -> None:
    graph = make_graph()
    with pytest.raises(DataError, match=f"`user_index` .*{message}"):
        make_model(graph).recommend(graph, index)


def test_at_least_one_item_must_be_requested() -> None:
    graph = make_graph()
    for k in (0, -3):
        with pytest.raises(DataError, match=f"`k` is {k}"):
            make_model(graph).recommend(graph, k=k)


def test_features_are_not_checked_again() -> None:
    graph = make_graph()
    graph["item"].x_image[0] = torch.nan
    assert make_model(graph)(graph)[1].isnan().any()
