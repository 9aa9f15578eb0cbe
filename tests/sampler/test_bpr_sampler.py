import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric import EdgeIndex

from lirdrec_pyg.errors import DataError
from lirdrec_pyg.sampler import BPRSampler

NUM_USERS, NUM_ITEMS = 6, 7

# Popularities of items 0, 1, 2, 3 are 4, 3, 2, 1; item 4 occurs nowhere; user 4 has item 3 alone.
STAIRS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 4], [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(edge_index: Tensor) -> list[tuple[int, ...]]:
    return sorted(map(tuple, edge_index.T.tolist()))


def chi_square(observed: Tensor, probability: Tensor) -> float:
    expected = observed.sum() * probability
    return float(((observed - expected) ** 2 / expected).sum())


edge_sets = st.sets(st.tuples(st.integers(0, NUM_USERS - 1), st.integers(0, NUM_ITEMS - 1)), min_size=1)


@settings(max_examples=60)
@given(
    edges=edge_sets, alpha=st.sampled_from([0.0, 0.75, -0.5]), seed=st.integers(0, 9), num_negatives=st.integers(1, 3)
)
def test_an_epoch_has_every_usable_pair_once_and_only_true_negatives(
    edges: set[tuple[int, int]], alpha: float, seed: int, num_negatives: int
) -> None:
    occurring = {item for _, item in edges}
    saturated = {u for u in range(NUM_USERS) if {i for v, i in edges if v == u} == occurring}
    usable = sorted(e for e in edges if e[0] not in saturated)
    assume(usable)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = BPRSampler(torch.tensor(list(edges)).T, NUM_USERS, NUM_ITEMS, alpha, seeded(seed), num_negatives)
    triples = sampler.sample_epoch()

    assert triples.dtype == torch.long
    assert triples.shape == (2 + num_negatives, len(sampler))
    assert pairs(triples[:2]) == usable
    for negative in triples[2:]:
        assert not set(pairs(torch.stack([triples[0], negative]))) & edges
        assert set(negative.tolist()) <= occurring


def test_several_negatives_are_drawn_independently() -> None:
    edge_index = torch.stack([torch.arange(2000), torch.arange(2000) % 50])
    one, several = (BPRSampler(edge_index, 2000, 50, generator=seeded(), num_negatives=n) for n in (1, 3))
    triples = several.sample_epoch()
    assert torch.equal(triples[:3], one.sample_epoch())
    for other in (triples[3], triples[4]):
        assert (other == triples[2]).float().mean() == pytest.approx(1 / 49, abs=0.02)


@settings(max_examples=30)
@given(edges=edge_sets)
def test_is_known_finds_exactly_the_training_pairs(edges: set[tuple[int, int]]) -> None:
    grid = torch.cartesian_prod(torch.arange(NUM_USERS), torch.arange(NUM_ITEMS)).T
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = BPRSampler(torch.tensor(sorted(edges)).T, NUM_USERS, NUM_ITEMS)
    except DataError:
        assume(False)
    assert set(pairs(grid[:, sampler.is_known(*grid)])) == edges


def test_negatives_follow_the_popularity_to_the_power_of_alpha() -> None:
    for alpha in (0.0, 1.0, 0.5, -1.0):
        drawn = BPRSampler(STAIRS, 5, 5, alpha, seeded()).negatives(torch.full((8000,), 4))
        observed = drawn.bincount(minlength=5).double()
        weight = torch.tensor([4.0, 3.0, 2.0], dtype=torch.double) ** alpha
        assert observed[3:].tolist() == [0.0, 0.0]
        # Chi-square of 2 degrees of freedom: above 13.8 once in a thousand.
        assert chi_square(observed[:3], weight / weight.sum()) < 13.8


def test_redrawing_stays_uniform_for_every_user() -> None:
    sampler = BPRSampler(STAIRS, 5, 5, generator=seeded())
    for user, allowed in {0: [3], 2: [2, 3], 3: [1, 2, 3], 4: [0, 1, 2]}.items():
        observed = sampler.negatives(torch.full((3000,), user)).bincount(minlength=5).double()
        assert set(observed.nonzero().flatten().tolist()) == set(allowed)
        uniform = torch.full((len(allowed),), 1 / len(allowed), dtype=torch.double)
        assert chi_square(observed[allowed], uniform) < 13.8


def test_triples_come_in_random_order() -> None:
    sampler = BPRSampler(STAIRS, 5, 5, generator=seeded())
    first, second = sampler.sample_epoch(), sampler.sample_epoch()
    assert pairs(first[:2]) == pairs(second[:2]) == pairs(STAIRS)
    assert not torch.equal(first[:2], second[:2])


def test_epochs_follow_the_generator() -> None:
    for alpha in (0.0, 0.75):
        epochs = []
        for seed in (3, 3, 4):
            sampler = BPRSampler(STAIRS, 5, 5, alpha, seeded(seed))
            epochs.append(torch.stack([sampler.sample_epoch() for _ in range(3)]))
        assert torch.equal(epochs[0], epochs[1])
        assert not torch.equal(epochs[0], epochs[2])


def test_users_with_every_item_are_skipped_with_a_warning() -> None:
    edges = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 2, 0, 1]])
    with pytest.warns(UserWarning, match=r"2 user\(s\) have every item in training: 6 interactions"):
        sampler = BPRSampler(edges, 3, 9)
    assert len(sampler) == 1
    assert sampler.sample_epoch()[:2].tolist() == [[1], [1]]


