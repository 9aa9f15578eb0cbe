import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric import EdgeIndex

from lirdrec_pyg.nn import SeenItems, TopK, ranking, top_k

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
@pytest.mark.parametrize("items_per_block", [1, 4, 100])
@pytest.mark.parametrize("k", [1, 4, NUM_ITEMS, 50])
@pytest.mark.parametrize("with_seen", [False, True])
def test_equals_brute_force_whatever_the_blocks(
    vectors: tuple[Tensor, Tensor],
    seen: Tensor,
    rows_per_block: int,
    items_per_block: int,
    k: int,
    with_seen: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_ROWS", {"cpu": rows_per_block})
    monkeypatch.setattr(ranking, "_BLOCK_ITEMS", items_per_block)
    index = torch.tensor([7, 0, 3, 1, 10, 3, 9])
    left_out = seen if with_seen else None

    blocks = list(top_k(*vectors, index, k, SeenItems.of(seen, NUM_USERS) if with_seen else None))
    starts = list(range(0, 7, rows_per_block))
    assert [b.rows for b in blocks] == [slice(start, min(start + rows_per_block, 7)) for start in starts]
    assert all(b.item.shape == b.score.shape == (b.rows.stop - b.rows.start, min(k, NUM_ITEMS)) for b in blocks)

    scores, items = join(blocks)
    for row, expected in enumerate(brute_force(*vectors, index, k, left_out)):
        found = len(expected)
        assert items[row][:found] == [item for _, item in expected]
        assert scores[row][:found] == pytest.approx([score for score, _ in expected], rel=1e-5)
        assert scores[row][found:] == [-np.inf] * (min(k, NUM_ITEMS) - found)


def test_nobody_asked_for_gets_an_empty_answer(vectors: tuple[Tensor, Tensor], seen: Tensor) -> None:
    (block,) = top_k(*vectors, torch.empty(0, dtype=torch.long), 3, SeenItems.of(seen, NUM_USERS))
    assert block.score.shape == block.item.shape == (0, 3)


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), unique=True), data=st.data())
def test_seen_items_are_found_for_any_users(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    edge_index = torch.tensor(pairs, dtype=torch.long).view(-1, 2).T
    seen = SeenItems.of(edge_index, 5)
    assert seen.start.tolist() == [sum(u < n for u, _ in pairs) for n in range(6)]
    users = data.draw(st.lists(st.integers(0, 4), max_size=7))
    row, item = seen.pairs(torch.tensor(users, dtype=torch.long))
    # In the order in which the pairs were given, one user after the other.
    expected = [(n, i) for n, user in enumerate(users) for u, i in pairs if u == user]
    assert list(zip(row.tolist(), item.tolist())) == expected


@pytest.mark.parametrize("candidates", [None, torch.tensor([8, 1, 2, 5])])
def test_seen_items_come_from_an_edge_index_too(
    vectors: tuple[Tensor, Tensor], seen: Tensor, candidates: Tensor | None
) -> None:
    index = torch.arange(NUM_USERS)
    plain, wrapped = (
        list(top_k(*vectors, index, 3, SeenItems.of(edges, NUM_USERS), candidates)) for edges in (seen, EdgeIndex(seen))
    )
    assert join(wrapped) == join(plain)
    assert type(wrapped[0].item) is Tensor


@settings(max_examples=50, deadline=None)
@given(pairs=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 5))), k=st.integers(1, 8), data=st.data())
def test_seen_items_have_minus_infinity_and_no_others(pairs: set[tuple[int, int]], k: int, data: st.DataObject) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1)))
    generator = torch.Generator().manual_seed(0)
    user, item = torch.randn(5, 3, generator=generator), torch.randn(6, 3, generator=generator)
    seen = SeenItems.of(torch.tensor(sorted(pairs), dtype=torch.long).view(-1, 2).T, 5)
    scores, items = join(list(top_k(user, item, index, k, seen)))
    for u, row_scores, row_items in zip(index.tolist(), scores, items, strict=True):
        assert len(set(row_items)) == len(row_items) == min(k, 6)
        assert [score == -np.inf for score in row_scores] == [(u, i) in pairs for i in row_items]
        assert row_scores == sorted(row_scores, reverse=True)


