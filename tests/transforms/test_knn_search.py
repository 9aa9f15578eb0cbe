import logging
import re

import pytest
import torch
from brute_force import nearest_by_cosine
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.transforms import AddItemKNN, knn_edges, knn_search
from lirdrec_pyg.transforms.knn_search import NeighborSearch


def neighbor_lists(edge_index: Tensor, num_items: int) -> list[list[int]]:
    return [edge_index[0, edge_index[1] == i].tolist() for i in range(num_items)]


def features(num_items: int = 30, width: int = 5) -> Tensor:
    return torch.randn(num_items, width, generator=torch.Generator().manual_seed(0))


def clusters(num_items: int, width: int, num_clusters: int = 40, seed: int = 0) -> Tensor:
    """Items around some centers; within a cluster they differ in few directions, as real features do."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(num_clusters, width, generator=generator)
    direction = torch.randn(16, width, generator=generator)
    cluster = torch.randint(num_clusters, (num_items,), generator=generator)
    return center[cluster] + 0.3 * torch.randn(num_items, 16, generator=generator) @ direction


def found_share(edge_index: Tensor, expected: Tensor) -> float:
    """Fraction of the ``expected`` edges that are in ``edge_index``, which has no duplicates."""
    found, wanted = (set(map(tuple, edges.T.tolist())) for edges in (edge_index, expected))
    assert len(found) == edge_index.size(1)
    return len(found & wanted) / len(wanted)


def similarities(x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.cosine_similarity(x[edge_index[0]].double(), x[edge_index[1]].double())


def without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_search, "find_spec", lambda name: None)


def searched(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The strategy of each search, from the log."""
    return [
        match
        for record in caplog.records
        for match in re.findall(r"(exact|approximate) search among", record.getMessage())
    ]


def test_neighbors_equal_brute_force_nearest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features()
    for block in (7, 4096):
        monkeypatch.setattr("lirdrec_pyg.nn.ranking._BLOCK_ROWS", {"cpu": block})
        for k in (1, 4, 30):
            edge_index = knn_edges(x, k)
            assert edge_index.dtype == torch.long
            assert neighbor_lists(edge_index, 30) == nearest_by_cosine(x, k)
            assert edge_index[1].tolist() == sorted(edge_index[1].tolist())


def test_masked_items_have_only_themselves() -> None:
    x, mask = features(), torch.arange(30) % 3 != 1
    assert neighbor_lists(knn_edges(x, 4, mask), 30) == nearest_by_cosine(x, 4, mask)


def test_length_and_dtype_of_the_vectors_do_not_matter() -> None:
    x = features().half()
    scaled = x.double() * torch.logspace(-3, 3, 30, dtype=torch.double).unsqueeze(1)
    assert torch.equal(knn_edges(x, 5), knn_edges(scaled, 5))


def test_all_items_are_neighbors_if_k_is_larger_than_their_number() -> None:
    for mask, present in ((None, [0, 1, 2, 3]), (torch.tensor([True, True, False, True]), [0, 1, 3])):
        lists = neighbor_lists(knn_edges(features(4), 10, mask), 4)
        assert [sorted(neighbors) for neighbors in lists] == [present if i in present else [i] for i in range(4)]


def test_an_item_is_its_own_neighbor_among_many_duplicates() -> None:
    x = torch.ones(12, 4)
    x[8:] = features(4, 4)
    for k in (1, 3):
        for item, found in enumerate(neighbor_lists(knn_edges(x, k), 12)):
            assert item in found
            assert len(set(found)) == len(found) == k
            if item < 8:
                assert max(found) < 8


@pytest.mark.parametrize("search", ["exact", "approximate"])
def test_without_other_items_each_has_only_itself(search: NeighborSearch) -> None:
    for num_items, mask in (
        (0, torch.zeros(0, dtype=torch.bool)),
        (4, torch.zeros(4, dtype=torch.bool)),
        (4, torch.arange(4) == 2),
    ):
        assert neighbor_lists(knn_edges(features(num_items), 3, mask, search), num_items) == [
            [item] for item in range(num_items)
        ]


