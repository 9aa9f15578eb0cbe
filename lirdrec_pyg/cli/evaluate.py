import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lirdrec_pyg.cli.tables import metric_table

if TYPE_CHECKING:
    from lirdrec_pyg.data.graph import Split

SPLITS: "dict[str, Split]" = {"valid": "val", "test": "test"}


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split", type=click.Choice([*SPLITS, "both"]), default="test", show_default=True, help="What to evaluate on."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def evaluate(run: Path, split: str, device: str, as_json: bool) -> None:
    """Compute the figures of RUN again, from its weights and its graph.

    Nothing but the run folder is needed. The figures are those of the model in model.safetensors,
    the best epoch by validation.
    """
    from lirdrec_pyg.training import Run, evaluate_run

    opened = Run.open(run)
    names = list(SPLITS) if split == "both" else [split]
    found = evaluate_run(opened, {name: SPLITS[name] for name in names}, device)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    saved = opened.metrics()
    for name, metrics in found.items():
        click.echo(f"{name}, all items ranked:\n{metric_table(metrics)}")
        recorded = saved and saved.get(name)
        if not isinstance(recorded, dict) or recorded.keys() != metrics.keys():
            click.echo("the run was cut off before it wrote these figures to metrics.json\n")
            continue
        gap = max(abs(value - recorded[key]) for key, value in metrics.items())
        click.echo(
            "as in metrics.json, to the last digit\n" if gap == 0 else f"differs from metrics.json by up to {gap:.2e}\n"
        )
