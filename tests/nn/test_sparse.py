import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lirdrec_pyg.nn import SparseOperator

SIZES = [(5, 3), (3, 5), (4, 4), (1, 6)]


def entries(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A shuffled half of the entries; the last row has none."""
    torch.manual_seed(0)
    mask = torch.rand(size) < 0.6
    mask[-1] = False
    index = mask.nonzero().T
    index = index[:, torch.randperm(index.size(1))]
    return index, torch.randn(index.size(1), dtype=torch.double)


def dense(size: tuple[int, int]) -> Tensor:
    index, value = entries(size)
    return torch.zeros(size, dtype=torch.double).index_put((index[0], index[1]), value)


def operator(size: tuple[int, int]) -> SparseOperator:
    return SparseOperator(*entries(size), size)


@pytest.fixture
def _memory_holds_nan() -> Iterator[None]:
    """New memory is filled with NaN, which reveals reads of uninitialized memory."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("size", SIZES)
def test_product_and_transpose(size: tuple[int, int]) -> None:
    op, matrix = operator(size), dense(size)
    x, y = torch.randn(size[1], 3, dtype=torch.double), torch.randn(size[0], 3, dtype=torch.double)

    assert torch.equal(op.to_dense(), matrix)
    assert torch.equal(op.t().to_dense(), matrix.T)
    assert op.shape == size
    assert op.t().shape == size[::-1]
    torch.testing.assert_close(op @ x, matrix @ x)
    torch.testing.assert_close(op.t() @ y, matrix.T @ y)
    torch.testing.assert_close(op.t().t() @ x, matrix @ x)


@pytest.mark.parametrize("size", SIZES)
def test_gradient_and_double_backward(size: tuple[int, int]) -> None:
    op, matrix = operator(size), dense(size)
    x = torch.randn(size[1], 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: op @ x, (x,))
    assert torch.autograd.gradgradcheck(lambda x: (op @ x).pow(3), (x,))

    expected = 2 * matrix.T @ (matrix @ x.detach())
    (gradient,) = torch.autograd.grad((op @ x).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_entries_that_require_a_gradient_are_refused() -> None:
    index, value = entries((5, 3))
    with pytest.raises(ValueError, match=r"constant.*value\.detach\(\)"):
        SparseOperator(index, value.requires_grad_(), (5, 3))


def test_rows_without_entries_are_zero() -> None:
    op = operator((5, 3))
    assert torch.equal((op @ torch.ones(3, 2, dtype=torch.double))[-1], torch.zeros(2, dtype=torch.double))


@pytest.mark.usefixtures("_memory_holds_nan")
@pytest.mark.parametrize("with_mkl", [True, False])
def test_uninitialized_memory_is_not_read(with_mkl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_mkl:
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert torch.empty(2).isnan().all()
    op, matrix = operator((5, 3)), dense((5, 3))
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    out = op @ x
    out.sum().backward()
    torch.testing.assert_close(out, matrix @ x)
    torch.testing.assert_close(x.grad, matrix.T @ torch.ones(5, 4, dtype=torch.double))
    added = op.add_product(torch.ones(5, 4, dtype=torch.double), x)
    torch.testing.assert_close(added, 1 + matrix @ x)
    empty = SparseOperator(torch.empty(2, 0, dtype=torch.long), torch.empty(0), (3, 2))
    assert torch.equal(empty @ torch.ones(2, 2), torch.zeros(3, 2))


def test_no_entries_at_all() -> None:
    op = SparseOperator(torch.empty(2, 0, dtype=torch.long), torch.empty(0), (3, 2))
    x = torch.randn(2, 4, requires_grad=True)
    out = op @ x
    out.sum().backward()
    assert torch.equal(out, torch.zeros(3, 4))
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(2, 4))


@pytest.mark.parametrize("size", SIZES)
def test_added_product_has_the_value_and_both_gradients_of_the_formula(size: tuple[int, int]) -> None:
    op, matrix = operator(size), dense(size)
    y = torch.randn(size[0], 2, dtype=torch.double, requires_grad=True)
    x = torch.randn(size[1], 2, dtype=torch.double, requires_grad=True)
    before = y.detach().clone()
    out = op.add_product(y, x)
    torch.testing.assert_close(out, y + matrix @ x)
    assert torch.equal(y, before)
    actual = torch.autograd.grad(out.pow(3).sum(), (y, x))
    torch.testing.assert_close(actual, torch.autograd.grad((y + matrix @ x).pow(3).sum(), (y, x)))
    assert torch.autograd.gradcheck(op.add_product, (y, x))
    assert torch.autograd.gradgradcheck(lambda y, x: op.add_product(y, x).pow(3), (y, x))
    torch.testing.assert_close(op.t().add_product(x, y), x + matrix.T @ y)


@pytest.mark.parametrize(("of_y", "of_x"), [(True, False), (False, True)])
def test_added_product_supports_a_gradient_of_one_side_only(of_y: bool, of_x: bool) -> None:
    op, matrix = operator((4, 4)), dense((4, 4))
    y = torch.randn(4, 2, dtype=torch.double, requires_grad=of_y)
    x = torch.randn(4, 2, dtype=torch.double, requires_grad=of_x)
    op.add_product(y, x).square().sum().backward()
    slope = 2 * (y + matrix @ x).detach()
    for leaf, expected in ((y, slope if of_y else None), (x, matrix.T @ slope if of_x else None)):
        assert (leaf.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(leaf.grad, expected)


def test_added_product_of_one_matrix_to_itself() -> None:
    op, matrix = operator((4, 4)), dense((4, 4))
    x = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    op.add_product(x, x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(4, 3, dtype=torch.double) + matrix.T @ torch.ones(4, 3).double())


def test_added_product_without_entries_is_the_added_matrix() -> None:
    op = SparseOperator(torch.empty(2, 0, dtype=torch.long), torch.empty(0), (3, 2))
    y, x = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    out = op.add_product(y, x)
    out.sum().backward()
    assert torch.equal(out, y)
    assert y.grad is not None
    assert x.grad is not None
    assert torch.equal(y.grad, torch.ones(3, 4))
    assert torch.equal(x.grad, torch.zeros(2, 4))


def test_products_are_in_the_widest_dtype() -> None:
    index, value = entries((5, 3))
    op = SparseOperator(index, value.float(), (5, 3))
    for y_dtype, x_dtype, expected in (
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float64),
    ):
        y, x = torch.randn(5, 2).to(y_dtype).requires_grad_(), torch.randn(3, 2).to(x_dtype).requires_grad_()
        product, added = op @ x, op.add_product(y, x)
        assert product.dtype == torch.promote_types(x_dtype, torch.float32)
        assert added.dtype == expected
        for leaf, gradient in zip((y, x), torch.autograd.grad(added.sum() + product.sum(), (y, x)), strict=True):
            assert gradient.dtype == leaf.dtype
        torch.testing.assert_close(product.double(), dense((5, 3)) @ x.double(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(added.double(), y.double() + dense((5, 3)) @ x.double(), rtol=1e-5, atol=1e-5)


def test_autocast_is_ignored() -> None:
    index, value = entries((5, 3))
    op = SparseOperator(index, value.float(), (5, 3))
    y, x = torch.randn(5, 2), torch.randn(3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product, added = op @ x, op.add_product(y, x)
    assert torch.equal(product, op @ x)
    assert torch.equal(added, op.add_product(y, x))


def test_to_another_dtype_converts_both_directions() -> None:
    index, value = entries((5, 3))
    single = SparseOperator(index, value.float(), (5, 3))
    double = single.to(torch.float64)
    assert single.to_dense().dtype == torch.float32
    assert double.to_dense().dtype == double.t().to_dense().dtype == torch.float64
    torch.testing.assert_close(double.to_dense(), dense((5, 3)), rtol=1e-6, atol=1e-6)


def test_deepcopy_is_independent_and_shares_what_was_shared() -> None:
    op = operator((5, 3))
    copied, transposed = copy.deepcopy((op, op.t()))
    assert torch.equal(copied.to_dense(), op.to_dense())
    assert copied._matrix is transposed._transpose
    copied._matrix.values().zero_()
    assert torch.equal(op.to_dense(), dense((5, 3)))


def test_indices_are_int32_and_the_repr_has_the_size() -> None:
    op = operator((5, 3))
    assert op._matrix.crow_indices().dtype == op._matrix.col_indices().dtype == torch.int32
    assert repr(op) == f"SparseOperator(size=(5, 3), nnz={entries((5, 3))[0].size(1)})"
