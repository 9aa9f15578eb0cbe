"""Plain tables for the terminal."""

import sys
import unicodedata
from collections.abc import Mapping, Sequence

import click
import polars as pl

from lirdrec_pyg.errors import escaped

# A table of recommendations with titles should fit into a terminal.
_WIDEST = 48


def print_frame(frame: pl.DataFrame) -> None:
    """Print a frame as aligned columns; long texts are cut, except for IDs of users and items."""
    click.echo(table([*zip(*map(_cells, frame.iter_columns()), strict=True)]))


def _cells(column: pl.Series) -> list[str]:
    """Return name and values of a column; those of texts have one width, so that they are aligned to the left."""
    if column.dtype != pl.String:
        values = (f"{v:.4f}" if isinstance(v, float) else "" if v is None else str(v) for v in column)
        return [column.name, *values]
    texts = [printable(" ".join(text.split())) for text in (column.name, *column.fill_null(""))]
    if column.name not in ("user", "item", "similar_item"):
        texts = [text if _width(text) <= _WIDEST else f"{_cut(text)}..." for text in texts]
    return _aligned(texts, to_left=True)


def _cut(text: str) -> str:
    while _width(text) > _WIDEST - 3:
        text = text[: _WIDEST - 3] if len(text) > _WIDEST else text[:-1]
    return text


def metric_table(metrics: Mapping[str, float]) -> str:
    """Format metrics ``{"recall@20": ...}`` with one line per metric and one column per cutoff."""
    names = list(dict.fromkeys(key.split("@")[0] for key in metrics))
    cutoffs = list(dict.fromkeys(key.split("@")[1] for key in metrics))
    cells = {key: f"{value:.4f}" for key, value in metrics.items()}
    rows = [[name, *(cells.get(f"{name}@{k}", "") for k in cutoffs)] for name in names]
    return table([["", *(f"@{k}" for k in cutoffs)], *rows])


def cold_start_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Format :func:`~lirdrec_pyg.evaluation.evaluate_cold_start`: a line per ranking, and a sentence on new items."""
    shown = ("recall@20", "ndcg@20", "recall@50", "ndcg@50")
    rows = table([["", *shown], *([name, *(f"{row[m]:.4f}" for m in shown)] for name, row in metrics.items())])
    among_all = metrics["cold among all"]
    return (
        f"{rows}\nNew items are {among_all['offered@20']:.1%} of the 20 best items of each user, and "
        f"{among_all['interacted']:.1%} of all interactions."
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns, the first to the left and the others to the right."""
    columns = ([printable(cell) for cell in column] for column in zip(*rows, strict=True))
    aligned = [_aligned(column, to_left=n == 0) for n, column in enumerate(columns)]
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def _aligned(cells: Sequence[str], to_left: bool) -> list[str]:
    width = max(map(_width, cells))
    spaces = (" " * (width - _width(cell)) for cell in cells)
    return [cell + space if to_left else space + cell for cell, space in zip(cells, spaces, strict=True)]


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, such as ``1 item`` and ``2 items``."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def printable(text: str) -> str:
    """Escape what the console cannot show, and what would break a line."""
    encoding = sys.stdout.encoding or "utf-8"
    return escaped(text).encode(encoding, "backslashreplace").decode(encoding)


def _width(text: str) -> int:
    """Return the columns that ``text`` takes: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text if not unicodedata.combining(c))
