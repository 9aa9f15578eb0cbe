from pathlib import Path

import click
import polars as pl

from lirdrec_pyg.cli.catalog import catalog_options, load_with_catalog
from lirdrec_pyg.cli.options import device_option, run_argument
from lirdrec_pyg.cli.output import counted, print_frame
from lirdrec_pyg.cli.progress import with_progress
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.recommender import check_table_path, write_table


@click.command()
@run_argument
@click.option("--item", help="Item ID.")
@click.option("--all", "everything", is_flag=True, help="List the items similar to each item; needs --out.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Number of items.")
@click.option(
    "--by",
    default="vectors",
    show_default=True,
    help="'vectors' for the learned representations, or a modality, such as image, for its raw features.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Table to write: .parquet, .csv or .jsonl.")
@catalog_options
@device_option
def similar(
    run: Path,
    item: str | None,
    everything: bool,
    k: int,
    by: str,
    out: Path | None,
    items: Path | None,
    id_col: str | None,
    title: str | None,
    columns: str | None,
    device: str,
) -> None:
    """List the items most similar to one item, or to each item, by cosine.

    Titles are shown if the run has an item catalog.

    \b
    Print the items most similar to one item:
      lirdrec-pyg similar runs/shop --item item7
    Write the 20 items most similar to each item by their images, with the columns item, similar_item, rank, cosine:
      lirdrec-pyg similar runs/shop --all -k 20 --by image --out similar.parquet
    """
    if (item is None) != everything:
        raise ConfigError("Pass exactly one of --item and --all.")
    if everything and out is None:
        raise ConfigError("--all needs a file, such as --out similar.parquet.")
    if out is not None:
        check_table_path(out)
    recommender, shown = load_with_catalog(run, device, items, id_col, title, columns)
    if item is None:
        pairs = recommender.similar_items_blocks(k, by, shown)
        frames = with_progress(pairs, "comparing", "item", len(recommender.items))
    else:
        frames = iter([recommender.similar_items(item, k, by, shown)])
    if out is None:
        print_frame(pl.concat(frames))
    else:
        nouns = ("pair of items is", "pairs of items are") if everything else ("item is", "items are")
        click.echo(f"{counted(write_table(frames, out), *nouns)} in {out}")
