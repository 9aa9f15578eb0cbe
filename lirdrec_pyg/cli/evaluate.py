import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from lirdrec_pyg.cli.options import device_option, json_option, run_argument
from lirdrec_pyg.cli.output import cold_start_table, metric_table, table
from lirdrec_pyg.data import HELD_OUT, new_item_edges
from lirdrec_pyg.evaluation import Bucket
from lirdrec_pyg.recommender import Evaluator, Recommender


@click.command()
@run_argument
@click.option(
    "--split",
    type=click.Choice([*(split.value for split in HELD_OUT), "both"]),
    default="test",
    show_default=True,
    help="Split to evaluate on.",
)
@click.option("--buckets", is_flag=True, help="Also evaluate by activity of users and by popularity of items.")
@click.option(
    "--category",
    metavar="COLUMN",
    help="Column of the item catalog for the diversity of the lists. By default, 32 clusters of the item features.",
)
@device_option
@json_option
def evaluate(run: Path, split: str, buckets: bool, category: str | None, device: str, as_json: bool) -> None:
    """Compute the metrics of RUN again, from its weights and its graph.

    Only the run folder is needed. The model is that of the best epoch by validation. If fit --split cold-items held out
    whole items, they are ranked too: alone, and among all items.

    The second table is about the lists themselves:

    \b
      average_popularity   mean number of training interactions of the items
      novelty              mean of -log2(their share of the users), in bits
      diversity            share of the pairs of items in a list that differ in their category
      personalization      share of a list that another user does not get, over all pairs of users
      gini                 0 if all items are recommended equally often, 1 if only one is

    \b
    Evaluate on validation and test data, by activity of users and popularity of items:
      lirdrec-pyg evaluate runs/shop --split both --buckets
    Measure diversity by a column of the item catalog:
      lirdrec-pyg evaluate runs/shop --category product_type
    """
    recommender = Recommender.load(run)
    evaluator = Evaluator(recommender, device, category)
    saved = recommender.metrics or {}
    found: dict[str, Any] = {}
    show: Callable[[str], object] = (lambda text: None) if as_json else click.echo
    for name in [each.value for each in HELD_OUT] if split == "both" else [split]:
        metrics = evaluator.all_metrics(name)
        found[name] = metrics[name]
        lists = found.setdefault("beyond_accuracy", {})[name] = metrics["beyond_accuracy"][name]
        show(f"{name}, all items ranked:\n{metric_table(found[name])}")
        show(f"{_agreement(found[name], saved.get(name))}\n")
        show(f"{name}, the recommendations themselves:\n{metric_table(lists)}\n")
        if new_item_edges(evaluator.data, name) is not None:
            cold = found.setdefault("cold_start", {})[name] = evaluator.cold_start(name)
            show(f"{name}, held-out items:\n{cold_start_table(cold)}\n")
        if buckets:
            rows = evaluator.buckets(name)
            found.setdefault("buckets", {})[name] = [row._asdict() for row in rows]
            show(f"{name}, by training interactions:\n{_bucket_table(rows)}\n")
    if as_json:
        click.echo(json.dumps(found, indent=2))


def _agreement(metrics: Mapping[str, float], recorded: object) -> str:
    if not isinstance(recorded, dict) or recorded.keys() != metrics.keys():
        return "the run was interrupted before it wrote these metrics to metrics.json"
    gap = max(abs(value - recorded[key]) for key, value in metrics.items())
    if gap == 0:
        return "same as in metrics.json, to the last digit"
    return f"differs from metrics.json by up to {gap:.2e}"


def _bucket_table(buckets: Sequence[Bucket]) -> str:
    shown = ("recall@20", "ndcg@20")
    rows = (
        [b.kind, b.interactions, str(b.num_users), str(b.num_pairs), *(f"{b.metrics[m]:.4f}" for m in shown)]
        for b in buckets
    )
    return table([["", "", "users", "pairs", *shown], *rows])
