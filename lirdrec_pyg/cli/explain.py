import json
import re
from pathlib import Path

import click
import polars as pl

from lirdrec_pyg.cli.catalog import catalog_options, load_with_catalog
from lirdrec_pyg.cli.explanation import print_explanation
from lirdrec_pyg.cli.options import device_option, json_option, run_argument


@click.command()
@run_argument
@click.option("--user", required=True, help="User ID.")
@click.option("--item", required=True, help="Item ID.")
@click.option("--nearest", default=3, show_default=True, type=click.IntRange(0), help="Past items per modality.")
@json_option
@catalog_options
@device_option
def explain(
    run: Path,
    user: str,
    item: str,
    nearest: int,
    as_json: bool,
    items: Path | None,
    id_col: str | None,
    title: str | None,
    columns: str | None,
    device: str,
) -> None:
    """Explain the score of an item for a user.

    The score splits exactly into one part for each training item of the user and one for what was learned about the
    user beyond these items. A share is a part, divided by the sum of the absolute values of all parts.

    Of a model with branches, the score also splits into one part per modality and one for the shared branch; 'weight'
    is the weight of the branch in the user's fusion. The linear branch, if there is one, has none. Below are the user's
    other training items that are most similar to the item, by the raw features of each modality. Titles are shown if
    the run has an item catalog.

    \b
    Explain a recommendation:
      lirdrec-pyg explain runs/shop --user u1 --item item7
    Explain it to a program, with all items of the user:
      lirdrec-pyg explain runs/shop --user u1 --item item7 --json
    """
    recommender, shown = load_with_catalog(run, device, items, id_col, title, columns)
    explanation = recommender.explain(user, item, nearest, shown)
    if as_json:
        whole = {
            name: value.to_dicts() if isinstance(value, pl.DataFrame) else value
            for name, value in explanation._asdict().items()
        }
        click.echo(json.dumps(whole, indent=2, default=str))
        return
    catalog = recommender.dataset.catalog
    titles = None if catalog is None else catalog.titles
    print_explanation(
        explanation, user, recommender.items.ids.gather(recommender.item_positions([item]).numpy()), titles, shown
    )


def reasons_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a table of :meth:`Recommender.because` with one column per reason, such as ``5.0% Kosheen``."""
    reasons = []
    for name in (n for n in frame.columns if re.fullmatch(r"because_\d+", n)):
        title = [f"{name}_title"] if f"{name}_title" in frame.columns else []
        named = pl.coalesce(*title, pl.col(name).cast(pl.String))
        reasons.append(pl.format("{}% {}", (100 * pl.col(f"{name}_share")).round(1), named).alias(name))
    return frame.with_columns(reasons).select(pl.exclude(r"^because_\d+_(title|share)$"))
