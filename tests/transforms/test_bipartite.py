import copy
import math
from typing import Any

import pytest
import torch
from adjacencies import needs_torch_sparse
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose
from torch_geometric.typing import SparseTensor

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, SIMILAR, build_graph
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.nn import SparseOperator
from lirdrec_pyg.transforms import AddItemKNN, CacheAdjacency, DropEdges, KeepHistory, NormalizeBipartite, bipartite
from lirdrec_pyg.transforms.bipartite import SparseBackend

EDGE_TYPES = [INTERACTS, INTERACTED_BY, SIMILAR]

BACKENDS = pytest.mark.parametrize("backend", ["torch", pytest.param("torch-sparse", marks=needs_torch_sparse)])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(edge_index: Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, edge_index.T.tolist()))


def dense(data: HeteroData, edge_type: tuple[str, str, str]) -> Tensor:
    """Matrix of targets x sources of the edges and their weights."""
    source, target = data[edge_type].edge_index
    size = data[edge_type[2]].num_nodes, data[edge_type[0]].num_nodes
    return torch.zeros(size).index_put((target, source), data[edge_type].edge_weight)


def content(data: HeteroData) -> dict[tuple[str, str], object]:
    """Everything in a graph, with tensors as lists."""
    return {
        (str(store._key), key): value.tolist() if isinstance(value, Tensor) else value
        for store in data.stores
        for key, value in store.items()
    }


class TestNormalizeBipartite:
    def test_matches_the_dense_formula_in_both_directions(self, graph: HeteroData) -> None:
        data = NormalizeBipartite()(graph)
        adj = torch.zeros(12, 9, dtype=torch.double)
        adj[graph[INTERACTS].edge_index[0], graph[INTERACTS].edge_index[1]] = 1.0
        scaled = adj / ((adj.sum(1, keepdim=True) + 1e-7) * (adj.sum(0) + 1e-7)).sqrt()
        torch.testing.assert_close(dense(data, INTERACTED_BY), scaled.float())
        torch.testing.assert_close(dense(data, INTERACTS), scaled.T.float())

    @BACKENDS
    def test_a_cached_adjacency_with_old_weights_is_removed(self, graph: HeteroData, backend: SparseBackend) -> None:
        for edge_type in (INTERACTS, INTERACTED_BY):
            graph[edge_type].edge_weight = torch.ones(graph[edge_type].edge_index.size(1))
        cached = CacheAdjacency(backend)(AddItemKNN(3)(graph))
        data = NormalizeBipartite()(cached)
        for edge_type in (INTERACTS, INTERACTED_BY):
            assert "adj_t" not in data[edge_type]
            assert "adj_t" in cached[edge_type]
            again = CacheAdjacency(backend)(data)[edge_type].adj_t
            torch.testing.assert_close(again.to_dense(), dense(data, edge_type))
        assert data[SIMILAR].adj_t is cached[SIMILAR].adj_t


class TestDropEdges:
    def test_keeps_the_floor_of_the_share_in_both_directions(self, graph: HeteroData) -> None:
        assert content(DropEdges(0.0)(graph)) == content(graph)
        num_edges = graph[INTERACTS].edge_index.size(1)
        for p in (0.1, 0.25, 0.5, 0.75, 0.99):
            data = DropEdges(p, seeded(0))(graph)
            kept = data[INTERACTS].edge_index
            assert kept.size(1) == math.floor(num_edges * (1 - p))
            assert len(pairs(kept)) == kept.size(1)
            assert pairs(kept) < pairs(graph[INTERACTS].edge_index)
            assert kept[0].tolist() == sorted(kept[0].tolist())
            assert torch.equal(data[INTERACTED_BY].edge_index, kept.flip([0]))

    def test_follows_its_generator(self, graph: HeteroData) -> None:
        first, again, other = (DropEdges(0.5, seeded(seed))(graph)[INTERACTS].edge_index.tolist() for seed in (1, 1, 2))
        assert first == again
        assert first != other
        drop = DropEdges(0.5, seeded(1))
        assert [drop(graph)[INTERACTS].edge_index.tolist() == first for _ in range(2)] == [True, False]

    def test_the_first_edge_is_drawn_in_proportion_to_the_degrees(self) -> None:
        # User 0 has items 0-3 and item 0 has users 0-1: weights 1/sqrt(deg_u deg_i) are known.
        train = torch.tensor([[0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 0, 4]])
        graph = build_graph(train, {"m": torch.ones(5, 1)})
        weights = torch.tensor([1 / math.sqrt(d) for d in (8.0, 4.0, 4.0, 4.0, 2.0, 1.0)])
        drop = DropEdges(5 / 6 - 1e-9, seeded(0))
        draws = 1000
        counts = torch.zeros(5, 5)
        for _ in range(draws):
            user, item = drop(graph)[INTERACTS].edge_index
            assert len(user) == 1
            counts[user, item] += 1
        expected = draws * weights / weights.sum()
        observed = counts[train[0], train[1]]
        # Chi-square of 5 degrees of freedom: above 20.5 once in a thousand.
        assert float(((observed - expected) ** 2 / expected).sum()) < 20.5

    def test_weights_and_adjacencies_of_all_edges_are_removed(self, graph: HeteroData) -> None:
        prepared = Compose([NormalizeBipartite(), AddItemKNN(3), CacheAdjacency()])(graph)
        data = DropEdges(0.5, seeded(0))(prepared)
        for edge_type in (INTERACTS, INTERACTED_BY):
            assert not {"edge_weight", "adj_t"} & set(data[edge_type].keys())
        assert data[SIMILAR].adj_t is prepared[SIMILAR].adj_t
        assert {"edge_weight", "adj_t"} <= set(prepared[INTERACTS].keys())

    def test_impossible_probabilities_are_refused(self) -> None:
        for p in (-0.1, 1.0, math.nan):
            with pytest.raises(ConfigError, match="edge_dropout"):
                DropEdges(p)


