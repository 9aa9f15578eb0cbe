import json
import re
from functools import partial
from pathlib import Path

import click
import polars as pl

from lirdrec_pyg.cli.catalog import catalog_options, load_with_catalog
from lirdrec_pyg.cli.options import device_option, json_option, run_argument
from lirdrec_pyg.cli.output import print_frame, printable
from lirdrec_pyg.recommender import Explanation, Recommender

_SHOWN_ITEMS = 10


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
    recommender, shown = load_with_catalog(run, device, items, title, columns)
    explanation = recommender.explain(user, item, nearest, shown)
    if as_json:
        whole = {
            name: value.to_dicts() if isinstance(value, pl.DataFrame) else value
            for name, value in explanation._asdict().items()
        }
        click.echo(json.dumps(whole, indent=2, default=str))
        return
    names = partial(_names, recommender)
    ids = recommender.items.ids.gather(recommender.item_positions([item]).numpy())
    click.echo(printable(f"score of {names(ids)[0]} for {user}: {explanation.score:.4f}"))
    reasons = explanation.items.filter(pl.col("part") > 0, ~pl.col("item").is_in(ids.implode()))[:2]
    because = [f"{name}, {share:.1%}" for name, share in zip(names(reasons["item"]), reasons["share"], strict=True)]
    if because:
        click.echo(printable(f"because of {', and '.join(because)}"))
    click.echo()
    print_frame(_summary(explanation, shown))
    if len(explanation.branches):
        click.echo()
        print_frame(explanation.branches)
    if len(explanation.nearest):
        click.echo("\nmost similar items of the user:")
        print_frame(explanation.nearest.select("modality", "item", *shown, "cosine"))


def reasons_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a table of :meth:`Recommender.because` with one column per reason, such as ``5.0% Kosheen``."""
    reasons = []
    for name in (n for n in frame.columns if re.fullmatch(r"because_\d+", n)):
        title = [f"{name}_title"] if f"{name}_title" in frame.columns else []
        named = pl.coalesce(*title, pl.col(name).cast(pl.String))
        reasons.append(pl.format("{}% {}", (100 * pl.col(f"{name}_share")).round(1), named).alias(name))
    return frame.with_columns(reasons).select(pl.exclude(r"^because_\d+_(title|share)$"))


def _names(recommender: Recommender, ids: pl.Series) -> list[str]:
    """Return items as people call them, such as ``Radiohead (154)``."""
    catalog = recommender.dataset.catalog
    titles = [None] * len(ids) if catalog is None else catalog.titles(ids)
    return [str(i) if title in (None, str(i)) else f"{title} ({i})" for i, title in zip(ids, titles, strict=True)]


def _summary(explanation: Explanation, shown: list[str]) -> pl.DataFrame:
    """Return the parts of a score, with those of the weaker items summed up."""
    items = explanation.items
    others = items[_SHOWN_ITEMS:]
    rows = [
        (f"{len(others)} other{'s' * (len(others) > 1)}", others["part"].sum(), others["share"].sum()),
        ("beyond the items", explanation.user_part, explanation.user_share),
    ]
    summed = pl.DataFrame(rows[0 if len(others) else 1 :], ["item", "part", "share"], orient="row")
    named = items[:_SHOWN_ITEMS].with_columns(pl.col("item").cast(pl.String)).select("item", *shown, "part", "share")
    share = pl.format("{}%", (100 * pl.col("share")).round(1)).alias("share")
    return pl.concat([named, summed], how="diagonal").with_columns(share)
