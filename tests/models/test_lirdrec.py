import copy
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import WITH_TORCH_SPARSE

from lirdrec_pyg.config import DCTMode, LIRDRecConfig, SparseBackend
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
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models import LIRDRec

Backend = SparseBackend | Literal["raw"]

NUM_USERS, NUM_ITEMS, DIM = 7, 8, 4
WIDTHS = {"image": 6, "text": 5, "audio": 3}
NAMES = ("image", "text", "audio")


def make_graph(names: tuple[str, ...] = NAMES[:2], k: int = 3, seed: int = 0) -> HeteroData:
    """A graph with its item graph; the last user and the last item have no interactions."""
    rng = np.random.default_rng(seed)
    mask = rng.random((NUM_USERS - 1, NUM_ITEMS - 1)) < 0.4
    mask[0, :2] = True
    features = {name: rng.standard_normal((NUM_ITEMS, WIDTHS.get(name, 4))) for name in names}
    graph = build_graph(np.stack(np.nonzero(mask)), features, num_users=NUM_USERS)
    return LIRDRec.graph_transform(LIRDRecConfig(knn_k=k))(graph)


def make_model(graph: HeteroData, seed: int = 0, **settings: Any) -> LIRDRec:
    torch.manual_seed(seed)
    config = LIRDRecConfig(**{"embedding_dim": DIM, "reg_weight": 0.05, **settings})
    return LIRDRec.from_config(config, graph).double()


def prepare(graph: HeteroData, backend: Backend, mode: DCTMode = "feature") -> HeteroData:
    """The graph as training takes it, or the bare edges for ``raw``."""
    return graph if backend == "raw" else LIRDRec.input_transform(LIRDRecConfig(dct=mode), backend)(graph)


BACKENDS = pytest.mark.parametrize(
    "backend",
    [
        "raw",
        "torch",
        pytest.param(
            "torch-sparse", marks=pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")
        ),
    ],
)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


class DenseLIRDRec:
    """The method's equations one by one, in dense matrices, from the weights of a model."""

    def __init__(self, model: LIRDRec, graph: HeteroData, k: int, shares: Mapping[str, float]) -> None:
        self.model = model
        self.xs = [item_features(graph, name).double() for name in modalities(graph)]
        self.interactions = torch.zeros(NUM_USERS, NUM_ITEMS, dtype=torch.double)
        user, item = graph[INTERACTS].edge_index
        self.interactions[user, item] = 1.0
        self.similar = sum(
            (share * self._knn(x, k) for x, share in zip(self.xs, shares.values(), strict=True)),
            torch.zeros(NUM_ITEMS, NUM_ITEMS, dtype=torch.double),
        )

    @staticmethod
    def _knn(x: Tensor, k: int) -> Tensor:
        similarity = unit(x) @ unit(x).T
        best = similarity.topk(k, dim=1).indices
        return torch.zeros_like(similarity).scatter(1, best, 1 / (k + 1e-7))

    def shared_input(self) -> Tensor:
        axes = (1,) if self.model.dct.mode == "feature" else (0, 1)
        return torch.cat([torch.from_numpy(scipy.fft.dctn(x.numpy(), norm="ortho", axes=axes)) for x in self.xs], dim=1)

    def start_vectors(self) -> Tensor:
        """E0: users above items, branches side by side."""
        columns = []
        for b, x in enumerate([*self.xs, self.shared_input()]):
            state = dict(self.model.encoders[b].named_parameters())
            encoded = leaky(x @ state["lin1.weight"].T + state["lin1.bias"]) @ state["lin2.weight"].T
            columns.append(unit(torch.cat([self.model.user[:, b], encoded])))
        return torch.cat(columns, dim=1)

    def forward(self, num_layers: int, num_item_layers: int) -> tuple[Tensor, Tensor]:
        adj = torch.zeros(NUM_USERS + NUM_ITEMS, NUM_USERS + NUM_ITEMS, dtype=torch.double)
        adj[:NUM_USERS, NUM_USERS:], adj[NUM_USERS:, :NUM_USERS] = self.interactions, self.interactions.T
        scale = (adj.sum(dim=1) + 1e-7) ** -0.5
        adj = scale.unsqueeze(1) * adj * scale

        layers = [self.start_vectors()]
        for _ in range(num_layers):
            layers.append(adj @ layers[-1])
        total = torch.stack(layers).sum(dim=0)
        user, item = total[:NUM_USERS], total[NUM_USERS:]
        item = item + torch.linalg.matrix_power(self.similar, num_item_layers) @ item
        return self.fuse(user), item

    def fuse(self, user: Tensor) -> Tensor:
        fusion = self.model.fusion
        branches = user.split(DIM, dim=1)
        scores = []
        for u, fc1, fc2 in zip(branches, fusion.fc1, fusion.fc2, strict=True):
            scores.append(leaky(u @ fc1.weight.T + fc1.bias) @ fc2.weight.T + fc2.bias)
        weighted = float(fusion.network_weight) * torch.cat(scores, dim=1)
        weighted = weighted + float(fusion.memory_weight) * fusion.theta
        alpha = weighted.exp() / weighted.exp().sum(dim=1, keepdim=True)
        return torch.cat([alpha[:, b : b + 1] * u for b, u in enumerate(branches)], dim=1)


