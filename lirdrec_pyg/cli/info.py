import json
from typing import Any

import click

from lirdrec_pyg.cli.options import config_options, json_option, take
from lirdrec_pyg.cli.output import table
from lirdrec_pyg.data import DataConfig, Dataset


@click.command(context_settings={"max_content_width": 100})
@click.argument("data")
@click.option("--seed", type=click.IntRange(0), default=999, show_default=True, help="Seed of a random split.")
@json_option
@config_options(DataConfig, skip=("data",))
def info(data: str, seed: int, as_json: bool, **values: Any) -> None:
    """Describe DATA: counts, sparsity, modalities, missing features, cold items.

    DATA is what fit takes as --data: a folder, a table of interactions, or 'synthetic'.
    """
    facts = Dataset.from_path(take(DataConfig, {"data": data, **values}), seed=seed).summary()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(
            table([[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in facts.items()])
        )
