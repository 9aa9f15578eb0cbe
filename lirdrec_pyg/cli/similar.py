from pathlib import Path

import click

from lirdrec_pyg.cli.options import device_option, run_argument
from lirdrec_pyg.cli.output import print_frame
from lirdrec_pyg.recommender import Recommender, check_table_path, write_table


@click.command()
@run_argument
@click.option("--item", required=True, help="Item ID.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Number of items.")
@click.option(
    "--by",
    default="vectors",
    show_default=True,
    help="'vectors' for the learned representations, or a modality, such as image, for its raw features.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Table to write: .parquet, .csv or .jsonl.")
@device_option
def similar(run: Path, item: str, k: int, by: str, out: Path | None, device: str) -> None:
    """List the items most similar to one item, by cosine."""
    if out is not None:
        check_table_path(out)
    frame = Recommender.load(run, device).similar_items(item, k, by)
    if out is None:
        print_frame(frame)
    else:
        click.echo(f"{write_table([frame], out):,} items are in {out}")
