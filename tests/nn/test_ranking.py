import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric import EdgeIndex

from lirdrec_pyg.nn import DotProducts, Scores, SeenItems, TopK, ranking, top_k

NUM_USERS, NUM_ITEMS = 11, 9


@pytest.fixture
def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(NUM_USERS, 4), torch.randn(NUM_ITEMS, 4)


@pytest.fixture
def seen() -> Tensor:
    """Training pairs in random order; user 0 has none, user 1 has all items."""
    mask = torch.rand(NUM_USERS, NUM_ITEMS) < 0.4
    mask[0], mask[1] = False, True
    pairs = mask.nonzero().T
    return pairs[:, torch.randperm(pairs.size(1))]


def join(blocks: list[TopK]) -> tuple[list[list[float]], list[list[int]]]:
    return torch.cat([b.score for b in blocks]).tolist(), torch.cat([b.item for b in blocks]).tolist()


def test_no_users_have_an_empty_ranking(vectors: tuple[Tensor, Tensor], seen: Tensor) -> None:
    (block,) = top_k(*vectors, torch.empty(0, dtype=torch.long), 3, SeenItems.of(seen, NUM_USERS))
    assert block.score.shape == block.item.shape == (0, 3)


@settings(max_examples=50)
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), unique=True), data=st.data())
def test_seen_items_are_found_for_any_users(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    edge_index = torch.tensor(pairs, dtype=torch.long).view(-1, 2).T
    seen = SeenItems.of(edge_index, 5)
    assert seen.start.tolist() == [sum(u < n for u, _ in pairs) for n in range(6)]
    users = data.draw(st.lists(st.integers(0, 4), max_size=7))
    row, item = seen.pairs(torch.tensor(users, dtype=torch.long))
    # In the order of the input, one user after the other.
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


@settings(max_examples=200)
@given(
    num_rows=st.integers(0, 5),
    num_columns=st.integers(1, 90),
    k=st.integers(1, 12),
    chunk=st.integers(1, 9),
    num_values=st.sampled_from([1, 2, 5, 1000]),
    masked=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_selection_by_chunks_equals_torch(
    num_rows: int, num_columns: int, k: int, chunk: int, num_values: int, masked: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(-num_values, num_values, (num_rows, num_columns), generator=generator).float()
    score[torch.rand(score.shape, generator=generator) < masked] = -torch.inf
    k = min(k, num_columns)
    chunk = min(chunk, num_columns // k)
    values, indices = ranking._largest_by_chunks(score, k, chunk)
    assert torch.equal(values, score.topk(k, dim=1).values)
    # Any of several items with equal scores is correct, but no item twice.
    assert torch.equal(score.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_selection_by_chunks_without_ties_finds_the_same_items() -> None:
    for num_columns in (3 * 16 - 1, 3 * 16, 3 * 16 + 1, 3 * 32**2 - 1, 3 * 32**2, 3 * 32**2 + 1):
        score = torch.stack([torch.randperm(num_columns) for _ in range(20)]).float()
        # The best and the worst score are in the remainder after the last whole chunk.
        score[0, -1], score[1, -1] = 1e6, -1e6
        values, indices = ranking._largest(score, 3)
        expected = score.topk(3, dim=1)
        assert torch.equal(values, expected.values)
        assert torch.equal(indices, expected.indices)


@settings(max_examples=150)
@given(
    num_users=st.integers(1, 6),
    num_items=st.integers(1, 60),
    num_candidates=st.none() | st.integers(1, 60),
    k=st.integers(1, 70),
    rows_per_block=st.integers(1, 6),
    items_per_block=st.integers(1, 60),
    min_chunk=st.integers(1, 4),
    density=st.none() | st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_rankings_equal_brute_force_in_blocks_of_any_size(
    num_users: int,
    num_items: int,
    num_candidates: int | None,
    k: int,
    rows_per_block: int,
    items_per_block: int,
    min_chunk: int,
    density: float | None,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    # Scores are distinct integers, whose order is the same in float64.
    scores = rng.permuted(np.tile(np.arange(num_items, dtype=float), (num_users, 1)), axis=1)
    mask = rng.random((num_users, num_items)) < (density or 0.0)
    pairs = torch.from_numpy(rng.permutation(np.argwhere(mask))).T
    seen = None if density is None else SeenItems.of(pairs, num_users)
    candidates = None if num_candidates is None else torch.from_numpy(rng.permutation(num_items)[:num_candidates])
    ranked = list(range(num_items)) if candidates is None else candidates.tolist()
    index = torch.from_numpy(rng.integers(num_users, size=5))
    user = torch.from_numpy(scores)
    rankers = DotProducts(user, torch.eye(num_items, dtype=torch.double)), Scores(lambda rows: user[rows], num_items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ROWS", {"cpu": rows_per_block})
        patch.setattr(ranking, "_BLOCK_ITEMS", items_per_block)
        patch.setattr(ranking, "_MIN_CHUNK", min_chunk)
        patch.setattr(ranking, "_SCORE_BYTES", 4 * num_items * rows_per_block)
        results = [list(ranker.top_k(index, k, seen, candidates)) for ranker in rankers]
    for blocks in results:
        assert [b.rows for b in blocks] == [
            slice(start, min(start + rows_per_block, 5)) for start in range(0, 5, rows_per_block)
        ]
        assert all(b.score.dtype == torch.double for b in blocks)
        for u, row_scores, row_items in zip(index.tolist(), *join(blocks), strict=True):
            best = sorted((i for i in ranked if not mask[u, i]), key=lambda i: -scores[u, i])[:k]
            assert row_items[: len(best)] == best
            assert row_scores[: len(best)] == [scores[u, i] for i in best]
            # Seen candidates follow, without duplicates, at minus infinity.
            assert len(set(row_items)) == len(row_items) == min(k, len(ranked))
            assert set(row_items) <= set(ranked)
            assert row_scores[len(best) :] == [-np.inf] * (len(row_items) - len(best))


@pytest.mark.parametrize("k", [1, 10, 300])
def test_one_user_and_more_items_than_a_block_holds(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_ITEMS", 1000)
    user, item = torch.randn(1, 8), torch.randn(3210, 8)
    (block,) = top_k(user, item, torch.zeros(1, dtype=torch.long), k)
    expected = (user.double() @ item.double().T).topk(k, dim=1)
    torch.testing.assert_close(block.score.double(), expected.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(block.score, (user * item[block.item[0]]).sum(dim=1).unsqueeze(0))
    assert block.item.unique().numel() == k


def test_blocks_do_not_share_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_ROWS", {"cpu": 2})
    user, item = torch.randn(6, 4), torch.randn(5, 4)
    copies, blocks = [], []
    for block in top_k(user, item, torch.arange(6), 5):
        copies.append((block.score.clone(), block.item.clone()))
        blocks.append((block.score, block.item))
    for copied, kept in zip(copies, blocks, strict=True):
        assert all(map(torch.equal, copied, kept))


def test_a_ranking_has_no_gradients() -> None:
    user, item = torch.randn(4, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    (block,) = top_k(user, item, torch.arange(4), 2)
    assert not block.score.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("candidates", [None, torch.empty(0, dtype=torch.long)])
def test_a_ranking_of_no_items_is_empty(candidates: Tensor | None) -> None:
    item = torch.randn(0 if candidates is None else 4, 3)
    (block,) = top_k(torch.randn(2, 3), item, torch.arange(2), 5, None, candidates)
    assert block.score.shape == block.item.shape == (2, 0)
