import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import click

from lirdrec_pyg.cli.options import config_options, json_option, take
from lirdrec_pyg.cli.output import printable
from lirdrec_pyg.data import DataConfig, Dataset
from lirdrec_pyg.errors import listed


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
        rows = list(_rows(facts))
        indent = max(len(name) for name, _ in rows) + 2
        for name, value in rows:
            lines = textwrap.wrap(printable(value), max(20, shutil.get_terminal_size().columns - indent))
            click.echo(printable(name).ljust(indent) + ("\n" + " " * indent).join(lines))


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each line."""
    for name, value in facts.items():
        if name == "modalities":
            yield from _rows({f"modality {modality}": entries for modality, entries in value.items()})
        elif isinstance(value, dict):
            yield name, ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
        else:
            yield name, _text(value)


def _text(value: object) -> str:
    if isinstance(value, list):
        return listed(value)
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value)
