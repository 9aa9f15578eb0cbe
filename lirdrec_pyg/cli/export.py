from pathlib import Path
from typing import get_args

import click

from lirdrec_pyg.cli.options import run_argument
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.recommender import Recommender, export_vectors
from lirdrec_pyg.recommender.export import ExportFormat, check_postgres, export_lance, export_postgres


@click.command()
@run_argument
@click.option("--out", type=click.Path(path_type=Path), help="Folder for files; it may hold others.")
@click.option("--format", type=click.Choice(get_args(ExportFormat)), help="Format of the files, by default parquet.")
@click.option("--to", metavar="postgresql://...|lance:FOLDER", help="Database to write to.")
@click.option("--schema", help="Schema of the tables in PostgreSQL, by default lirdrec.")
@click.option("--index/--no-index", default=None, help="Whether PostgreSQL indexes the items, by default yes.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
def export(
    run: Path,
    out: Path | None,
    format: ExportFormat | None,
    to: str | None,
    schema: str | None,
    index: bool | None,
    overwrite: bool,
) -> None:
    """Write the vectors of RUN for other programs: into files, or with titles and known interactions into a database.

    The score of a user and an item is the dot product of their vectors, so any vector store that ranks by inner product
    gives the same recommendations. docs/guides/export.md has the queries.

    \b
    Write files of one format:
      lirdrec-pyg export runs/shop --format npy --out exports
        parquet       users.parquet, items.parquet: columns id and vector, and of users seen
        npy           user_vectors.npy, item_vectors.npy, user_ids.npy, item_ids.npy
        safetensors   vectors.safetensors (user_vectors, item_vectors), user_ids.npy, item_ids.npy
        onnx          those of npy, and item_encoder.onnx and fold_in.onnx, which encode new items and
                      new users (extra 'onnx')
    Write the tables users, items and seen into PostgreSQL with pgvector (extra 'postgres'):
      lirdrec-pyg export runs/shop --to postgresql://shop@localhost/shop --overwrite
    Write the same tables into a folder of LanceDB (extra 'lance'):
      lirdrec-pyg export runs/shop --to lance:exports/lance

    Leave the password out of the URL, where other users of the machine could read it: PostgreSQL's environment variable
    PGPASSWORD, its password file ~/.pgpass and its service file work as in psql. In PostgreSQL, tables are replaced in
    one transaction, so readers see the earlier export or the new one.
    """
    if (out is None) == (to is None):
        raise ConfigError("Pass either --out for files or --to for a database.")
    scheme, _, folder = (to or "").partition(":")
    if format is not None and out is None:
        raise ConfigError("--format is for --out.")
    if (schema is not None or index is not None) and (to is None or scheme == "lance"):
        raise ConfigError("--schema and --index are for PostgreSQL.")
    if scheme == "lance" and not folder:
        raise ConfigError("--to lance: names no folder. Pass one, such as --to lance:exports/lance.")
    if to is not None and scheme != "lance":
        check_postgres(to)
    recommender = Recommender.load(run)
    if to is None:
        assert out is not None
        for path in export_vectors(recommender, out, format or "parquet", overwrite):
            click.echo(f"{path}  {path.stat().st_size / 2**20:,.1f} MiB")
        return
    if scheme == "lance":
        place, rows = folder, export_lance(recommender, Path(folder), overwrite)
    else:
        schema = schema or "lirdrec"
        place, rows = f"schema {schema}", export_postgres(recommender, to, schema, index is not False, overwrite)
    for name, number in rows.items():
        click.echo(f"{place}  {name}  {number:,} rows")
