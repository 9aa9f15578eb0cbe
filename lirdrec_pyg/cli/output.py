"""Plain tables for the terminal."""

import sys
import unicodedata
from collections.abc import Mapping, Sequence

import click
import polars as pl

from lirdrec_pyg.errors import escaped


def print_frame(frame: pl.DataFrame) -> None:
    """Print a frame as aligned columns."""
    columns = [
        [f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value) for value in column]
        for column in frame.iter_columns()
    ]
    click.echo(table([frame.columns, *zip(*columns, strict=True)]))


def metric_table(metrics: Mapping[str, float]) -> str:
    """Format metrics ``{"recall@20": ...}`` with one line per metric and one column per cutoff."""
    names = list(dict.fromkeys(key.split("@")[0] for key in metrics))
    cutoffs = list(dict.fromkeys(key.split("@")[1] for key in metrics))
    rows = [[name, *(f"{metrics[f'{name}@{k}']:.4f}" for k in cutoffs)] for name in names]
    return table([["", *(f"@{k}" for k in cutoffs)], *rows])


def cold_start_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Format the metrics of :func:`~lirdrec_pyg.evaluation.evaluate_cold_start`, one line each."""
    shown = ("recall@20", "ndcg@20", "recall@50", "ndcg@50")
    return table([["", *shown], *([name, *(f"{row[m]:.4f}" for m in shown)] for name, row in metrics.items())])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns, the first to the left and the others to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [
                row[0] + " " * (widths[0] - _width(row[0])),
                *(" " * (width - _width(cell)) + cell for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    )


def printable(text: str) -> str:
    """Escape what the console cannot show, and what would break a line."""
    encoding = sys.stdout.encoding or "utf-8"
    return escaped(text).encode(encoding, "backslashreplace").decode(encoding)


def _width(text: str) -> int:
    """Return the columns that ``text`` takes: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text if not unicodedata.combining(c))
