"""Titles and other columns of the item catalog in the tables that commands print or write."""

from pathlib import Path

import click

from lirdrec_pyg.cli.options import Command, id_file, split_ids
from lirdrec_pyg.data.tables import read_table
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.columns import catalog_for, title_column

id_col_option = click.option("--id-col", help="Column of --items with the item IDs; by default as in the training.")
title_option = click.option(
    "--title",
    help="Column of the item catalog to show as title; by default the title column of the run, or one with a usual "
    "name.",
)


def catalog_options(command: Command) -> Command:
    """Add ``--items``, ``--id-col``, ``--title`` and ``--columns``, the arguments of :func:`load_with_catalog`."""
    for option in (
        click.option("--columns", help="Comma-separated columns of the item catalog to add."),
        title_option,
        id_col_option,
        click.option(
            "--items",
            type=id_file,
            help="Item catalog, such as today's stock: CSV, TSV, .jsonl or .parquet. By default that of the run.",
        ),
    ):
        command = option(command)
    return command


def check_catalog_options(items: Path | None, id_col: str | None) -> None:
    """Raise :class:`ConfigError` if ``--id-col`` is given without ``--items``."""
    if items is None and id_col is not None:
        raise ConfigError("--id-col is for --items.")


def load_with_catalog(
    run: Path, device: str, items: Path | None, id_col: str | None, title: str | None, columns: str | None
) -> tuple[Recommender, list[str]]:
    """Read a run, perhaps with another item catalog, and return the columns to show: the title and ``columns``."""
    check_catalog_options(items, id_col)
    table = None if items is None else read_table(items)
    shown = [] if columns is None else split_ids("--columns", columns)
    # Of several processes, the first one reads every file to its end.
    recommender = Recommender.load(run, device, verify=is_first_process())
    if table is not None:
        recommender = recommender.with_catalog(table, title=title, id_col=id_col)
    elif title is not None:
        recommender = recommender.with_catalog(catalog_for(recommender, "title").frame, title=title, id_col="id")
    return recommender, [*title_column(recommender), *shown]
