import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lirdrec_pyg.errors import DataError
from lirdrec_pyg.sampler import UserSampler

pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=40, unique=True)


@given(pairs, st.integers(0, 9))
def test_an_epoch_has_every_pair_once_and_the_pairs_of_a_user_together(edges: list, seed: int) -> None:
    edge_index = torch.tensor(edges).T
    sampler = UserSampler(edge_index, 6, torch.Generator().manual_seed(seed))
    epoch = sampler.sample_epoch()
    assert len(sampler) == len(edges)
    assert sorted(map(tuple, epoch.T.tolist())) == sorted(edges)
    assert len(epoch[0].unique_consecutive()) == len(epoch[0].unique())
    again = UserSampler(edge_index, 6, torch.Generator().manual_seed(seed))
    assert torch.equal(again.sample_epoch(), epoch)


def test_the_order_of_users_is_random() -> None:
    sampler = UserSampler(torch.arange(50).repeat(2, 1), 50, torch.Generator().manual_seed(0))
    first, second = sampler.sample_epoch(), sampler.sample_epoch()
    assert not torch.equal(first, second)


def test_no_interactions_are_an_error() -> None:
    with pytest.raises(DataError, match="There are no training interactions"):
        UserSampler(torch.empty(2, 0, dtype=torch.long), 3)
