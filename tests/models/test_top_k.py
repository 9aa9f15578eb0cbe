import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric import EdgeIndex

from lirdrec_pyg.models import TopK, ranking, top_k

NUM_USERS, NUM_ITEMS = 11, 9


@pytest.fixture
def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(NUM_USERS, 4), torch.randn(NUM_ITEMS, 4)


@pytest.fixture
def seen() -> Tensor:
    """Training pairs in no order; user 0 has none, user 1 all items."""
    mask = torch.rand(NUM_USERS, NUM_ITEMS) < 0.4
    mask[0], mask[1] = False, True
    pairs = mask.nonzero().T
    return pairs[:, torch.randperm(pairs.size(1))]


def join(blocks: list[TopK]) -> tuple[list[list[float]], list[list[int]]]:
    return torch.cat([b.score for b in blocks]).tolist(), torch.cat([b.item for b in blocks]).tolist()


def brute_force(
    user: Tensor, item: Tensor, index: Tensor, k: int, seen: Tensor | None
) -> list[list[tuple[float, int]]]:
    """For each user the best of the items not seen, score and position, best first."""
    left_out = set() if seen is None else set(map(tuple, seen.T.tolist()))
    ranked = []
    for u in index.tolist():
        scores = [(float(user[u] @ item[i]), i) for i in range(len(item)) if (u, i) not in left_out]
        ranked.append(sorted(scores, reverse=True)[:k])
    return ranked


@pytest.mark.parametrize("rows_per_block", [1, 3, 100])
@pytest.mark.parametrize("k", [1, 4, NUM_ITEMS, 50])
@pytest.mark.parametrize("with_seen", [False, True])
def test_equals_brute_force_whatever_the_blocks(
    vectors: tuple[Tensor, Tensor],
    seen: Tensor,
    rows_per_block: int,
    k: int,
    with_seen: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 4 * NUM_ITEMS * rows_per_block)
    index = torch.tensor([7, 0, 3, 1, 10, 3, 9])
    left_out = seen if with_seen else None

    blocks = list(top_k(*vectors, index, k, left_out))
    starts = list(range(0, 7, rows_per_block))
    assert [b.rows for b in blocks] == [slice(start, min(start + rows_per_block, 7)) for start in starts]
    assert all(b.item.shape == b.score.shape == (b.rows.stop - b.rows.start, min(k, NUM_ITEMS)) for b in blocks)

    scores, items = join(blocks)
    for row, expected in enumerate(brute_force(*vectors, index, k, left_out)):
        found = len(expected)
        assert items[row][:found] == [item for _, item in expected]
        assert scores[row][:found] == pytest.approx([score for score, _ in expected], rel=1e-5)
        assert scores[row][found:] == [-np.inf] * (min(k, NUM_ITEMS) - found)


def test_a_block_holds_at_least_one_user(vectors: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 1)
    assert len(list(top_k(*vectors, torch.arange(NUM_USERS), 2))) == NUM_USERS


def test_nobody_asked_for_gets_an_empty_answer(vectors: tuple[Tensor, Tensor], seen: Tensor) -> None:
    (block,) = top_k(*vectors, torch.empty(0, dtype=torch.long), 3, seen)
    assert block.score.shape == block.item.shape == (0, 3)


def test_seen_may_be_an_edge_index(vectors: tuple[Tensor, Tensor], seen: Tensor) -> None:
    index = torch.arange(NUM_USERS)
    wrapped = join(list(top_k(*vectors, index, 3, EdgeIndex(seen))))
    assert wrapped == join(list(top_k(*vectors, index, 3, seen)))


@settings(max_examples=50, deadline=None)
@given(pairs=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 5))), k=st.integers(1, 8), data=st.data())
def test_seen_items_have_minus_infinity_and_no_others(pairs: set[tuple[int, int]], k: int, data: st.DataObject) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1)))
    generator = torch.Generator().manual_seed(0)
    user, item = torch.randn(5, 3, generator=generator), torch.randn(6, 3, generator=generator)
    seen = torch.tensor(sorted(pairs), dtype=torch.long).view(-1, 2).T
    scores, items = join(list(top_k(user, item, index, k, seen)))
    for u, row_scores, row_items in zip(index.tolist(), scores, items, strict=True):
        assert len(set(row_items)) == len(row_items) == min(k, 6)
        assert [score == -np.inf for score in row_scores] == [(u, i) in pairs for i in row_items]
        assert row_scores == sorted(row_scores, reverse=True)
