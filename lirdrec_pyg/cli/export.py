from pathlib import Path
from typing import get_args

import click

from lirdrec_pyg.cli.run_options import run_argument
from lirdrec_pyg.config import ExportFormat


@click.command()
@run_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(ExportFormat)),
    default="parquet",
    show_default=True,
    help="Of the files.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the files; it may exist.")
def export(run: Path, form: ExportFormat, out: Path) -> None:
    """Write the vectors of all users and items of RUN, with their IDs.

    The score of a user and an item is the dot product of their vectors, so any store of vectors that
    ranks by inner product gives the same recommendations.

    \b
    parquet       users.parquet, items.parquet: columns id and vector
    npy           user_vectors.npy, item_vectors.npy, user_ids.npy, item_ids.npy
    safetensors   vectors.safetensors (user_vectors, item_vectors), user_ids.npy, item_ids.npy
    """
    from lirdrec_pyg.serving import Recommender, export_vectors

    for path in export_vectors(Recommender.load(run), out, form):
        click.echo(f"{path}  {path.stat().st_size / 2**20:,.1f} MiB")
