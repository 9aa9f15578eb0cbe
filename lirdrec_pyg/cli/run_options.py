"""What the commands on a trained run share."""

from pathlib import Path
from typing import get_args

import click
import polars as pl

from lirdrec_pyg.cli.tables import table
from lirdrec_pyg.config import Device
from lirdrec_pyg.errors import ConfigError

run_argument = click.argument("run", type=click.Path(path_type=Path))

device_option = click.option(
    "--device", type=click.Choice(get_args(Device)), default="auto", show_default=True, help="Where to compute."
)


def split_ids(option: str, text: str) -> pl.Series:
    """IDs with commas between them, as texts."""
    ids = [part.strip() for part in text.split(",")]
    if "" in ids:
        raise ConfigError(
            f"{option} is {text!r}: give IDs with commas between them, such as {option} a1,b2. IDs that hold commas "
            f"can be given by {option}-file."
        )
    return pl.Series("id", ids)


def print_frame(frame: pl.DataFrame) -> None:
    """Prints a frame as aligned columns."""
    columns = [
        [f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value) for value in column]
        for column in frame.iter_columns()
    ]
    click.echo(table([frame.columns, *zip(*columns, strict=True)]))
