"""Compare the exact top-k of many users with the bare matrix products, and with faiss if it is installed.

    python benchmarks/recommend.py [--users N] [--items N] [--width F] [-k K]

The variants take turns in one process, since machines are noisy. Look at the ratio to the first variant.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import click
import torch
from harness import alternate, json_option, peak_gib, report
from torch import Tensor
from torch_geometric.nn.pool import MIPSKNNIndex

from lirdrec_pyg.nn import SeenItems, top_k

_PRODUCT_USERS = 512


def bare_products(user: Tensor, item: Tensor) -> None:
    """Compute all scores in blocks of reused memory: the minimum that an exact ranking has to compute."""
    scores = user.new_empty(_PRODUCT_USERS, len(item))
    for rows in user.split(_PRODUCT_USERS):
        torch.mm(rows, item.t(), out=scores[: len(rows)])


def variants(user: Tensor, item: Tensor, seen: SeenItems, k: int) -> dict[str, Callable[[], object]]:
    index = torch.arange(len(user), device=user.device)
    found: dict[str, Callable[[], object]] = {
        "bare products": lambda: bare_products(user, item),
        "top_k": lambda: [*top_k(user, item, index, k)],
        "top_k without seen items": lambda: [*top_k(user, item, index, k, seen)],
    }
    if user.device.type == "cpu" and importlib.util.find_spec("faiss"):
        mips = MIPSKNNIndex(emb=item)
        found["faiss, MIPSKNNIndex"] = lambda: mips.search(user, k)
    return found


@click.command()
@click.option("--users", default=10_000, show_default=True)
@click.option("--items", default=100_000, show_default=True)
@click.option("--width", default=192, show_default=True)
@click.option("-k", default=20, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@json_option
def main(users: int, items: int, width: int, k: int, repeats: int, json_file: Path | None) -> None:
    """Exact top-k of many users, compared with the bare matrix products and faiss."""
    torch.manual_seed(0)
    user, item = torch.randn(users, width), torch.randn(items, width)
    pairs = torch.stack([torch.randint(users, (10 * users,)), torch.randint(items, (10 * users,))])
    functions = variants(user, item, SeenItems.of(pairs, users), k)
    times = alternate(functions, repeats)
    rows = [
        {"variant": name, "seconds": taken, "ratio": taken / times["bare products"]} for name, taken in times.items()
    ]
    report("recommend", [*rows, {"variant": "all variants", "peak GiB": peak_gib()}], json_file)


if __name__ == "__main__":
    main()
