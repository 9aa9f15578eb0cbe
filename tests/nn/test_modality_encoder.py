import copy

import torch

from lirdrec_pyg.nn import ModalityEncoder


def test_matches_the_closed_form() -> None:
    encoder = ModalityEncoder(5, 3).double()
    x = torch.randn(7, 5, dtype=torch.double)

    hidden = x @ encoder.lin1.weight.T + encoder.lin1.bias
    activated = torch.where(hidden > 0, hidden, 0.01 * hidden)

    torch.testing.assert_close(encoder(x), activated @ encoder.lin2.weight.T)
    assert (hidden < 0).any()


def test_gradients_of_both_orders_and_an_unmodified_input() -> None:
    encoder = copy.deepcopy(ModalityEncoder(4, 2)).double()
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    before = x.detach().clone()
    encoder(x)
    assert torch.equal(x, before)
    assert torch.autograd.gradcheck(encoder, (x,))
    assert torch.autograd.gradgradcheck(encoder, (x,))

    names, parameters = zip(*encoder.named_parameters(), strict=True)
    expected = torch.autograd.grad(encoder(x).square().sum(), parameters)
    actual = torch.func.grad(lambda p: torch.func.functional_call(encoder, p, (x,)).square().sum())(
        dict(zip(names, parameters, strict=True))
    )
    torch.testing.assert_close(tuple(actual.values()), expected)


def test_hidden_width_is_four_times_the_output_and_only_the_first_layer_has_a_bias() -> None:
    shapes = {name: tuple(p.shape) for name, p in ModalityEncoder(5, 3).named_parameters()}
    assert shapes == {"lin1.weight": (12, 5), "lin1.bias": (12,), "lin2.weight": (3, 12)}


def test_hidden_width_and_slope_are_configurable() -> None:
    for hidden, slope in ((1, 0.01), (6, 0.5)):
        encoder = ModalityEncoder(2, 3, hidden_channels=hidden, negative_slope=slope)
        torch.nn.init.constant_(encoder.lin1.weight, -1.0)
        torch.nn.init.zeros_(encoder.lin1.bias)
        torch.nn.init.ones_(encoder.lin2.weight)
        torch.testing.assert_close(encoder(torch.ones(4, 2)), torch.full((4, 3), -2.0 * slope * hidden))
