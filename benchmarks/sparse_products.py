"""Compare ways to multiply a bipartite adjacency with dense vectors, forward and backward.

    python benchmarks/sparse_products.py [--users N] [--items N] [--edges N] [--width F]

The variants take turns in one process, since machines are noisy. Look at the ratio to the first variant.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch
from harness import alternate, json_option, report
from torch import Tensor
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor, torch_sparse

from lirdrec_pyg.nn import SparseOperator


def variants(index: Tensor, value: Tensor, size: tuple[int, int]) -> dict[str, Callable[[Tensor], Tensor]]:
    operator = SparseOperator(index, value, size)
    csr = torch.sparse_coo_tensor(index, value, size, check_invariants=False).to_sparse_csr()
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "SparseOperator": lambda x: operator @ x,
        "torch CSR": lambda x: csr @ x,
        "gather and scatter": lambda x: x.new_zeros(size[0], x.size(1)).index_add(
            0, index[0], value.unsqueeze(1) * x[index[1]]
        ),
    }
    if WITH_TORCH_SPARSE:
        adj = SparseTensor(row=index[0], col=index[1], value=value, sparse_sizes=size).fill_cache_()
        found["torch-sparse"] = lambda x: torch_sparse.matmul(adj, x, reduce="sum")
    return found


@click.command()
@click.option("--users", default=9_308, show_default=True)
@click.option("--items", default=6_710, show_default=True)
@click.option("--edges", default=59_541, show_default=True)
@click.option("--width", default=192, show_default=True)
@click.option("--repeats", default=30, show_default=True)
@json_option
def main(users: int, items: int, edges: int, width: int, repeats: int, json_file: Path | None) -> None:
    """Ways to multiply an adjacency with dense vectors, forward and backward."""
    torch.manual_seed(0)
    key = torch.randint(users * items, (edges,)).unique()
    index = torch.stack([key // items, key % items])
    x = torch.randn(items, width, requires_grad=True)
    gradient = torch.randn(users, width)
    functions = variants(index, torch.rand(len(key)), (users, items))
    passes = {name: partial(forward_and_backward, multiply, x, gradient) for name, multiply in functions.items()}
    times = alternate(passes, repeats, before=lambda: setattr(x, "grad", None))
    rows = [
        {"variant": name, "ms": 1e3 * taken, "ratio": taken / times["SparseOperator"]} for name, taken in times.items()
    ]
    report("sparse_products", rows, json_file)


def forward_and_backward(multiply: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> None:
    multiply(x).backward(gradient)


if __name__ == "__main__":
    main()
