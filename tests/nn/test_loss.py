import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lirdrec_pyg.nn import BPRLoss, SoftmaxLoss


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.double, requires_grad=True)


def test_values_and_gradients_match_the_formula() -> None:
    positive, negative, user, item = inputs = double(7), double(7), double(4, 3), double(5, 3)
    ranking = sum(math.log1p(math.exp(gap)) for gap in (negative - positive).tolist()) / 7
    squares = [sum(v**2 for v in x.flatten().tolist()) / x.numel() for x in (user, item)]
    for reg_weight in (0.0, 1e-2, 2.0):
        loss = BPRLoss(reg_weight)
        assert loss(*inputs).item() == pytest.approx(ranking + reg_weight * sum(squares))
        assert loss(*inputs, 0.25).item() == pytest.approx(0.25 * ranking + reg_weight * sum(squares))
        assert torch.autograd.gradcheck(loss, inputs)


def test_several_negatives_are_a_softmax_over_them_and_the_positive() -> None:
    positive, negative, user, item = double(7), double(4, 7), double(4, 3), double(5, 3)
    scores = torch.cat([positive.unsqueeze(0), negative]).T
    expected = F.cross_entropy(scores, torch.zeros(7, dtype=torch.long))
    actual = BPRLoss()(positive, negative, user, item)
    torch.testing.assert_close(actual, expected)
    leaves = (positive, negative)
    torch.testing.assert_close(torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves))


def test_one_negative_may_have_a_dimension_of_its_own() -> None:
    positive, negative, user, item = double(7), double(7), double(4, 3), double(5, 3)
    assert torch.equal(
        BPRLoss(0.1)(positive, negative.unsqueeze(0), user, item), BPRLoss(0.1)(positive, negative, user, item)
    )


def test_extreme_scores_stay_finite() -> None:
    for gap, expected in ((200.0, 0.0), (-200.0, 200.0), (0.0, math.log(2.0))):
        loss = BPRLoss()(torch.tensor([gap]), torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1))
        assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("zero", ["user", "item"])
def test_representations_of_zeros_have_a_gradient_of_zeros(zero: str) -> None:
    user, item = double(4, 3), double(5, 3)
    with torch.no_grad():
        (user if zero == "user" else item).zero_()
    loss = BPRLoss(0.5)(double(2), double(2), user, item)
    loss.backward()
    assert loss.isfinite()
    for x in (user, item):
        assert x.grad is not None
        torch.testing.assert_close(x.grad, 0.5 * 2 * x.detach() / x.numel())


def test_the_gradient_of_many_representations_has_no_rounding_error_of_a_sum() -> None:
    user, item = torch.randn(20_000, 64, requires_grad=True), torch.randn(3, 64, requires_grad=True)
    loss = BPRLoss(1.0)(torch.zeros(1), torch.zeros(1), user, item)
    loss.backward()
    squares = sum(float(x.detach().double().square().mean()) for x in (user, item))
    assert loss.item() == pytest.approx(math.log(2) + squares, rel=1e-3)
    for x in (user, item):
        assert x.grad is not None
        torch.testing.assert_close(x.grad, 2 * x.detach() / x.numel(), rtol=1e-5, atol=0.0)


def test_softmax_is_the_cross_entropy_of_each_positive_against_the_items_that_are_not_masked() -> None:
    user, item = F.normalize(double(3, 4), dim=1), F.normalize(double(6, 4), dim=1)
    row, positive = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 3, 3, 5])
    taken = {0: {0, 3, 4}, 1: {3}, 2: {5, 1}}  # of a user, also positives that are not in the batch
    masked = torch.tensor([(u, i) for u, items in taken.items() for i in items]).T
    weight = torch.tensor([0.5, 0.5, 2.0, 1.0], dtype=torch.double)
    expected = 0.0
    for u, i, w in zip(row.tolist(), positive.tolist(), weight.tolist(), strict=True):
        others = [i, *(j for j in range(6) if j not in taken[u])]
        scores = torch.stack([user[u] @ item[j] / 0.2 for j in others])
        # 6 of 12 items are drawn, so each of them stands for two.
        scores = scores + torch.tensor([0.0, *[math.log(2)] * (len(others) - 1)], dtype=torch.double)
        expected -= w * scores.log_softmax(dim=0)[0] / 4
    actual = SoftmaxLoss(0.2)(user, item, masked, row, item[positive], weight, 12)
    torch.testing.assert_close(actual, expected)
