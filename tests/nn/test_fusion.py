import io
import itertools

import pytest
import torch
from torch import Tensor, nn

from lirdrec_pyg.nn import AttentionFusion, MeanFusion, ProgressiveWeightCopying, StaticFusion

USERS, CHANNELS = 6, 8
BRANCHES = pytest.mark.parametrize("branches", [1, 2, 5])


def fusion(branches: int = 3, **settings: float) -> ProgressiveWeightCopying:
    torch.manual_seed(0)
    return ProgressiveWeightCopying(USERS, branches, CHANNELS, **settings)


def user_branches(branches: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(USERS, branches, CHANNELS, generator=torch.Generator().manual_seed(seed))


def train_epoch(module: ProgressiveWeightCopying, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Two training steps on data that depend on ``epoch``."""
    module.train()
    module.start_epoch()
    for step in range(2):
        optimizer.zero_grad()
        x = user_branches(module.num_branches, seed=10 * epoch + step)
        (module(x) * x.flatten(1).cos()).sum().backward()
        optimizer.step()


@BRANCHES
def test_forward_matches_the_recurrence_written_out(branches: int) -> None:
    module, x = fusion(branches), user_branches(branches)
    module.start_epoch()
    w_net, w_mem = float(module.network_weight), float(module.memory_weight)
    out = module(x)
    assert out.shape == (USERS, branches * CHANNELS)
    for user in range(USERS):
        logits = []
        for b, (fc1, fc2) in enumerate(zip(module.fc1, module.fc2, strict=True)):
            hidden = fc1.weight @ x[user, b] + fc1.bias
            hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
            logits.append(w_net * (fc2.weight @ hidden + fc2.bias) + w_mem * module.theta[user, b])
        exponents = torch.cat(logits).exp()
        alpha = exponents / exponents.sum()
        torch.testing.assert_close(out[user], torch.cat([alpha[b] * x[user, b] for b in range(branches)]))


def test_the_schedule_compounds() -> None:
    for start, base in itertools.product((0.9, 0.95, 0.99, 0.0, 1.0), (0.9, 0.5, 1.0)):
        module = fusion(network_weight=start, decay_base=base)
        w_net, w_mem = start, 1.0 - start
        assert (float(module.network_weight), float(module.memory_weight)) == (w_net, w_mem)
        for epoch in range(1, 13):
            module.start_epoch()
            f = w_net * base**epoch
            w_net, w_mem = f / (f + w_mem), w_mem / (f + w_mem)
            assert int(module.epoch) == epoch
            assert float(module.network_weight) == pytest.approx(w_net, rel=1e-12, abs=1e-300)
            assert float(module.memory_weight) == pytest.approx(w_mem, rel=1e-12)


def test_the_memory_is_the_last_training_attention_from_the_second_epoch_on() -> None:
    module, start = fusion(), fusion().theta.detach()
    module.start_epoch()
    assert torch.equal(module.theta, start)

    for seed in (1, 2):
        module(user_branches(seed=seed))
    last = module.attention(user_branches(seed=2)).detach()
    assert torch.equal(module.theta, start)
    module.start_epoch()
    assert torch.equal(module.theta, last)
    assert not torch.equal(module.theta, start)


def test_copying_keeps_the_memory_trainable() -> None:
    module = fusion()
    memory = module.theta
    module.start_epoch()
    module(user_branches())
    module.start_epoch()
    assert module.theta is memory
    assert module.theta.is_leaf
    assert module.theta.requires_grad
    module(user_branches()).square().sum().backward()
    assert module.theta.grad is not None
    assert module.theta.grad.abs().sum() > 0
    assert not module.last_attention.requires_grad


def test_the_optimizers_moments_survive_the_copy() -> None:
    module = fusion()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    train_epoch(module, optimizer, 1)
    moments = {key: optimizer.state[module.theta][key].clone() for key in ("exp_avg", "exp_avg_sq", "step")}
    module.start_epoch()
    assert moments["exp_avg"].abs().sum() > 0
    for key, moment in moments.items():
        assert torch.equal(optimizer.state[module.theta][key], moment)


def test_training_resumes_from_a_saved_state() -> None:
    module = fusion(network_weight=0.95)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for epoch in (1, 2):
        train_epoch(module, optimizer, epoch)

    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    # The state overrides the initial settings.
    fresh = ProgressiveWeightCopying(USERS, 3, CHANNELS, network_weight=0.5)
    fresh.load_state_dict(torch.load(file, weights_only=True))

    fresh_optimizer = torch.optim.SGD(fresh.parameters(), lr=0.5)
    for epoch in (3, 4):
        train_epoch(module, optimizer, epoch)
        train_epoch(fresh, fresh_optimizer, epoch)
    state = fresh.state_dict()
    assert state.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        assert torch.equal(state[name], value), name


@BRANCHES
def test_a_subset_of_users_has_the_outputs_of_a_full_pass(branches: int) -> None:
    module, x = fusion(branches), user_branches(branches)
    index = torch.tensor([4, 0, 5])
    torch.testing.assert_close(module(x[index], index), module(x)[index])
    torch.testing.assert_close(module.attention(x[index], index), module.attention(x)[index])


def test_only_the_attention_of_a_subset_is_copied() -> None:
    module, x = fusion(), user_branches()
    start = module.theta.detach().clone()
    index = torch.tensor([4, 0])
    module.start_epoch()
    module(x[index], index)
    attention = module.attention(x).detach()
    module.start_epoch()
    torch.testing.assert_close(module.theta[index], attention[index])
    others = [1, 2, 3, 5]
    assert torch.equal(module.theta[others], start[others])


def test_eval_mode_does_not_change_the_last_attention() -> None:
    module, other, index = fusion(), user_branches(seed=1), torch.tensor([1, 2])
    module(user_branches())
    before = module.last_attention.clone()
    module.eval()(other)
    module(other[index], index)
    assert torch.equal(module.last_attention, before)


@BRANCHES
def test_new_users_use_the_mean_row_of_the_memory(branches: int) -> None:
    module = fusion(branches)
    train_epoch(module, torch.optim.SGD(module.parameters(), lr=0.5), 1)
    module.start_epoch()
    before = module.last_attention.clone()
    x = torch.randn(USERS + 3, branches, CHANNELS)
    found = module.attention_of_new_users(x)
    assert found.shape == (USERS + 3, branches)
    with torch.no_grad():
        module.theta.copy_(module.theta.mean(dim=0).expand_as(module.theta))
    torch.testing.assert_close(
        found, torch.cat([module.attention(x[:USERS]), module.attention(x[USERS:], torch.arange(3))])
    )
    assert torch.equal(module.last_attention, before)


def test_attention_is_a_distribution_and_one_branch_passes_through() -> None:
    torch.testing.assert_close(fusion(5).attention(user_branches(5)).sum(dim=1), torch.ones(USERS))
    x = user_branches(1)
    assert torch.equal(fusion(1)(x), x.flatten(1))


def test_gradients() -> None:
    module = ProgressiveWeightCopying(3, 2, 4).double().eval()
    x = torch.randn(3, 2, 4, dtype=torch.double, requires_grad=True)
    parameters = dict(module.named_parameters())

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, (x, *parameters.values()))


def test_reset_parameters_restarts_the_schedule() -> None:
    module = fusion(network_weight=0.95)
    start = {name: module.state_dict()[name].clone() for name in ("network_weight", "memory_weight", "epoch")}
    train_epoch(module, torch.optim.SGD(module.parameters(), lr=0.5), 1)
    module.reset_parameters()
    assert all(torch.equal(module.state_dict()[name], value) for name, value in start.items())
    assert module.last_attention.isnan().all()


def test_the_hidden_width_is_a_quarter() -> None:
    for channels, hidden in ((64, 16), (8, 2), (3, 1), (1, 1)):
        for module in (ProgressiveWeightCopying(2, 2, channels), AttentionFusion(2, channels)):
            assert [fc.weight.shape for fc in module.fc1] == [(hidden, channels)] * 2
            assert [fc.weight.shape for fc in module.fc2] == [(1, hidden)] * 2
            assert all(fc.bias is not None for fc in [*module.fc1, *module.fc2])


class TestAblations:
    @staticmethod
    def weighted(alpha: Tensor, x: Tensor) -> Tensor:
        return torch.cat([alpha[:, b : b + 1] * x[:, b] for b in range(x.size(1))], dim=1)

    def test_mean_fusion_weights_all_branches_equally(self) -> None:
        x = user_branches()
        torch.testing.assert_close(MeanFusion()(x), x.flatten(start_dim=1) / 3)
        torch.testing.assert_close(MeanFusion().attention_of_new_users(x), torch.full((USERS, 3), 1 / 3))

    def test_static_fusion_weights_by_the_softmax_of_its_memory(self) -> None:
        x, module, index = user_branches(), StaticFusion(USERS, 3), torch.tensor([4, 1])
        expected = module.theta.exp() / module.theta.exp().sum(dim=1, keepdim=True)
        torch.testing.assert_close(module(x), self.weighted(expected, x))
        torch.testing.assert_close(module(x[index], index), self.weighted(expected, x)[index])
        mean = module.theta.mean(dim=0)
        torch.testing.assert_close(module.attention_of_new_users(x[:2]), (mean.exp() / mean.exp().sum()).expand(2, -1))
        module(x).square().sum().backward()
        assert module.theta.grad is not None
        assert module.theta.grad.abs().sum() > 0

    def test_they_are_the_extremes_of_progressive_weight_copying(self) -> None:
        """With all weight on the network or on the memory, PWC before its first epoch equals one of the others."""
        x, others = user_branches(), {0.0: StaticFusion(USERS, 3), 1.0: AttentionFusion(3, CHANNELS)}
        for network_weight, other in others.items():
            pwc = fusion(network_weight=network_weight)
            other.load_state_dict({name: pwc.state_dict()[name] for name in other.state_dict()})
            torch.testing.assert_close(pwc(x), other(x))

    def test_they_have_no_schedule(self) -> None:
        modules: list[nn.Module] = [MeanFusion(), StaticFusion(USERS, 3), AttentionFusion(3, CHANNELS)]
        for module in modules:
            before = module(user_branches())
            module.start_epoch()
            assert torch.equal(module(user_branches()), before)
