import json
from typing import Any

import click

from lirdrec_pyg.cli.options import config_options, take
from lirdrec_pyg.cli.tables import table
from lirdrec_pyg.config import DataConfig


@click.command(context_settings={"max_content_width": 100})
@click.argument("data")
@click.option("--seed", type=click.IntRange(0), default=999, show_default=True, help="Seed of a random split.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@config_options(DataConfig, skip=("data",))
def info(data: str, seed: int, as_json: bool, **values: Any) -> None:
    """Describe DATA: counts, sparsity, modalities, missing features, cold items.

    DATA is what fit takes as --data: a folder, a table of interactions, or 'synthetic'.
    """
    from lirdrec_pyg.data.summary import summarize
    from lirdrec_pyg.datasets import load_data

    facts = summarize(load_data(take(DataConfig, {"data": data, **values}), seed))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(
            table([[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in facts.items()])
        )
