"""Plain tables for the terminal."""

from collections.abc import Mapping, Sequence


def metric_table(metrics: Mapping[str, float]) -> str:
    """Metrics ``{"recall@20": ...}`` as a table of one line a metric and one column a cutoff."""
    names = list(dict.fromkeys(key.split("@")[0] for key in metrics))
    cutoffs = list(dict.fromkeys(key.split("@")[1] for key in metrics))
    rows = [[name, *(f"{metrics[f'{name}@{k}']:.4f}" for k in cutoffs)] for name in names]
    return table([["", *(f"@{k}" for k in cutoffs)], *rows])


def cold_start_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Figures of :func:`~lirdrec_pyg.evaluation.evaluate_cold_start`, a line each."""
    shown = ("recall@20", "ndcg@20", "recall@50", "ndcg@50")
    return table([["", *shown], *([name, *(f"{metrics[m]:.4f}" for m in shown)] for name, metrics in figures.items())])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows with aligned columns, the first to the left and the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )
