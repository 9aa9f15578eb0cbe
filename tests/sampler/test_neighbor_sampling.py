"""Sampled neighborhoods of batches, and the outputs of a model for them."""

from typing import Any

import pytest
import torch
from adjacencies import needs_torch_sparse
from torch import Tensor
from torch_geometric import typing as pyg
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.data import INTERACTS, SIMILAR
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.models.lirdrec import LIRDRecConfig
from lirdrec_pyg.nn import SparseOperator, gather_rows
from lirdrec_pyg.sampler import BPRSampler, NeighborSampling, SampledGraph, check_sampling

pytestmark = needs_torch_sparse


MODEL = LIRDRecConfig(embedding_dim=8, knn_k=4)


@pytest.fixture(scope="module")
def raw_graph() -> HeteroData:
    return LIRDRec.graph_transform(MODEL)(synthetic_data(num_users=60, num_items=40).graph)


@pytest.fixture(scope="module")
def graph(raw_graph: HeteroData) -> HeteroData:
    return LIRDRec.input_transform(MODEL)(raw_graph)


@pytest.fixture(scope="module")
def triples(graph: HeteroData) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    sampler = BPRSampler(
        graph[INTERACTS].edge_index, graph["user"].num_nodes, graph["item"].num_nodes, generator=generator
    )
    return sampler.sample_epoch()


def sampled(sampling: NeighborSampling, triples: Tensor, seed: int = 1) -> tuple[SampledGraph, Tensor]:
    (found,) = sampling.batches([triples], [seed])
    return found


def gradients(model: LIRDRec, data: HeteroData | SampledGraph, triples: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model.loss(data, triples)
    loss.backward()
    return loss.detach(), {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_layers": 1},
        {"num_layers": 3, "num_item_layers": 2},
        {"num_item_layers": 0},
        {"num_layers": 0},
        {"num_layers": 0, "num_item_layers": 0},
        {"dct": "2d"},
        {"dct": "none", "item_graph": False},
        {"fusion": "static"},
        {"fusion": "mean", "only_modality": "text"},
    ],
    ids=str,
)
def test_with_all_neighbors_a_batch_has_the_loss_and_the_gradients_of_a_full_pass(
    raw_graph: HeteroData, triples: Tensor, settings: dict[str, Any]
) -> None:
    config = LIRDRecConfig(**{**vars(MODEL), "reg_weight": 0.0, **settings})
    data = LIRDRec.sampling_transform(config)(LIRDRec.graph_transform(config)(raw_graph))
    torch.manual_seed(0)
    model = LIRDRec.from_config(config, data).double()
    model.start_epoch()
    sampling = NeighborSampling(data, [-1] * config.num_layers, config.num_item_layers)
    for sparse, negatives in ((False, triples[2:]), (True, torch.cat([triples[2:], triples[2:].flip([1])]))):
        for batch in torch.cat([triples[:2], negatives]).split(40, dim=1)[:2]:
            model.sparse_user_gradients = False
            expected, wanted = gradients(model, data, batch)
            model.sparse_user_gradients = sparse
            loss, found = gradients(model, *sampled(sampling, batch))
            assert loss == pytest.approx(float(expected), abs=1e-6)
            assert found.keys() == wanted.keys()
            for name in wanted:
                torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-6)


def test_the_regularizer_uses_the_nodes_of_the_batch(graph: HeteroData, triples: Tensor) -> None:
    model = LIRDRec.from_config(LIRDRecConfig(**{**vars(MODEL), "reg_weight": 0.5}), graph)
    sample, rows = sampled(NeighborSampling(graph, [-1, -1]), triples[:, :10])
    user, item = (x.detach() for x in model(graph))
    bpr = -torch.nn.functional.logsigmoid(
        (user[triples[0, :10]] * (item[triples[1, :10]] - item[triples[2, :10]])).sum(dim=1)
    ).mean()
    batch_users, batch_items = triples[0, :10].unique(), triples[1:, :10].unique()
    expected = bpr + 0.5 * (user[batch_users].square().mean() + item[batch_items].square().mean())
    assert float(model.loss(sample, rows).detach()) == pytest.approx(float(expected), abs=1e-5)


