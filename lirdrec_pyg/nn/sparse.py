import warnings
from typing import Any

import torch
from torch import Tensor
from torch_geometric.utils import cumsum

# torch warns in every program that creates a CSR tensor; the products used here are covered by tests.
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled")


class SparseOperator:
    r"""A constant sparse matrix :math:`\mathbf{A}`, stored together with its transpose, both in CSR format.

    A product with autograd needs :math:`\mathbf{A}` in the forward and :math:`\mathbf{A}^\top` in the backward pass.
    Given one CSR matrix, torch converts it in every backward pass, which takes longer than the product. Indices are
    int32 if they fit, which halves the memory traffic for indices.

    Args:
        index: row and column of each entry, without duplicates, int64, shape ``(2, num_entries)``.
        value: the entries, shape ``(num_entries,)``.
        size: number of rows and of columns.

    Raises:
        ValueError: if ``value`` requires a gradient.
    """

    def __init__(self, index: Tensor, value: Tensor, size: tuple[int, int]) -> None:
        if value.requires_grad:
            raise ValueError(
                "The entries of a SparseOperator are constant, but `value` requires a gradient. Pass `value.detach()`, "
                "or pass `edge_index` and `edge_weight` to the layer to learn the weights."
            )
        row, column = index
        self._matrix = _csr(row, column, value, size)
        self._transpose = _csr(column, row, value, (size[1], size[0]))

    @classmethod
    def _of(cls, matrix: Tensor, transpose: Tensor) -> "SparseOperator":
        operator = cls.__new__(cls)
        operator._matrix, operator._transpose = matrix, transpose
        return operator

    @property
    def shape(self) -> torch.Size:
        return self._matrix.shape

    def t(self) -> "SparseOperator":
        """Return the transposed operator, which shares memory with this one."""
        return self._of(self._transpose, self._matrix)

    def to(self, *args: Any, **kwargs: Any) -> "SparseOperator":
        """Convert dtype or device, see :meth:`torch.Tensor.to`."""
        return self._of(self._matrix.to(*args, **kwargs), self._transpose.to(*args, **kwargs))

    def to_dense(self) -> Tensor:
        """Return the dense matrix."""
        return self._matrix.to_dense()

    def __matmul__(self, x: Tensor) -> Tensor:
        """Multiply with a dense matrix of shape ``(columns, F)``, differentiable with respect to ``x``.

        The output has the wider of the two dtypes. Autocast is ignored, since torch has no such product in half
        precision on all devices. Half precision is computed in float32 on the CPU.
        """
        dtype = torch.promote_types(x.dtype, self._matrix.dtype)
        x = x.to(dtype)
        computed = torch.float32 if is_half_on_cpu(x) else dtype
        return _Product.apply(x.to(computed), self._matrix.to(computed), self._transpose.to(computed)).to(dtype)

    def add_product(self, y: Tensor, x: Tensor) -> Tensor:
        r"""Compute :math:`\mathbf{Y} + \mathbf{A} \mathbf{X}` in one pass over memory, differentiable in both.

        ``y`` has shape ``(rows, F)``. The output has the widest of the three dtypes.
        """
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), self._matrix.dtype)
        y, x = y.to(dtype), x.to(dtype)
        computed = torch.float32 if is_half_on_cpu(x) else dtype
        matrix, transpose = self._matrix.to(computed), self._transpose.to(computed)
        return _AddedProduct.apply(y.to(computed), x.to(computed), matrix, transpose).to(dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SparseOperator":
        # Copies of an operator and of its transpose share memory, as the originals do.
        return self._of(*(memo.setdefault(id(m), m.clone()) for m in (self._matrix, self._transpose)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={tuple(self.shape)}, nnz={self._matrix._nnz()})"


def is_half_on_cpu(x: Tensor) -> bool:
    """Return whether ``x`` is in half precision on the CPU, for which torch has no sparse products."""
    return x.dtype in (torch.float16, torch.bfloat16) and x.device.type == "cpu"


def _csr(row: Tensor, column: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    order = (row * size[1] + column).argsort()
    start = cumsum(torch.bincount(row, minlength=size[0]))
    dtype = torch.int32 if max(len(row), *size) < 2**31 else torch.int64
    return torch.sparse_csr_tensor(start.to(dtype), column[order].to(dtype), value[order], size, check_invariants=False)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.operators = transpose, matrix
        with torch.autocast(x.device.type, enabled=False):
            if not x.is_cuda and not torch.backends.mkl.is_available():
                # Without MKL, torch multiplies uninitialized memory by beta, and it may contain NaN.
                return matrix @ x
            # matrix @ x would fill a buffer with zeros and copy the result to another buffer.
            return x.new_empty(matrix.size(0), x.size(1)).addmm_(matrix, x, beta=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(grads[0], *ctx.operators), None, None


class _AddedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.operators = transpose, matrix
        with torch.autocast(x.device.type, enabled=False):
            return torch.addmm(y, matrix, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return grads[0], _Product.apply(grads[0], *ctx.operators), None, None


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Select rows of ``table`` with a sparse gradient, as needed by :class:`torch.optim.SparseAdam`.

    Shapes:
        - **input:** a table :math:`(N, *)`; distinct row indices in ascending order, int64, :math:`(n)`
        - **output:** :math:`(n, *)`
    """
    return _Rows.apply(table, index)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.size = index, table.shape
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        index = ctx.index.unsqueeze(0)
        return torch.sparse_coo_tensor(index, grads[0], ctx.size, is_coalesced=True, check_invariants=False), None