class TestKeepHistory:
    def test_holds_the_items_of_each_user_also_when_edges_are_dropped(self, graph: HeteroData) -> None:
        for data in (KeepHistory()(graph), Compose([KeepHistory(), DropEdges(0.5, seeded(0))])(graph)):
            history = data["user"].history
            user, item = history.pairs(torch.arange(12))
            assert pairs(torch.stack([user, item])) == pairs(graph[INTERACTS].edge_index)
            assert history.start.diff().tolist() == graph[INTERACTS].edge_index[0].bincount(minlength=12).tolist()


class TestCacheAdjacency:
    @BACKENDS
    def test_holds_every_edge_type_as_targets_by_sources(self, graph: HeteroData, backend: SparseBackend) -> None:
        data = Compose([AddItemKNN(3), NormalizeBipartite(), CacheAdjacency(backend)])(graph)
        for edge_type in EDGE_TYPES:
            adj_t = data[edge_type].adj_t
            assert isinstance(adj_t, SparseOperator if backend == "torch" else SparseTensor)
            torch.testing.assert_close(adj_t.to_dense(), dense(data, edge_type))

    @BACKENDS
    def test_needs_no_item_graph_and_creates_nothing_twice(self, graph: HeteroData, backend: SparseBackend) -> None:
        cache = CacheAdjacency(backend)
        first = cache(NormalizeBipartite()(graph))
        assert SIMILAR not in first.edge_types
        assert cache(first)[INTERACTS].adj_t is first[INTERACTS].adj_t

    def test_an_unknown_backend_is_refused(self) -> None:
        backend: Any = "torch_sparse"
        with pytest.raises(ConfigError, match=r"'torch_sparse'.*torch, torch-sparse"):
            CacheAdjacency(backend)

    @BACKENDS
    def test_a_graph_with_dropped_edges_is_normalized_again(self, graph: HeteroData, backend: SparseBackend) -> None:
        prepare = Compose([NormalizeBipartite(), CacheAdjacency(backend)])
        prepared = prepare(AddItemKNN(3)(graph))
        dropped = Compose([DropEdges(0.5, seeded(0)), prepare])(prepared)
        assert dropped[SIMILAR].adj_t is prepared[SIMILAR].adj_t
        kept = dropped[INTERACTS].edge_index
        afresh = prepare(build_graph(kept, {"m": torch.ones(9, 1)}, num_users=12))
        for edge_type in (INTERACTS, INTERACTED_BY):
            torch.testing.assert_close(dropped[edge_type].adj_t.to_dense(), afresh[edge_type].adj_t.to_dense())

    def test_torch_sparse_must_be_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bipartite, "WITH_TORCH_SPARSE", False)
        CacheAdjacency("torch")
        with pytest.raises(ConfigError, match=r"not installed.*lirdrec-pyg\[sparse\]"):
            CacheAdjacency("torch-sparse")


@pytest.mark.parametrize(
    "transform",
    [NormalizeBipartite(), DropEdges(0.5), KeepHistory(), Compose([NormalizeBipartite(), CacheAdjacency()])],
    ids=["NormalizeBipartite", "DropEdges", "KeepHistory", "CacheAdjacency"],
)
def test_the_input_graph_is_not_modified(graph: HeteroData, transform: BaseTransform) -> None:
    before = content(copy.deepcopy(graph))
    assert content(transform(graph)) != before
    assert content(graph) == before


@pytest.mark.parametrize(
    ("transform", "text"),
    [
        (DropEdges(0.5), "DropEdges(p=0.5)"),
        (CacheAdjacency(), "CacheAdjacency(backend='torch')"),
        (NormalizeBipartite(), "NormalizeBipartite()"),
        (KeepHistory(), "KeepHistory()"),
    ],
)
def test_repr(transform: BaseTransform, text: str) -> None:
    assert repr(transform) == text