class TestApproximate:
    @pytest.mark.parametrize("width", [16, 300])
    def test_finds_the_neighbors_in_clusters_and_the_same_ones_twice(self, width: int) -> None:
        x = clusters(800, width)
        edge_index = knn_edges(x, 10, search="approximate")
        assert found_share(edge_index, knn_edges(x, 10, search="exact")) >= 0.95
        assert torch.equal(edge_index, knn_edges(x, 10, search="approximate"))
        assert torch.equal(edge_index[1], torch.arange(800).repeat_interleave(10))
        assert torch.equal(edge_index[0, ::10], torch.arange(800))
        assert (similarities(x, edge_index).view(800, 10).diff(dim=1) <= 1e-6).all()

    def test_visits_more_cells_until_the_recall_is_high_enough(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(knn_search, "_FIRST_VISIT", 1)
        caplog.set_level(logging.INFO, "lirdrec_pyg")
        x = features(3000, 12)
        exact = knn_edges(x, 10, search="exact")
        assert found_share(knn_edges(x, 10, search="approximate"), exact) >= 0.93
        monkeypatch.setattr(knn_search, "_MOST_VISITED", 1)
        assert found_share(knn_edges(x, 10, search="approximate"), exact) < 0.5
        *_, enough, too_few = (record.getMessage() for record in caplog.records)
        pattern = r"among 3,000 items, (\d+) of 75 cells each; ([\d.]+) % of the exact neighbors of 1,000 items found"
        (visited, recall), (least, poor) = (re.findall(pattern, line)[0] for line in (enough, too_few))
        assert int(visited) in (2, 4, 8, 16, 32)
        assert 95 <= float(recall) <= 100
        assert int(least) == 1
        assert float(poor) < 50

    def test_the_recall_in_the_log_is_that_of_all_items_if_all_are_in_the_sample(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(knn_search, "_FIRST_VISIT", 2)
        monkeypatch.setattr(knn_search, "_MOST_VISITED", 2)
        caplog.set_level(logging.INFO, "lirdrec_pyg")
        x = features(900, 12)
        # Without self-loops, which are always found.
        edge_index, exact = (
            edges[:, edges[0] != edges[1]]
            for edges in (knn_edges(x, 6, search="approximate"), knn_edges(x, 6, search="exact"))
        )
        recall = found_share(edge_index, exact)
        assert 0.1 < recall < 0.95
        line = next(r.getMessage() for r in caplog.records if "approximate" in r.getMessage())
        pattern = r"neighbors by features: approximate search among 900 items, 2 of 22 cells each; ([\d.]+) % of"
        # Neighbors that differ by rounding count as the same.
        assert float(re.findall(pattern, line)[0]) == pytest.approx(100 * recall, abs=0.2)

    def test_wide_features_are_projected_and_compared_in_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(knn_search, "_INDEX_WIDTH", 8)
        x = clusters(600, 40)
        exact = knn_edges(x, 5, search="exact")
        candidates = found_share(knn_edges(x, 5, search="approximate"), exact)
        monkeypatch.setattr(knn_search, "_CANDIDATES_PER_NEIGHBOR", 1)
        unranked = knn_edges(x, 5, search="approximate")
        assert found_share(unranked, exact) < candidates - 0.05
        # They are still sorted by all features.
        assert (similarities(x, unranked).view(600, 5).diff(dim=1) <= 1e-6).all()

    def test_padding_is_last_and_replaces_no_item(self) -> None:
        unit = torch.nn.functional.normalize(clusters(400, 300), dim=-1)
        index = knn_search._Index.of(unit)
        index.visit(1)
        found = index.search(torch.arange(400), 30)
        candidates = torch.from_numpy(index.faiss.search(index.key.numpy(), 120)[1])
        wanted = (candidates >= 0).sum(dim=1).clamp_max(30)
        assert (wanted < 30).any()
        assert torch.equal((found >= 0).sum(dim=1), wanted)
        assert torch.equal(found >= 0, torch.arange(30) < wanted.unsqueeze(1))

    def test_the_projection_keeps_distances_in_the_space_that_the_items_span(self) -> None:
        unit = torch.nn.functional.normalize(features(600, 20) @ features(20, 400), dim=-1)
        projected = knn_search._projected(unit)
        assert projected.shape == (600, 256)
        torch.testing.assert_close(torch.cdist(projected, projected), torch.cdist(unit, unit), rtol=1e-3, atol=2e-3)

    def test_few_items_are_compared_with_all_others(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "lirdrec_pyg")
        for num_items, width in ((1, 5), (2, 300), (30, 5), (100, 300), (90, 2)):
            x = features(num_items, width)
            for k in (1, 3, 500):
                lists = neighbor_lists(knn_edges(x, k, search="approximate"), num_items)
                if k >= num_items:
                    assert all(sorted(found) == list(range(num_items)) for found in lists)
                assert all(item in found and len(found) == min(k, num_items) for item, found in enumerate(lists))
                visited, cells = map(int, re.findall(r"(\d+) of (\d+) cells each", caplog.records[-1].getMessage())[0])
                assert visited <= cells

    @pytest.mark.parametrize("width", [6, 300])
    def test_masked_items_have_only_themselves(self, width: int) -> None:
        x, mask = clusters(700, width, num_clusters=5), torch.arange(700) % 3 != 1
        edge_index = knn_edges(x, 4, mask, "approximate")
        exact = knn_edges(x, 4, mask, "exact")
        assert found_share(edge_index, exact) >= 0.95
        others = edge_index[:, edge_index[0] != edge_index[1]]
        assert mask[others].all()
        assert set(edge_index[1, edge_index[0] == edge_index[1]].tolist()) == set(range(700))
        absent = (~mask).nonzero().view(-1)
        assert torch.equal(edge_index[:, -len(absent) :], absent.expand(2, -1))

    @pytest.mark.parametrize("width", [4, 300])
    def test_duplicates_do_not_reduce_the_recall(self, width: int, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "lirdrec_pyg")
        x = torch.ones(600, width)
        x[500:] = features(100, width)
        for k in (1, 3):
            for item, found in enumerate(neighbor_lists(knn_edges(x, k, search="approximate"), 600)):
                assert item in found
                assert len(set(found)) == len(found) == k
                if item < 500:
                    assert max(found) < 500
            (recall,) = re.findall(r"([\d.]+) % of the exact", caplog.records[-1].getMessage())
            assert 95 <= float(recall) <= 100

    def test_type_layout_and_gradient_of_the_features_do_not_matter(self) -> None:
        x = clusters(400, 7).half()
        expected = knn_edges(x.float(), 4, search="approximate")
        for same in (x, x.double(), x.t().contiguous().t(), x.float().requires_grad_()):
            assert torch.equal(knn_edges(same, 4, search="approximate"), expected)

    @pytest.mark.parametrize("width", [6, 300])
    def test_blocks_of_comparisons_change_nothing(self, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
        x = clusters(200, width)
        expected = knn_edges(x, 5, search="approximate")
        monkeypatch.setattr(knn_search, "_COMPARED_BYTES", 4 * width * 20 * 3)
        monkeypatch.setattr(knn_search, "_QUERY_ROWS", 77)
        assert torch.equal(knn_edges(x, 5, search="approximate"), expected)

    @settings(max_examples=30)
    @given(num_items=st.integers(1, 12), width=st.integers(1, 5), k=st.integers(1, 6), limit=st.integers(1, 500))
    def test_similarities_are_those_of_brute_force_whatever_the_memory(
        self, num_items: int, width: int, k: int, limit: int
    ) -> None:
        generator = torch.Generator().manual_seed(num_items)
        unit = torch.randn(num_items, width, generator=generator)
        rows = torch.randint(num_items, (7,), generator=generator)
        others = torch.randint(num_items, (7, k), generator=generator)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(knn_search, "_COMPARED_BYTES", limit)
            actual = knn_search._similarity(unit, rows, others)
        torch.testing.assert_close(actual, (unit @ unit.T)[rows.unsqueeze(1), others])


class TestRecall:
    def test_by_hand(self) -> None:
        unit = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]), dim=-1)
        sample, floor = torch.tensor([0]), (unit[0] @ unit[2]).view(1, 1)
        for found, expected in (
            ([0, 1, 2], 1.0),
            ([0, 2, 3], 0.5),
            ([0, 3, -1], 0.0),
            ([0, -1, -1], 0.0),
            ([1, 2, 3], 1.0),
        ):
            assert knn_search._recall(unit, sample, torch.tensor([found]), floor) == expected

    def test_duplicates_are_correct_neighbors_and_the_recall_is_at_most_one(self) -> None:
        unit = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]])
        sample, floor = torch.tensor([0, 1]), torch.ones(2, 1)
        assert knn_search._recall(unit, sample, torch.tensor([[4, 5], [2, 3]]), floor) == 1.0
        assert knn_search._recall(unit, sample, torch.tensor([[4, 5], [1, 6]]), floor) == 0.5


