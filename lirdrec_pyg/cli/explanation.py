from collections.abc import Callable, Sequence

import click
import polars as pl

from lirdrec_pyg.cli.output import print_frame, printable
from lirdrec_pyg.explanation import Explanation

_SHOWN_ITEMS = 10


def print_explanation(
    explanation: Explanation,
    user: str,
    item: pl.Series,
    titles: Callable[[pl.Series], pl.Series] | None,
    shown: Sequence[str],
) -> None:
    """Print why an item has its score for a user.

    Args:
        explanation: what to print.
        user: the user's ID.
        item: the item's ID, a series of length 1.
        titles: function from IDs of items to their titles, if there is a catalog.
        shown: columns of the catalog that the tables have.
    """

    def names(ids: pl.Series) -> list[str]:
        """Return items as people call them, such as ``Radiohead (154)``."""
        known = [None] * len(ids) if titles is None else titles(ids)
        return [str(i) if title in (None, str(i)) else f"{title} ({i})" for i, title in zip(ids, known, strict=True)]

    click.echo(printable(f"score of {names(item)[0]} for {user}: {explanation.score:.4f}"))
    reasons = explanation.items.filter(pl.col("part") > 0, ~pl.col("item").is_in(item.implode()))[:2]
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


def _summary(explanation: Explanation, shown: Sequence[str]) -> pl.DataFrame:
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
