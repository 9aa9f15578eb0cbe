import pytest
import torch
from brute_force import nearest_by_cosine
from torch import Tensor

from lirdrec_pyg.transforms import knn_edges


def neighbour_lists(edge_index: Tensor, num_items: int) -> list[list[int]]:
    return [edge_index[0, edge_index[1] == i].tolist() for i in range(num_items)]


def features(num_items: int = 30, width: int = 5) -> Tensor:
    return torch.randn(num_items, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("k", [1, 4, 30])
@pytest.mark.parametrize("block", [7, 4096])
def test_neighbours_are_those_of_brute_force_nearest_first(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.nn.ranking._BLOCK_ROWS", {"cpu": block})
    x = features()
    edge_index = knn_edges(x, k)
    assert edge_index.dtype == torch.long
    assert neighbour_lists(edge_index, 30) == nearest_by_cosine(x, k)
    assert edge_index[1].tolist() == sorted(edge_index[1].tolist())


def test_masked_items_have_only_themselves_and_are_nobody_elses() -> None:
    x, mask = features(), torch.arange(30) % 3 != 1
    assert neighbour_lists(knn_edges(x, 4, mask), 30) == nearest_by_cosine(x, 4, mask)


def test_length_and_dtype_of_the_vectors_do_not_matter() -> None:
    x = features().half()
    scaled = x.double() * torch.logspace(-3, 3, 30, dtype=torch.double).unsqueeze(1)
    assert torch.equal(knn_edges(x, 5), knn_edges(scaled, 5))


@pytest.mark.parametrize("mask", [None, torch.tensor([True, True, False, True])])
def test_k_above_the_number_of_items_takes_them_all(mask: Tensor | None) -> None:
    lists = neighbour_lists(knn_edges(features(4), 10, mask), 4)
    present = [0, 1, 2, 3] if mask is None else [0, 1, 3]
    assert [sorted(neighbours) for neighbours in lists] == [present if i in present else [i] for i in range(4)]


@pytest.mark.parametrize("k", [1, 3])
def test_an_item_stays_its_own_neighbour_among_many_equal_ones(k: int) -> None:
    x = torch.ones(12, 4)
    x[8:] = features(4, 4)
    for item, neighbours in enumerate(neighbour_lists(knn_edges(x, k), 12)):
        assert item in neighbours
        assert len(set(neighbours)) == len(neighbours) == k
        if item < 8:
            assert max(neighbours) < 8
