import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lirdrec_pyg.cli.run_options import device_option, run_argument
from lirdrec_pyg.cli.tables import cold_start_table, metric_table, table

if TYPE_CHECKING:
    from lirdrec_pyg.evaluation import Bucket


@click.command()
@run_argument
@click.option(
    "--split",
    type=click.Choice(["valid", "test", "both"]),
    default="test",
    show_default=True,
    help="What to evaluate on.",
)
@click.option("--buckets", is_flag=True, help="Also by the activity of users and by the popularity of items.")
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def evaluate(run: Path, split: str, buckets: bool, device: str, as_json: bool) -> None:
    """Compute the figures of RUN again, from its weights and its graph.

    Nothing but the run folder is needed. The figures are those of the model in model.safetensors,
    the best epoch by validation. If --split cold-items of fit held out whole items, they are ranked
    too: apart, and among all items.
    """
    from lirdrec_pyg.data import REPORTED_SPLITS, new_item_edges
    from lirdrec_pyg.training import RunEvaluator

    evaluator = RunEvaluator(run, device)
    saved = evaluator.run.metrics() or {}
    found: dict[str, Any] = {}
    for name in REPORTED_SPLITS if split == "both" else [split]:
        part = REPORTED_SPLITS[name]
        found[name] = evaluator.metrics(part)
        _show(f"{name}, all items ranked:\n{metric_table(found[name])}", as_json)
        _show(_agreement(found[name], saved.get(name)), as_json)
        if new_item_edges(evaluator.data, part) is not None:
            cold = found.setdefault("cold_start", {})[name] = evaluator.cold_start(part)
            _show(f"{name}, items held out:\n{cold_start_table(cold)}\n", as_json)
        if buckets:
            rows = evaluator.buckets(part)
            found.setdefault("buckets", {})[name] = [row._asdict() for row in rows]
            _show(f"{name}, by training interactions:\n{_bucket_table(rows)}\n", as_json)
    if as_json:
        click.echo(json.dumps(found, indent=2))


def _show(text: str, as_json: bool) -> None:
    if not as_json:
        click.echo(text)


def _agreement(metrics: Mapping[str, float], recorded: object) -> str:
    if not isinstance(recorded, dict) or recorded.keys() != metrics.keys():
        return "the run was cut off before it wrote these figures to metrics.json\n"
    gap = max(abs(value - recorded[key]) for key, value in metrics.items())
    return "as in metrics.json, to the last digit\n" if gap == 0 else f"differs from metrics.json by up to {gap:.2e}\n"


def _bucket_table(buckets: "Sequence[Bucket]") -> str:
    shown = ("recall@20", "ndcg@20")
    rows = [["", "", "users", "pairs", *shown]]
    for b in buckets:
        rows.append(
            [b.kind, b.interactions, str(b.num_users), str(b.num_pairs), *(f"{b.metrics[m]:.4f}" for m in shown)]
        )
    return table(rows)