def gradients(model: LIRDRec, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


SHARES = {
    1: {"image": 1.0},
    2: {"image": 0.1, "text": 0.9},
    3: {"image": 0.1, "text": 0.45, "audio": 0.45},
}


@pytest.mark.parametrize("num_layers", [0, 2, 3])
@pytest.mark.parametrize("num_item_layers", [0, 1, 2])
@pytest.mark.parametrize("num_modalities", [1, 2, 3])
@pytest.mark.parametrize("mode", ["feature", "2d"])
def test_forward_equals_the_dense_equations(
    num_layers: int, num_item_layers: int, num_modalities: int, mode: DCTMode
) -> None:
    graph = make_graph(NAMES[:num_modalities])
    model = make_model(graph, num_layers=num_layers, num_item_layers=num_item_layers, dct=mode)
    model.start_epoch()
    reference = DenseLIRDRec(model, graph, 3, SHARES[num_modalities])

    expected = reference.forward(num_layers, num_item_layers)
    actual = model(graph)
    assert [x.shape[1] for x in actual] == [(num_modalities + 1) * DIM] * 2
    # The weights of the graph are float32.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_negatives", [1, 3])
def test_loss_and_its_gradients_equal_the_closed_form(num_negatives: int) -> None:
    graph = make_graph()
    model = make_model(graph)
    triples = torch.tensor([[0, 1, 1, 5], [0, 2, 3, 6], [5, 6, 0, 1], [4, 3, 2, 0], [6, 0, 5, 5]])[: 2 + num_negatives]

    user, item = DenseLIRDRec(model, graph, 3, SHARES[2]).forward(2, 1)
    gaps = torch.stack([item[j] @ user[u] - item[i] @ user[u] for u, i, *js in triples.T.tolist() for j in js])
    terms = gaps.exp().view(-1, num_negatives).sum(dim=1).log1p()
    expected = terms.mean() + 0.05 * (user.square().mean() + item.square().mean())

    actual = model.loss(graph, triples)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    actual_gradients = gradients(model, actual)
    assert actual_gradients.keys() == dict(model.named_parameters()).keys()
    torch.testing.assert_close(actual_gradients, gradients(model, expected), rtol=1e-4, atol=1e-6)


@BACKENDS
@pytest.mark.parametrize("mode", ["feature", "2d"])
def test_backends_agree_in_output_and_gradients(backend: Backend, mode: DCTMode) -> None:
    graph = make_graph()
    model = make_model(graph, dct=mode)
    triples = torch.tensor([[0, 1, 2], [0, 2, 3], [5, 6, 0]])
    results = []
    for data in (graph, prepare(graph, backend, mode)):
        loss = model.loss(data, triples)
        results.append((model(data), loss, gradients(model, loss)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


def permuted(graph: HeteroData, order: Tensor) -> HeteroData:
    """The same data with item ``order[n]`` at position n."""
    place = order.argsort()
    features = {name: item_features(graph, name)[order] for name in modalities(graph)}
    user, item = graph[INTERACTS].edge_index
    other = build_graph(torch.stack([user, place[item]]), features, num_users=NUM_USERS)
    return LIRDRec.graph_transform(LIRDRecConfig(knn_k=3))(other)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(NUM_ITEMS)), seed=st.integers(0, 5))
def test_the_order_of_items_does_not_matter_in_feature_mode(order: list[int], seed: int) -> None:
    graph, index = make_graph(seed=seed), torch.tensor(order)
    model = make_model(graph)
    user, item = model(graph)
    torch.testing.assert_close(model(permuted(graph, index)), (user, item[index]), rtol=1e-5, atol=1e-5)


def test_the_order_of_items_matters_in_2d_mode() -> None:
    graph, order = make_graph(), torch.arange(NUM_ITEMS).roll(1)
    model = make_model(graph, dct="2d")
    item, moved = model(graph)[1], model(permuted(graph, order))[1]
    assert (moved - item[order]).abs().max() > 0.1
    # Only the shared branch sees the order.
    torch.testing.assert_close(moved[:, : 2 * DIM], item[order, : 2 * DIM], rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_an_isolated_user_changes_nobody_else(seed: int) -> None:
    graph = make_graph(seed=seed)
    model = make_model(graph)
    larger = copy.copy(graph)
    larger["user"].num_nodes = NUM_USERS + 1
    extended = make_model(larger, seed=1)
    state = {
        name: torch.cat([value, extended.state_dict()[name][-1:]]) if value.shape[:1] == (NUM_USERS,) else value
        for name, value in model.state_dict().items()
    }
    extended.load_state_dict(state)
    user, item = model(graph)
    extended_user, extended_item = extended(larger)
    torch.testing.assert_close((extended_user[:-1], extended_item), (user, item))


class TestRecommend:
    @BACKENDS
    def test_best_first_and_nothing_seen(self, backend: Backend) -> None:
        graph = make_graph()
        model = make_model(graph)
        score, item = model.recommend(prepare(graph, backend), k=4)
        user_rep, item_rep = model(graph)
        seen = set(map(tuple, graph[INTERACTS].edge_index.T.tolist()))
        for u in range(NUM_USERS):
            all_scores = (item_rep @ user_rep[u]).tolist()
            ranked = sorted((i for i in range(NUM_ITEMS) if (u, i) not in seen), key=lambda i: -all_scores[i])[:4]
            assert item[u, : len(ranked)].tolist() == ranked
            assert score[u, : len(ranked)].tolist() == pytest.approx([all_scores[i] for i in ranked], rel=1e-4)
            assert score[u, len(ranked) :].eq(-torch.inf).all()

    def test_seen_items_come_when_asked_for(self) -> None:
        graph = make_graph()
        model = make_model(graph)
        score, item = model.recommend(graph, torch.tensor([3, 0]), k=50, exclude_seen=False)
        user_rep, item_rep = model(graph)
        expected = (user_rep[[3, 0]] @ item_rep.T).sort(dim=1, descending=True)
        assert torch.equal(item, expected.indices)
        torch.testing.assert_close(score, expected.values)

    def test_some_users_and_no_users(self) -> None:
        graph = make_graph()
        model = make_model(graph)
        index = torch.tensor([4, 1])
        for some, whole in zip(model.recommend(graph, index, k=3), model.recommend(graph, k=3), strict=True):
            torch.testing.assert_close(some, whole[index])
        assert [x.shape for x in model.recommend(graph, index[:0], k=3)] == [(0, 3)] * 2

    @pytest.mark.parametrize("training", [True, False])
    def test_leaves_no_trace(self, training: bool) -> None:
        graph = make_graph()
        model = make_model(graph).train(training)
        model(graph)
        before = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            model.user.add_(1.0)
        before["user"].add_(1.0)
        score, _ = model.recommend(graph)
        assert not score.requires_grad
        assert all(module.training is training for module in model.modules())
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0, equal_nan=True)

    def test_an_error_in_the_pass_leaves_the_mode_as_it_was(self) -> None:
        graph = make_graph()
        model = make_model(graph)
        model.item_conv.eval()
        before = [module.training for module in model.modules()]
        del graph[SIMILAR]
        with pytest.raises(DataError):
            model.recommend(graph)
        assert [module.training for module in model.modules()] == before

    @pytest.mark.parametrize("k", [0, -3])
    def test_at_least_one_item_has_to_be_asked_for(self, k: int) -> None:
        graph = make_graph()
        with pytest.raises(DataError, match=f"k is {k}: ask for at least 1 item"):
            make_model(graph).recommend(graph, k=k)

    @pytest.mark.parametrize(
        "index",
        [
            [4, 1],
            np.array([4, 1]),
            torch.tensor([4, 1], dtype=torch.int32),
            torch.tensor([4, 1], dtype=torch.uint8),
            torch.tensor([4, 1], dtype=torch.uint16),
        ],
        ids=["list", "array", "int32", "uint8", "uint16"],
    )
    def test_positions_may_be_any_integers(self, index: Any) -> None:
        graph = make_graph()
        model = make_model(graph)
        for found, expected in zip(model.recommend(graph, index), model.recommend(graph), strict=True):
            torch.testing.assert_close(found, expected[[4, 1]])

    def test_an_empty_list_is_nobody(self) -> None:
        graph = make_graph()
        assert [x.shape for x in make_model(graph).recommend(graph, [], k=3)] == [(0, 3)] * 2

    @pytest.mark.parametrize(
        ("index", "text"),
        [
            ([0, NUM_USERS], "user_index holds 7, but the positions of users go from 0 to 6."),
            (torch.tensor([2, -1]), "user_index holds -1, but the positions of users go from 0 to 6."),
            ([0.0, 1.0], "user_index has to be positions of users, integers of shape (N,), got torch.float32"),
            (torch.ones(NUM_USERS, dtype=torch.bool), "integers of shape (N,), got torch.bool of shape (7,)."),
            (torch.tensor([[0, 1]]), "got torch.int64 of shape (1, 2)."),
            (torch.tensor(3), "got torch.int64 of shape ()."),
            (["ann"], "user_index can't be made a tensor of positions"),
        ],
    )
    def test_users_are_given_by_their_positions(self, index: Any, text: str) -> None:
        graph = make_graph()
        with pytest.raises(DataError, match=re.escape(text)):
            make_model(graph).recommend(graph, index)

    def test_features_are_not_scanned_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("scanned")

        graph = make_graph()
        monkeypatch.setattr("lirdrec_pyg.data.graph.check_features", refuse)
        make_model(graph).recommend(graph)


@pytest.mark.parametrize("call", ["forward", "loss", "recommend"])
def test_a_graph_without_the_item_graph_is_refused_and_left_alone(call: str) -> None:
    graph = make_graph()
    model = make_model(graph)
    del graph[SIMILAR]
    triples = [torch.tensor([[0], [0], [5]])] if call == "loss" else []
    with pytest.raises(DataError, match=r"lacks the item graph: apply LIRDRec\.graph_transform"):
        getattr(model, call)(graph, *triples)
    assert SIMILAR not in graph.edge_types


@pytest.mark.parametrize(("mode", "other"), [("feature", "2d"), ("2d", "feature")])
def test_a_cached_transform_of_the_other_mode_is_not_used(mode: DCTMode, other: DCTMode, tmp_path: Path) -> None:
    graph = make_graph()
    model = make_model(graph, dct=mode)
    expected = model(graph)
    torch.testing.assert_close(model(prepare(graph, "torch", other)), expected, rtol=1e-5, atol=1e-5)
    # A file does not say of which mode the result in it is.
    save_graph(prepare(graph, "torch", other), tmp_path / "graph.safetensors")
    torch.testing.assert_close(model(load_graph(tmp_path / "graph.safetensors")), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["feature", "2d"])
def test_a_cached_transform_of_its_own_mode_is_used(mode: DCTMode, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make_graph()
    model, data = make_model(graph, dct=mode), prepare(graph, "torch", mode)

    def refuse(*_: Any) -> None:
        raise AssertionError("computed again")

    for name in ("forward", "fold_into"):
        monkeypatch.setattr(model.dct, name, refuse)
    model(data.to("cpu"))
    with pytest.raises(AssertionError, match="computed again"):
        model(graph)


@BACKENDS
def test_a_new_item_graph_on_a_prepared_graph_counts(backend: Backend) -> None:
    graph = make_graph(k=2)
    model, wider = make_model(graph), LIRDRec.graph_transform(LIRDRecConfig(knn_k=5))
    stale = prepare(wider(prepare(graph, backend)), backend)
    torch.testing.assert_close(model(stale), model(prepare(wider(graph), backend)), rtol=0, atol=0)
    assert not torch.equal(model(stale)[1], model(prepare(graph, backend))[1])


def test_state_dict_round_trip_and_deepcopy() -> None:
    graph = make_graph()
    model = make_model(graph)
    model.start_epoch()
    model(graph)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = make_model(graph, seed=1)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(model)
    for each in (model, loaded, copied):
        each.start_epoch()
    expected = model(graph)
    for other in (loaded, copied):
        assert all(map(torch.equal, other(graph), expected))
    copied.reset_parameters()
    assert all(map(torch.equal, model(graph), expected))
    assert not torch.equal(copied.user, model.user)


@BACKENDS
def test_bf16_autocast_is_close_to_float32(backend: Backend) -> None:
    graph = make_graph()
    model, data = make_model(graph).float(), prepare(graph, backend)
    exact = model(data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(data)
        loss = model.loss(data, torch.tensor([[0, 1], [0, 2], [5, 6]]))
    loss.backward()
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
        assert not torch.equal(a, b)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("names", [("keys", "type"), ("a.b",), ("shared", "user", "x_"), ("dct",), ("ä b",)])
def test_awkward_names_of_modalities(names: tuple[str, ...]) -> None:
    graph, plain = make_graph(names), make_graph(tuple(f"m{n}" for n in range(len(names))))
    # Widths and features are those of the plain names, and so has everything else to be.
    model, data = make_model(graph), prepare(graph, "torch")
    twin = make_model(plain)
    assert list(model.in_channels) == list(names)
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert all(map(torch.equal, model(data), twin(prepare(plain, "torch"))))


def test_half_precision_features_are_encoded_in_the_models_precision() -> None:
    graph = make_graph()
    model = make_model(graph).float()
    half = copy.copy(graph)
    for name in modalities(graph):
        half["item"][f"x_{name}"] = item_features(graph, name).half()
    out = model(half)
    assert all(x.dtype == torch.float32 for x in out)
    torch.testing.assert_close(out, model(graph), rtol=1e-2, atol=1e-2)


def test_missing_weights_in_one_direction_do_not_pass_silently() -> None:
    graph = make_graph()
    graph[INTERACTS].edge_weight = torch.ones(graph[INTERACTS].edge_index.size(1))
    with pytest.raises(ValueError, match="one direction only"):
        make_model(graph)(graph)
    assert "edge_weight" not in graph[INTERACTED_BY]


def test_there_are_user_vectors_of_each_branch_and_no_item_vectors() -> None:
    graph = make_graph()
    model = make_model(graph)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["user"] == (NUM_USERS, 3, DIM)
    assert shapes["fusion.theta"] == (NUM_USERS, 3)
    assert not [name for name, shape in shapes.items() if NUM_ITEMS in shape]
    assert "num_users=7, in_channels={'image': 6, 'text': 5}, embedding_dim=4" in repr(model)


def test_user_vectors_start_as_xavier_normal() -> None:
    model = LIRDRec(3000, {"image": 2, "text": 2}, embedding_dim=50)
    scale = (2 / 3050) ** 0.5
    for branch in range(3):
        vectors = model.user[:, branch]
        assert vectors.std().item() == pytest.approx(scale, rel=0.02)
        assert vectors.mean().item() == pytest.approx(0.0, abs=0.02 * scale)
        # A normal distribution: 4.55 % beyond two standard deviations, which a uniform one lacks.
        assert (vectors.abs() > 2 * scale).float().mean().item() == pytest.approx(0.0455, abs=0.004)


def test_gradients_are_the_same_every_time() -> None:
    # Large enough for torch to sum gradients of repeated rows in parallel, where order may vary.
    graph = synthetic_data(num_users=50, num_items=60).graph
    config = LIRDRecConfig(embedding_dim=32)
    data = LIRDRec.input_transform(config)(LIRDRec.graph_transform(config)(graph))
    model = LIRDRec.from_config(config, data)
    generator = torch.Generator().manual_seed(0)
    triples = torch.stack([torch.randint(n, (8192,), generator=generator) for n in (50, 60, 60)])

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model.loss(data, triples).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    first = gradients()
    for _ in range(10):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