def test_duplicate_pairs_do_not_saturate_a_user() -> None:
    edges = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]])
    with pytest.warns(UserWarning, match=r"1 user\(s\)"):
        sampler = BPRSampler(edges, 2, 2)
    assert sampler.sample_epoch().tolist() == [[0, 0], [0, 0], [1, 1]]


def test_a_graph_without_negatives_is_refused() -> None:
    with pytest.raises(DataError, match="no negative"):
        BPRSampler(torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]), 2, 5)


def test_a_graph_without_interactions_is_refused() -> None:
    for alpha in (0.0, 0.75):
        with pytest.raises(DataError, match="no training interactions"):
            BPRSampler(torch.empty(2, 0, dtype=torch.long), 2, 5, alpha)


def test_supports_an_edge_index() -> None:
    wrapped = BPRSampler(EdgeIndex(STAIRS), 5, 5, generator=seeded()).sample_epoch()
    assert type(wrapped) is Tensor
    assert torch.equal(wrapped, BPRSampler(STAIRS, 5, 5, generator=seeded()).sample_epoch())


def test_length_and_repr() -> None:
    sampler = BPRSampler(STAIRS, 5, 5, alpha=0.5)
    assert len(sampler) == 10
    assert repr(sampler) == "BPRSampler(10 triples, 4 candidates, alpha=0.5)"


def test_users_with_nearly_all_items_draw_from_the_others() -> None:
    num_items = 1000
    # User 0 has all items except the last two; user 1 has these two, and ten more users have the first of them.
    user = [0] * (num_items - 2) + [1, 1] + list(range(2, 12))
    item = [*range(num_items - 2), num_items - 2, num_items - 1] + [num_items - 2] * 10
    for alpha in (0.0, 1.0, 40.0):
        sampler = BPRSampler(torch.tensor([user, item]), 12, num_items, alpha, seeded())
        drawn = sampler.negatives(torch.zeros(2000, dtype=torch.long)) - (num_items - 2)
        assert set(drawn.tolist()) <= {0, 1}
        weight = torch.tensor([11.0, 1.0], dtype=torch.double).pow(alpha)
        assert (drawn == 0).float().mean().item() == pytest.approx((weight[0] / weight.sum()).item(), abs=0.04)
