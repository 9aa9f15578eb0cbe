"""Images and titles of generated items, so that people see what the factors of the data are."""

import math
from collections.abc import Sequence
from urllib.parse import quote

import polars as pl
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data.item_catalog import ItemCatalog
from lirdrec_pyg.data.vocabulary import Vocabulary

_COLORS = {
    "red": "#d7263d",
    "orange": "#f28f1c",
    "green": "#3a9d4f",
    "turquoise": "#1aa6a6",
    "blue": "#2f6fde",
    "purple": "#8a4fbf",
}
_MATERIALS = ("wood", "paper", "glass", "silk", "steel", "wool")
_SIZES = ("tiny", "small", "large", "huge")
_SHAPES = {
    "circle": "<circle cx='50' cy='50' r='40'",
    "square": "<rect x='15' y='15' width='70' height='70'",
    "triangle": "<polygon points='50,8 86,71 14,71'",
    "star": "<polygon points='50,8 61,35 90,37 68,56 75,84 50,69 25,84 32,56 10,37 39,35'",
    "hexagon": "<polygon points='50,8 86,29 86,71 50,92 14,71 14,29'",
    "cross": "<path d='M35 10h30v25h25v30h-25v25h-30v-25h-25v-30h25z'",
}
_PATTERNS = {
    "dotted": "<circle cx='8' cy='8' r='4' fill='#fff'/>",
    "plain": "",
    "striped": "<path d='M0 8h16' stroke='#fff' stroke-width='5'/>",
}


def draw_items(graph: HeteroData, items: Vocabulary) -> ItemCatalog:
    r"""Name and draw the items of :func:`~lirdrec_pyg.data.generator.generate` by their latent factors.

    =========  ============  ========================================================
    factors    modality      what they are
    =========  ============  ========================================================
    0, 1       image         ``color``: the direction of the pair, in six parts
    2          image         ``pattern``: its third among the items
    3, 4       image, text   ``shape``: the direction of the pair, in six parts
    5, 6       text          ``material``: the direction of the pair, in six parts
    7          text          ``size``: its quarter among the items
    =========  ============  ========================================================

    Returns:
        ``id``, ``title`` such as "Small red striped circle of wool", ``image`` as an SVG in a ``data:`` URI, and a
        column for each property.
    """
    latent = graph["item"].latent
    frame = pl.DataFrame(
        {
            "color": _directions(latent[:, :2], list(_COLORS)),
            "pattern": _quantiles(latent[:, 2], list(_PATTERNS)),
            "shape": _directions(latent[:, 3:5], list(_SHAPES)),
            "material": _directions(latent[:, 5:7], _MATERIALS),
            "size": _quantiles(latent[:, 7], _SIZES),
        }
    )
    title = pl.format(
        "{} {} {} {} of {}", *(pl.col(name) for name in ("size", "color", "pattern", "shape", "material"))
    )
    images = [_image(*row) for row in frame.select("color", "pattern", "shape").iter_rows()]
    shown = frame.select(items.ids.alias("id"), title.alias("title"), pl.Series("image", images))
    return ItemCatalog(shown.hstack(frame), "title", "image")


def _directions(pair: Tensor, names: Sequence[str]) -> list[str]:
    turn = torch.atan2(pair[:, 1], pair[:, 0]) / (2 * math.pi) + 0.5
    return [names[n] for n in (turn * len(names)).long().clamp(max=len(names) - 1).tolist()]


def _quantiles(value: Tensor, names: Sequence[str]) -> list[str]:
    order = value.argsort(stable=True).argsort(stable=True)
    return [names[n] for n in (order * len(names) // len(order)).tolist()]


def _image(color: str, pattern: str, shape: str) -> str:
    tile = f"<rect width='16' height='16' fill='{_COLORS[color]}'/>{_PATTERNS[pattern]}"
    svg = (
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 100 100'><pattern id='p' width='16' height='16' "
        f"patternUnits='userSpaceOnUse' patternTransform='rotate(30)'>{tile}</pattern>{_SHAPES[shape]} "
        "fill='url(#p)'/></svg>"
    )
    return "data:image/svg+xml," + quote(svg, safe=" ='/:")
