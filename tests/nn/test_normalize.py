import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec_pyg.nn import unit_vectors


def test_values_and_gradients_equal_those_of_torch() -> None:
    for shape in ((7,), (5, 3), (4, 1), (2, 3, 6), (0, 3)):
        x = torch.randn(shape, dtype=torch.double, requires_grad=True)
        actual, expected = unit_vectors(x), F.normalize(x, dim=-1)
        torch.testing.assert_close(actual, expected)
        slope = torch.randn_like(actual)
        torch.testing.assert_close(torch.autograd.grad(actual, x, slope), torch.autograd.grad(expected, x, slope))
        assert torch.autograd.gradcheck(unit_vectors, (x,))
        assert torch.autograd.gradgradcheck(unit_vectors, (x,))


@settings(max_examples=50)
@given(exponent=st.integers(-9, 15), width=st.integers(1, 70), seed=st.integers(0, 2**16))
def test_rows_have_length_one_and_keep_their_direction(exponent: int, width: int, seed: int) -> None:
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    unit = unit_vectors(x)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(unit * x.norm(dim=-1, keepdim=True), x, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_rows_of_zeros_stay_and_have_finite_gradients(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    unit = unit_vectors(x)
    assert unit.dtype == dtype
    assert unit[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(unit[1], torch.tensor([0.6, 0.8], dtype=dtype))
    (gradient,) = torch.autograd.grad(unit.sum(), x)
    (expected,) = torch.autograd.grad(F.normalize(x, dim=-1).sum(), x)
    assert gradient.isfinite().all()
    if dtype == torch.float16:  # torch divides by an epsilon of 0
        gradient, expected = gradient[1:], expected[1:]
    # A quotient and a product round differently.
    torch.testing.assert_close(gradient, expected, rtol=1e-6 if torch.finfo(dtype).bits >= 32 else 0.02, atol=0.02)


def test_rows_shorter_than_eps_are_divided_by_it() -> None:
    x = torch.tensor([[0.3, 0.4], [3.0, 4.0], [1e-14, 0.0]], dtype=torch.double, requires_grad=True)
    for eps in (1e-12, 0.5, 10.0):
        actual, expected = unit_vectors(x, eps), F.normalize(x, dim=-1, eps=eps)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(*(torch.autograd.grad(out.pow(2).sum(), x) for out in (actual, expected)))