def whole(operator: SparseOperator, rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """The operator as a dense matrix of all nodes of the graph."""
    dense = torch.zeros(size)
    dense[rows.unsqueeze(1), columns] = operator.to_dense()
    return dense


def level(sample: SampledGraph, kind: str, number: int) -> Tensor:
    """Indices of the nodes of a level."""
    rows = sample.own.user if kind == "user" else sample.own.item
    return sample.data[kind].n_id[rows[number]]


def test_each_level_draws_its_own_number_of_neighbors(graph: HeteroData, triples: Tensor) -> None:
    degrees = {
        kind: degree(index, graph[kind].num_nodes)
        for kind, index in zip(("user", "item"), graph[INTERACTS].edge_index, strict=True)
    }
    adj_t = graph[INTERACTS].adj_t.to_dense()
    sample, _ = sampled(NeighborSampling(graph, [3, 2]), triples[:, :5])
    assert torch.equal(level(sample, "user", 0), triples[0, :5].unique())
    for number, fanout in enumerate([3, 2]):
        for kind, other, operator in (
            ("user", "item", sample.own.to_user[number]),
            ("item", "user", sample.own.to_item[number]),
        ):
            nodes, sources = level(sample, kind, number), level(sample, other, number + 1)
            drawn = (operator.to_dense() != 0).sum(dim=1)
            assert torch.equal(drawn, degrees[kind][nodes].clamp(max=fanout).long())
            weight = adj_t[nodes][:, sources] if kind == "item" else adj_t.t()[nodes][:, sources]
            # Weights are unchanged if all neighbors are drawn, and larger if others are missing.
            few = degrees[kind][nodes] <= fanout
            torch.testing.assert_close(operator.to_dense()[few], weight[few])
            assert ((operator.to_dense() > 0.999 * weight) | (operator.to_dense() == 0))[~few].all()


def test_fewer_neighbors_are_drawn_for_similar_items(graph: HeteroData, triples: Tensor) -> None:
    # Items have about 6 similar items: 18 becomes 3.
    assert graph[SIMILAR].edge_index.size(1) // graph["item"].num_nodes == 6
    for fanout, expected in ((18, 3), (4, 2), (-1, 40)):
        sample, _ = sampled(NeighborSampling(graph, [fanout, fanout]), triples[:, :5])
        for operator in (sample.near.to_item[0], sample.near.to_user[1]):
            assert 0 < int((operator.to_dense() != 0).sum(dim=1).max()) <= expected
    assert sample.near.to_user[0].shape == (0, 0)


def test_all_neighbors_in_the_item_graph_are_sampled(graph: HeteroData, triples: Tensor) -> None:
    sample, rows = sampled(NeighborSampling(graph, [2, 2]), triples[:, :5])
    wanted = triples[1:, :5].unique()
    num_items = graph["item"].num_nodes
    near = sample.data["item"].n_id[sample.near.item[0]]
    similar = whole(sample.similar[0], wanted, near, (num_items, num_items))
    torch.testing.assert_close(similar[wanted], graph[SIMILAR].adj_t.to_dense()[wanted])
    assert torch.equal(level(sample, "item", 0), wanted)
    assert torch.equal(level(sample, "user", 0)[rows[0]], triples[0, :5])
    assert torch.equal(wanted[rows[1:]], triples[1:, :5])


@pytest.mark.slow
def test_a_sampled_sum_is_unbiased(graph: HeteroData) -> None:
    users = torch.arange(graph["user"].num_nodes)
    triples = torch.stack([users, torch.zeros_like(users), torch.ones_like(users)])
    size = graph["user"].num_nodes, graph["item"].num_nodes
    expected = graph[INTERACTS].adj_t.to_dense().t()
    for fanout in (2, 3):
        draws = []
        for sample, _ in NeighborSampling(graph, [fanout]).batches([triples] * 70, range(70)):
            draws.append(whole(sample.own.to_user[0], level(sample, "user", 0), level(sample, "item", 1), size))
        mean, sigma = torch.stack(draws).mean(dim=0), torch.stack(draws).std(dim=0) / len(draws) ** 0.5
        deviation = (mean - expected)[sigma > 1e-6] / sigma[sigma > 1e-6]
        assert deviation.abs().max() < 5
        assert deviation.std() == pytest.approx(1, abs=0.15)
        torch.testing.assert_close(mean[sigma <= 1e-6], expected[sigma <= 1e-6])


def operators(sample: SampledGraph) -> list[SparseOperator]:
    return [each for part in (sample.own, sample.near) for each in (*part.to_user, *part.to_item)]


def same(one: SampledGraph, other: SampledGraph) -> bool:
    return torch.equal(one.data["user"].n_id, other.data["user"].n_id) and all(
        torch.equal(a.to_dense(), b.to_dense()) for a, b in zip(operators(one), operators(other), strict=True)
    )


def test_the_sample_of_a_batch_depends_on_its_seed_only(
    graph: HeteroData, triples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More batches than are materialized together.
    monkeypatch.setattr("lirdrec_pyg.sampler.neighbors._BATCHES_PER_LOADER", 4)
    batches, seeds = triples[:, :20].split(2, dim=1), list(range(10))
    sampling = NeighborSampling(graph, [2, 2])
    first = [sample for sample, _ in sampling.batches(batches, seeds)]
    backwards = [sample for sample, _ in sampling.batches(batches[::-1], seeds[::-1])][::-1]
    in_worker = [s for s, _ in NeighborSampling(graph, [2, 2], num_workers=1).batches(batches[:3], seeds[:3])]
    others = [sample for sample, _ in sampling.batches(batches, [seed + 1000 for seed in seeds])]
    assert len(first) == 10
    assert all(map(same, first, backwards))
    assert all(map(same, first, in_worker))
    assert not all(map(same, first, others))


def test_features_are_read_for_the_nodes_of_the_batch(raw_graph: HeteroData, triples: Tensor) -> None:
    data = LIRDRec.sampling_transform(MODEL)(raw_graph)
    assert "dct" not in data["item"]
    sample, _ = sampled(NeighborSampling(data, [2, 2]), triples[:, :1])
    for modality in ("image", "text"):
        expected = data["item"][f"x_{modality}"][sample.data["item"].n_id]
        assert torch.equal(sample.data["item"][f"x_{modality}"], expected)
    assert len(sample.data["item"].n_id) < data["item"].num_nodes


def test_gathered_rows_have_a_sparse_gradient() -> None:
    table = torch.randn(7, 2, 3, dtype=torch.double, requires_grad=True)
    index = torch.tensor([1, 4, 5])
    gather_rows(table, index).square().sum().backward()
    assert table.grad is not None
    assert table.grad.is_sparse
    expected = torch.zeros_like(table)
    expected[index] = 2 * table.detach()[index]
    torch.testing.assert_close(table.grad.to_dense(), expected)


def test_a_sampled_graph_moves_to_a_device(graph: HeteroData, triples: Tensor) -> None:
    sample, _ = sampled(NeighborSampling(graph, [2, 2]), triples[:, :5])
    model = LIRDRec.from_config(MODEL, graph)
    moved = sample.to("cpu")
    assert all(torch.equal(a, b) for a, b in zip(model(moved), model(sample), strict=True))
    on_meta = sample.to("meta")
    tensors = (on_meta.data["item"].x_image, *on_meta.own.user, *on_meta.near.item)
    assert {x.device.type for x in tensors} == {"meta"}


def test_a_missing_library_is_reported(monkeypatch: pytest.MonkeyPatch, graph: HeteroData) -> None:
    for name in ("WITH_PYG_LIB", "WITH_TORCH_SPARSE"):
        monkeypatch.setattr(pyg, name, False)
    for call in (check_sampling, lambda: NeighborSampling(graph, [2])):
        with pytest.raises(ConfigError, match=r"needs pyg-lib or torch-sparse.*lirdrec-pyg\[sparse\]"):
            call()


def test_sampling_needs_no_cached_adjacency(raw_graph: HeteroData, triples: Tensor) -> None:
    assert "adj_t" not in raw_graph[INTERACTS]
    sample, _ = sampled(NeighborSampling(raw_graph, [2]), triples[:, :3])
    assert isinstance(sample.own.to_user[0], SparseOperator)
