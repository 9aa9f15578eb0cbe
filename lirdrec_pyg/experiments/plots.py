"""Plots of the experiments; they need matplotlib, the extra 'plot'."""

from typing import TYPE_CHECKING

import polars as pl

from lirdrec_pyg.experiments.fusion_weights import FusionWeights
from lirdrec_pyg.experiments.gradient_bias import ID_BRANCH, OTHERS, OWN, best_by_epoch
from lirdrec_pyg.training import MONITOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _label(branch: str) -> str:
    return branch if len(branch) <= 24 else f"{branch[:12]}…{branch[-11:]}"


def _marker(epochs: int) -> str | None:
    return "." if epochs < 20 else None  # a line through few points is hard to see


def _number_epochs(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _use_log_scale(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 20 * low:  # powers of ten alone would be too few ticks
        ticks = LogLocator(subs=(1, 1.5, 2, 3, 4, 6)) if high > 2 * low else MaxNLocator(5)
        axes.yaxis.set(major_locator=ticks, major_formatter="{x:g}", minor_locator=NullLocator())


def draw_gradient_bias(table: pl.DataFrame) -> "Figure":
    """Plot a table of :func:`~lirdrec_pyg.experiments.measure_gradient_bias`."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    panels = {
        "parameter_gradient": "RMS gradient of encoder\nor free vectors",
        "item_gradient": "mean gradient norm\nof an item vector",
        f"valid_{MONITOR}": "validation Recall@20\nof the branch alone",
    }
    own = table.filter(pl.col("features") == OWN)
    branches = own["branch"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(12, max(3.6, 0.22 * (len(branches) + 4))), layout="constrained")
    colors = colormaps["tab10" if len(branches) <= 11 else "tab20"]
    style = {"marker": _marker(own["epoch"].n_unique())}
    for axes, (column, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for number, branch in enumerate(branches):
            rows = own.filter(pl.col("branch") == branch)
            line = {"color": "black", "linestyle": "--"} if branch == ID_BRANCH else {"color": colors(number)}
            axes.plot(rows["epoch"], rows[column], label=_label(branch), **line, **style)
        if column == f"valid_{MONITOR}":
            best = best_by_epoch(table.filter(pl.col("features") == OTHERS, pl.col("branch") != ID_BRANCH))
            axes.plot(best["epoch"], best[column], label="shuffled features, best", color="grey", ls=":", **style)
        else:
            _use_log_scale(axes)
        _number_epochs(axes)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), title="branch", loc="outside right upper")
    return figure


def draw_fusion(weights: FusionWeights) -> "Figure":
    """Plot the schedule of a fusion and the quantiles of its weights."""
    from matplotlib.figure import Figure

    schedule, summary = weights.schedule, weights.summary()
    figure = Figure(figsize=(9, max(3.6, 0.25 * (len(summary) + 4))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("network", "memory"):
        left.plot(schedule["epoch"], schedule[f"{name}_weight"], label=name, marker=_marker(len(schedule)))
    if weights.best_epoch:
        left.axvline(weights.best_epoch, color="grey", linestyle=":", label="best epoch")
    left.set(title="weight in the fusion", ylim=(-0.03, 1.03))
    _number_epochs(left)
    rows = range(len(summary))
    right.hlines(rows, summary["q05"], summary["q95"], color="grey")
    right.hlines(rows, summary["q25"], summary["q75"], color="grey", linewidth=6)
    right.plot(summary["q50"], rows, "k|", markersize=14)
    right.set(title="weights of the branches", xlabel="weight\n(5, 25, 50, 75 and 95 % of the users)")
    right.set(xlim=(0, 1.05 * max(summary["q95"])), ylim=(len(summary) - 0.5, -0.5))
    right.set_yticks(rows, map(_label, summary["branch"]))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower left", ncols=3)
    return figure
