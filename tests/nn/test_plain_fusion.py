import pytest
import torch
from torch import Tensor, nn

from lirdrec_pyg.nn import AttentionFusion, MeanFusion, ProgressiveWeightCopying, StaticFusion

NUM_USERS, BRANCHES, DIM = 6, 3, 4


def branches() -> Tensor:
    return torch.randn(NUM_USERS, BRANCHES, DIM, generator=torch.Generator().manual_seed(1))


def weighted(alpha: Tensor, x: Tensor) -> Tensor:
    return torch.cat([alpha[:, b : b + 1] * x[:, b] for b in range(BRANCHES)], dim=1)


def test_mean_weights_all_branches_alike() -> None:
    x = branches()
    assert torch.allclose(MeanFusion()(x), x.flatten(start_dim=1) / BRANCHES)
    assert torch.allclose(MeanFusion().attention_of_new_users(x), torch.full((NUM_USERS, BRANCHES), 1 / BRANCHES))


def test_static_weights_are_the_softmax_of_the_memory() -> None:
    x, fusion = branches(), StaticFusion(NUM_USERS, BRANCHES)
    expected = fusion.theta.exp() / fusion.theta.exp().sum(dim=1, keepdim=True)
    assert torch.allclose(fusion(x), weighted(expected, x))
    index = torch.tensor([4, 1])
    assert torch.allclose(fusion(x[index], index), weighted(expected, x)[index])
    mean = fusion.theta.mean(dim=0)
    assert torch.allclose(fusion.attention_of_new_users(x[:2]), (mean.exp() / mean.exp().sum()).expand(2, -1))
    fusion(x).square().sum().backward()
    assert fusion.theta.grad is not None
    assert fusion.theta.grad.abs().sum() > 0


@pytest.mark.parametrize("network_weight", [0.0, 1.0])
def test_they_are_the_two_ends_of_progressive_weight_copying(network_weight: float) -> None:
    """With all weight on the network, or on the memory, PWC before its first epoch is one of the others."""
    x, pwc = branches(), ProgressiveWeightCopying(NUM_USERS, BRANCHES, DIM, network_weight)
    other: nn.Module = AttentionFusion(BRANCHES, DIM) if network_weight else StaticFusion(NUM_USERS, BRANCHES)
    state = pwc.state_dict()
    other.load_state_dict({name: state[name] for name in other.state_dict()})
    assert torch.allclose(pwc(x), other(x))


@pytest.mark.parametrize("fusion", [MeanFusion(), StaticFusion(NUM_USERS, BRANCHES), AttentionFusion(BRANCHES, DIM)])
def test_they_have_no_schedule_and_say_what_they_are(fusion: nn.Module) -> None:
    before = fusion(branches())
    fusion.start_epoch()
    assert torch.equal(fusion(branches()), before)
    assert repr(fusion).startswith(type(fusion).__name__)
