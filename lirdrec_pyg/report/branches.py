"""Weights of the branches of a model over its users."""

from typing import Any

import polars as pl

from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.branches import branch_weights, summarize_branches
from lirdrec_pyg.report.charts import PALETTE, Chart
from lirdrec_pyg.report.section import Section


def section(recommender: Recommender) -> Section | None:
    """Return how a model weighs its branches; ``None`` if it has none, or only one."""
    if not recommender.model_config.supports_fusion_weights or recommender.vectors.user_weight.size(1) < 2:
        return None
    summary = summarize_branches(branch_weights(recommender))
    heaviest = dict(summary.select("branch", "heaviest").sort("heaviest", descending=True).iter_rows())
    content = {"heaviest": heaviest, "equal": max(0.0, 1 - sum(heaviest.values())), "chart": _chart(summary)}
    return Section("branches", "Weights of the branches", "branches.html", content)


def _chart(summary: pl.DataFrame) -> Chart:
    import altair as alt

    quantiles = [name for name in summary.columns if name.startswith("q")]
    rows: list[dict[str, Any]] = summary.select("branch", pl.col(quantiles).cast(pl.Float64).round(5)).to_dicts()
    even, height = 1 / len(rows), 44 * len(rows)
    scale = alt.Scale(domain=[0, max(1.2 * even, *(1.05 * row["q95"] for row in rows))])
    weight = alt.X("q05:Q", title="weight", scale=scale, axis=alt.Axis(tickCount=8))
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("branch:N", sort=[row["branch"] for row in rows], title=None),
        tooltip=[alt.Tooltip("branch:N"), *(alt.Tooltip(f"{name}:Q", format=".4f") for name in quantiles)],
    )
    plot = alt.layer(
        alt.Chart(alt.Data(values=[{"even": even}])).mark_rule(strokeDash=[4, 3], opacity=0.6).encode(x="even:Q"),
        base.mark_bar(size=3, color=PALETTE[0]).encode(x=weight, x2="q95:Q"),
        base.mark_bar(size=12, color=PALETTE[0]).encode(x="q25:Q", x2="q75:Q"),
        base.mark_point(shape="circle", size=60, filled=True, color=PALETTE[1], opacity=1).encode(x="q50:Q"),
        width="container",
        height=height,
    )
    label = "Bars: for each branch, the weights of the middle half and of 90 % of the users, and their median."
    return Chart(plot, label, summary, height + 50)