@pytest.mark.parametrize("rows_per_block", [1, 3, 100])
@pytest.mark.parametrize("items_per_block", [1, 4, 100])
@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("with_seen", [False, True])
@pytest.mark.parametrize("candidates", [[6, 2, 8, 0, 3], [4], list(range(NUM_ITEMS))[::-1]])
def test_only_candidates_are_ranked(
    vectors: tuple[Tensor, Tensor],
    seen: Tensor,
    rows_per_block: int,
    items_per_block: int,
    k: int,
    with_seen: bool,
    candidates: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_ROWS", {"cpu": rows_per_block})
    monkeypatch.setattr(ranking, "_BLOCK_ITEMS", items_per_block)
    user, item = vectors
    index = torch.tensor([7, 0, 3, 1, 10, 3, 9])
    left_out = SeenItems.of(seen, NUM_USERS) if with_seen else None
    blocks = list(top_k(user, item, index, k, left_out, torch.tensor(candidates)))
    assert len(blocks) == -(-7 // rows_per_block)
    scores, items = join(blocks)
    excluded = [[u, i] for u in range(NUM_USERS) for i in range(NUM_ITEMS) if i not in candidates]
    left = torch.cat([torch.tensor(excluded, dtype=torch.long).view(-1, 2).T, *([seen] if with_seen else [])], dim=1)
    for row, expected in enumerate(brute_force(user, item, index, k, left)):
        assert len(items[row]) == min(k, len(candidates)) == len(set(items[row]))
        assert set(items[row]) <= set(candidates)
        assert items[row][: len(expected)] == [i for _, i in expected]
        assert scores[row][: len(expected)] == pytest.approx([score for score, _ in expected], rel=1e-5)
        assert set(scores[row][len(expected) :]) <= {-np.inf}


@settings(max_examples=200, deadline=None)
@given(
    num_rows=st.integers(0, 5),
    num_columns=st.integers(1, 90),
    k=st.integers(1, 12),
    chunk=st.integers(1, 9),
    num_values=st.sampled_from([1, 2, 5, 1000]),
    masked=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_the_selection_by_chunks_is_that_of_torch(
    num_rows: int, num_columns: int, k: int, chunk: int, num_values: int, masked: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(-num_values, num_values, (num_rows, num_columns), generator=generator).float()
    score[torch.rand(score.shape, generator=generator) < masked] = -torch.inf
    k = min(k, num_columns)
    chunk = min(chunk, num_columns // k)
    values, indices = ranking._largest_by_chunks(score, k, chunk)
    assert torch.equal(values, score.topk(k, dim=1).values)
    # Among equal scores any item will do, but each only once.
    assert torch.equal(score.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("num_columns", [3 * 16 - 1, 3 * 16, 3 * 16 + 1, 3 * 32**2 - 1, 3 * 32**2, 3 * 32**2 + 1])
def test_the_selection_by_chunks_without_ties_finds_the_same_items(num_columns: int) -> None:
    score = torch.stack([torch.randperm(num_columns) for _ in range(20)]).float()
    # The best of all in what is left over behind the last whole chunk, and the worst.
    score[0, -1], score[1, -1] = 1e6, -1e6
    values, indices = ranking._largest(score, 3)
    expected = score.topk(3, dim=1)
    assert torch.equal(values, expected.values)
    assert torch.equal(indices, expected.indices)


def test_ranking_by_chunks_equals_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_MIN_CHUNK", 2)
    user, item = torch.randn(6, 5), torch.randn(41, 5)
    pairs = (torch.rand(6, 41) < 0.3).nonzero().T
    scores, items = join(list(top_k(user, item, torch.arange(6), 4, SeenItems.of(pairs, 6))))
    for row, expected in enumerate(brute_force(user, item, torch.arange(6), 4, pairs)):
        assert items[row] == [i for _, i in expected]
        assert scores[row] == pytest.approx([score for score, _ in expected], rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    num_users=st.integers(1, 6),
    num_items=st.integers(1, 60),
    num_candidates=st.integers(1, 60),
    k=st.integers(1, 70),
    rows_per_block=st.integers(1, 4),
    items_per_block=st.integers(1, 25),
    min_chunk=st.integers(1, 4),
    density=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_blocks_of_users_and_items_candidates_and_seen_items_together(
    num_users: int,
    num_items: int,
    num_candidates: int,
    k: int,
    rows_per_block: int,
    items_per_block: int,
    min_chunk: int,
    density: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    # Every score is another whole number, so that float64 finds the one right order.
    scores = rng.permuted(np.tile(np.arange(num_items, dtype=float), (num_users, 1)), axis=1)
    seen = rng.random((num_users, num_items)) < density
    candidates = rng.permutation(num_items)[:num_candidates]
    index = rng.integers(num_users, size=5)
    pairs = torch.from_numpy(rng.permutation(np.argwhere(seen))).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ROWS", {"cpu": rows_per_block})
        patch.setattr(ranking, "_BLOCK_ITEMS", items_per_block)
        patch.setattr(ranking, "_MIN_CHUNK", min_chunk)
        blocks = list(
            top_k(
                torch.from_numpy(scores),
                torch.eye(num_items, dtype=torch.double),
                torch.from_numpy(index),
                k,
                SeenItems.of(pairs, num_users),
                torch.from_numpy(candidates),
            )
        )
    assert all(block.score.dtype == torch.double for block in blocks)
    found_scores, found_items = join(blocks)
    for user, row_scores, row_items in zip(index, found_scores, found_items, strict=True):
        left = sorted((i for i in candidates.tolist() if not seen[user, i]), key=lambda i: -scores[user, i])[:k]
        assert row_items[: len(left)] == left
        assert row_scores[: len(left)] == [scores[user, i] for i in left]
        # Then seen candidates, each once, at minus infinity.
        assert len(set(row_items)) == len(row_items) == min(k, len(candidates))
        assert set(row_items) <= set(candidates.tolist())
        assert row_scores[len(left) :] == [-np.inf] * (len(row_items) - len(left))


@pytest.mark.parametrize("k", [1, 10, 300])
def test_one_user_and_more_items_than_a_block_holds(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_ITEMS", 1000)
    user, item = torch.randn(1, 8), torch.randn(3210, 8)
    (block,) = top_k(user, item, torch.zeros(1, dtype=torch.long), k)
    expected = (user.double() @ item.double().T).topk(k, dim=1)
    torch.testing.assert_close(block.score.double(), expected.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(block.score, (user * item[block.item[0]]).sum(dim=1).unsqueeze(0))
    assert block.item.unique().numel() == k


def test_each_block_keeps_its_scores_when_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_ROWS", {"cpu": 2})
    user, item = torch.randn(6, 4), torch.randn(5, 4)
    copies, blocks = [], []
    for block in top_k(user, item, torch.arange(6), 5):
        copies.append((block.score.clone(), block.item.clone()))
        blocks.append((block.score, block.item))
    for copied, kept in zip(copies, blocks, strict=True):
        assert all(map(torch.equal, copied, kept))


def test_nothing_of_a_ranking_is_kept_for_gradients() -> None:
    user, item = torch.randn(4, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    (block,) = top_k(user, item, torch.arange(4), 2)
    assert not block.score.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("candidates", [None, torch.empty(0, dtype=torch.long)])
def test_without_items_there_are_no_places(candidates: Tensor | None) -> None:
    item = torch.randn(0 if candidates is None else 4, 3)
    (block,) = top_k(torch.randn(2, 3), item, torch.arange(2), 5, None, candidates)
    assert block.score.shape == block.item.shape == (2, 0)