class TestChoice:
    def test_auto_is_exact_up_to_a_limit_and_approximate_beyond(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "lirdrec_pyg")
        x = features(50, 4)
        work = 50 * 50 * (4 + knn_search._SELECTION)
        for limit in (work, work - 1):
            monkeypatch.setattr(knn_search, "_EXACT_WORK", {"cpu": limit})
            knn_edges(x, 3, name="image")
        assert searched(caplog) == ["exact", "approximate"]
        assert all(record.getMessage().startswith("neighbors by image: ") for record in caplog.records)

    def test_an_explicit_choice_ignores_the_limit(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "lirdrec_pyg")
        for limit in (0, 10**9):
            monkeypatch.setattr(knn_search, "_EXACT_WORK", {"cpu": limit})
            knn_edges(features(), 3, search="exact")
            knn_edges(features(), 3, search="approximate")
        assert searched(caplog) == ["exact", "approximate"] * 2

    def test_auto_without_faiss_is_exact_with_a_warning(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        without_faiss(monkeypatch)
        caplog.set_level(logging.INFO, "lirdrec_pyg")
        assert torch.equal(knn_edges(features(), 3), knn_edges(features(), 3, search="exact"))
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
        monkeypatch.setattr(knn_search, "_EXACT_WORK", {"cpu": 0})
        assert torch.equal(knn_edges(features(), 3), knn_edges(features(), 3, search="exact"))
        (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert "900 comparisons of width 5" in warning
        assert "lirdrec-pyg[faiss]" in warning
        assert set(searched(caplog)) == {"exact"}

    def test_approximate_without_faiss_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_faiss(monkeypatch)
        for search in (
            lambda: knn_edges(features(), 3, search="approximate"),
            lambda: AddItemKNN(3, search="approximate"),
        ):
            with pytest.raises(ConfigError, match=r"`knn_search='approximate'` needs faiss.*lirdrec-pyg\[faiss\]"):
                search()

    def test_an_unknown_search_is_refused(self) -> None:
        for search in (lambda: knn_edges(features(), 3, search="fast"), lambda: AddItemKNN(3, search="fast")):  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match=r"'fast'.*auto, exact, approximate"):
                search()
