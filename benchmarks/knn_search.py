"""Compare the exact and the approximate search for the neighbors of items.

    python benchmarks/knn_search.py [--items N] [--width D] [--skip-exact]

Each search runs in a separate process, so that its peak memory is measured separately.
"""

import logging
from pathlib import Path

import click
import torch
from generated import clustered_features
from harness import Row, in_own_process, json_option, peak_gib, report, seconds

from lirdrec_pyg.transforms import knn_edges


def measure(num_items: int, width: int, k: int, search: str) -> Row:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lirdrec_pyg").setLevel(logging.INFO)
    x = clustered_features(num_items, width, torch.Generator().manual_seed(0))
    taken = seconds(lambda: knn_edges(x, k, search=search))
    return {"search": search, "items": num_items, "width": width, "seconds": taken, "peak GiB": peak_gib()}


@click.command()
@click.option("--items", default=100_000, show_default=True)
@click.option("--width", default=128, show_default=True)
@click.option("-k", default=10, show_default=True, help="Neighbors per item, including itself.")
@click.option("--skip-exact", is_flag=True, help="Leave out the exact search.")
@json_option
def main(items: int, width: int, k: int, skip_exact: bool, json_file: Path | None) -> None:
    """Exact and approximate search for the neighbors of items."""
    searches = ("exact", "approximate")[skip_exact:]
    report("knn_search", [in_own_process(measure, items, width, k, search) for search in searches], json_file)


if __name__ == "__main__":
    main()
