"""A map of the items in two dimensions, by their learned vectors."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch_geometric.utils import scatter
from tqdm import tqdm

from lirdrec_pyg.nn import unit_vectors
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.columns import names_of
from lirdrec_pyg.recommender.images import ItemImages
from lirdrec_pyg.report.charts import MUTED, PALETTE, RAMP, Chart
from lirdrec_pyg.report.section import Section

_MAX_ITEMS, _WIDTH = 1500, 48
# The page has other images and the program that draws charts.
_MAX_URI_LENGTH = 1_500_000
# Columns with more values are texts rather than kinds, and those that explain less are not worth their colors.
_MAX_VALUES, _MIN_EXPLAINED = 100, 0.01
_OTHER = "others"


def section(recommender: Recommender, images: ItemImages) -> Section | None:
    """Return a map of up to 1,500 random items; ``None`` for a model without vectors of at least two columns."""
    if not recommender.compares_items:
        return None
    order = torch.randperm(len(recommender.items), generator=torch.Generator().manual_seed(0))
    position = order[:_MAX_ITEMS].sort().values
    vectors = unit_vectors(recommender.vectors.learned_item[position].float())
    place, method = _reduced(vectors.numpy())
    frame = pl.DataFrame(
        [
            pl.Series("x", place[:, 0]).round_sig_figs(5),
            pl.Series("y", place[:, 1]).round_sig_figs(5),
            names_of(recommender, recommender.items.ids.gather(position.numpy())).alias("title"),
            pl.Series("interactions", recommender.popularity[position].numpy()),
        ]
    )
    column, explained = _best_column(recommender, position, vectors)
    if column is not None:
        frame = frame.with_columns(column.alias("group"))
    frame = frame.with_columns(_uris(images, position))
    content = {
        "num_items": len(recommender.items),
        "num_shown": len(frame),
        "method": method,
        "column": None if column is None else column.name,
        "explained": explained,
        "has_images": frame["image"].is_not_null().any(),
        "chart": _chart(frame, None if column is None else column.name),
    }
    return Section("map", "Map of the items", "item_map.html", content)


def _reduced(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """Return two coordinates per item, and how they were made."""
    if find_spec("umap"):
        umap: Any = import_module("umap")
        mapping = umap.UMAP(metric="cosine", n_neighbors=min(15, len(vectors) - 1), n_jobs=1, random_state=0)
        return mapping.fit_transform(vectors), "UMAP"
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=0)
    place = pca.fit_transform(vectors)
    return place, f"principal components, which hold {100 * pca.explained_variance_ratio_.sum():.0f} % of the variance"


def _best_column(recommender: Recommender, position: Tensor, x: Tensor) -> tuple[pl.Series | None, float]:
    """Return the column of the catalog, with few values, that explains most of the variance of the vectors."""
    catalog = recommender.dataset.catalog
    found: tuple[pl.Series | None, float] = None, _MIN_EXPLAINED
    if catalog is None:
        return found
    rows = recommender.catalog_rows[position.numpy()]
    for column in rows.iter_columns():
        is_known = column.name in ("id", catalog.title, catalog.picture) or column.dtype.is_nested()
        if not is_known and 2 <= column.n_unique() <= min(_MAX_VALUES, len(rows) / 2):
            groups = _most_frequent(column)
            code = groups.rank("dense").to_torch().long()
            mean = scatter(x, code, reduce="mean")
            explained = float((mean[code] - x.mean(0)).square().sum() / (x - x.mean(0)).square().sum())
            found = max(found, (groups, explained), key=lambda each: each[1])
    return found


def _most_frequent(column: pl.Series) -> pl.Series:
    """Return the values as text, with one text for null and for all values that there are not enough colors for."""
    text = column.cast(pl.String).fill_null(_OTHER)
    if text.n_unique() <= len(PALETTE):
        return text
    frequent = text.filter(text != _OTHER).value_counts().sort("count", column.name, descending=[True, False])
    return text.set(~text.is_in(frequent[column.name].head(len(PALETTE) - 1).implode()), _OTHER)


def _uris(images: ItemImages, position: Tensor) -> pl.Series:
    """Return an image of each item as long as there is room for it."""
    uris: list[str | None] = []
    left = _MAX_URI_LENGTH
    for item in tqdm(position.tolist(), desc="images of the map", unit="item", leave=False, disable=None):
        image = images.get(item, _WIDTH)
        uri = None if image is None or len(image.content) * 4 / 3 > left else image.data_uri
        left -= len(uri or "")
        uris.append(uri)
    return pl.Series("image", uris, dtype=pl.String)


def _chart(frame: pl.DataFrame, column: str | None) -> Chart:
    import altair as alt

    color: Any
    shown = {"image": "image", "title": "title", "training interactions": "interactions"}
    if column is None:
        legend = alt.Legend(values=[0, *(10**n for n in range(8) if 10**n <= max(frame["interactions"]))])
        scale = alt.Scale(type="symlog", range=list(RAMP))
        color = alt.Color("interactions:Q", title="training interactions", scale=scale, legend=legend)
    else:
        shown[column] = "group"
        values = sorted(frame["group"].unique(), key=lambda value: (value == _OTHER, value))
        color = alt.Color("group:N", title=column, scale=alt.Scale(domain=values, range=_colors(values)))
    rows = [{name: value for name, value in row.items() if value is not None} for row in frame.to_dicts()]
    axis = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
    plot = (
        alt.Chart(alt.Data(values=rows), width="container", height=520)
        .mark_circle(size=36, opacity=0.85)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            color=color,
            tooltip=[alt.Tooltip(f"{field}:N", title=name) for name, field in shown.items()],
        )
    )
    label = f"Points: {len(frame):,} items; those with similar vectors are near each other, colored by "
    return Chart(plot, f"{label}{column or 'popularity'}.", height=560, renderer="canvas")


def _colors(values: list[str]) -> list[str]:
    """Return a color per value: the one that it names, if all name one."""
    from PIL.ImageColor import colormap

    named = [value.lower() for value in values]
    if all(name in colormap for name in named):
        return named
    colors = [color for color in PALETTE if color != MUTED]
    return [MUTED if value == _OTHER else color for value, color in zip(values, [*colors, MUTED])]
