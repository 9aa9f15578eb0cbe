from pathlib import Path

import click

from lirdrec_pyg.cli.options import choice_option, folder_option, run_argument
from lirdrec_pyg.recommender import Recommender, export_vectors
from lirdrec_pyg.recommender.export import ExportFormat


@click.command()
@run_argument
@choice_option("--format", ExportFormat, "parquet", "Format of the files.")
@folder_option("an earlier export", "Folder for the files; it may hold others.")
def export(run: Path, format: ExportFormat, out: Path, overwrite: bool) -> None:
    """Write the vectors of all users and items of RUN, with their IDs.

    The score of a user and an item is the dot product of their vectors, so any vector store that ranks by inner product
    gives the same recommendations.

    \b
    parquet       users.parquet, items.parquet: columns id and vector
    npy           user_vectors.npy, item_vectors.npy, user_ids.npy, item_ids.npy
    safetensors   vectors.safetensors (user_vectors, item_vectors), user_ids.npy, item_ids.npy
    """
    for path in export_vectors(Recommender.load(run), out, format, overwrite):
        click.echo(f"{path}  {path.stat().st_size / 2**20:,.1f} MiB")
