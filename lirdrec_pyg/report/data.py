"""The data of a run: sizes, splits, missing and repeated features, popularity of the items."""

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch

from lirdrec_pyg.data import feature_mask, item_features, modalities
from lirdrec_pyg.data.features import scan_rows
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.report.charts import Chart, Table, number
from lirdrec_pyg.report.section import Section

_TOP = (0.01, 0.1, 0.5)


def section(recommender: Recommender) -> Section:
    """Return what a model was trained on, and what is odd about it."""
    facts = recommender.dataset.summary()
    share = popularity_curve(recommender)
    content = {
        "counts": _counts(facts, recommender),
        "origin": {name: _text(value) for name, value in facts.items() if name in recommender.dataset.facts},
        "features": Table(_features(recommender, facts)),
        "top": {f"{100 * top:.0f}": share[round(top * (len(share) - 1))] for top in _TOP},
        "chart": _chart(share),
    }
    return Section("data", "Data", "data.html", content)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else number(value)


def _counts(facts: Mapping[str, Any], recommender: Recommender) -> dict[str, str]:
    counts = {
        "Users": f"{facts['users']:,}",
        "Items": f"{facts['items']:,}",
        "Interactions": f"{facts['interactions']:,}",
        **{f"Interactions for {name}": f"{facts[name]:,}" for name in ("training", "validation", "test")},
        "Sparsity": f"{100 * facts['sparsity']:.3f} %",
        "Users without training interactions": f"{facts['cold users']:,}",
        "Items without training interactions": f"{facts['cold items']:,}",
        "Test interactions with such items": f"{facts['test pairs with cold items']:,}",
    }
    if (new := recommender.dataset.new_items) is not None:
        counts["Items that were not part of the training"] = f"{len(new):,}"
    if (catalog := recommender.dataset.catalog) is not None:
        for what, column in (("a title", catalog.title), ("an image", catalog.picture)):
            if column is not None:
                counts[f"Items without {what}"] = f"{recommender.catalog_rows[column].null_count():,}"
    return counts


def _features(recommender: Recommender, facts: Mapping[str, Any]) -> pl.DataFrame:
    """Return one row per modality; a repeated vector is that of an earlier item."""
    graph, rows = recommender.graph, []
    for modality in modalities(graph):
        x, mask = item_features(graph, modality), feature_mask(graph, modality)
        scan = scan_rows(x, find_duplicates=True)
        known, described = torch.ones(len(x), dtype=torch.bool) if mask is None else mask, facts["modalities"][modality]
        rows.append(
            {
                "modality": modality,
                "columns": described["width"],
                "type": described["type"],
                "items without features": described["missing"],
                "zero vectors": int((scan.zero & known).sum()),
                "repeated vectors": int((scan.duplicate & known).sum()),
            }
        )
    return pl.DataFrame(rows)


def popularity_curve(recommender: Recommender, points: int = 200) -> list[float]:
    """Return the share of the training interactions that the most popular items have, for even shares of the items.

    Returns:
        ``points + 1`` numbers from 0 for no item to 1 for all of them.
    """
    count = recommender.popularity[: recommender.num_trained_items].sort(descending=True).values.double()
    total = torch.cat([count.new_zeros(1), count.cumsum(0)]) / count.sum()
    place = torch.linspace(0, len(count), points + 1, dtype=torch.float64)
    low = place.floor().long().clamp(max=len(count) - 1)
    return total[low].lerp(total[low + 1], place - low).tolist()


def _chart(share: list[float]) -> Chart:
    import altair as alt

    table = pl.DataFrame({"items": [n / (len(share) - 1) for n in range(len(share))], "interactions": share})
    percent = alt.Axis(format="%", tickCount=5)
    plot = (
        alt.Chart(alt.Data(values=table.with_columns(pl.all().round(4)).to_dicts()), width="container", height=220)
        .mark_line()
        .encode(
            x=alt.X("items:Q", title="share of the items, most popular first", axis=percent),
            y=alt.Y("interactions:Q", title="share of the interactions", axis=percent),
            tooltip=[alt.Tooltip("items:Q", format=".1%"), alt.Tooltip("interactions:Q", format=".1%")],
        )
    )
    return Chart(plot, "Line: share of the training interactions that the most popular items have.", table[::10])
