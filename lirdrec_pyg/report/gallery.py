from pathlib import Path
from statistics import median
from typing import NamedTuple

import polars as pl

from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.columns import names_of
from lirdrec_pyg.recommender.images import ItemImages

_WIDTH = 120
# In base64, they leave room for plots in a page of 8 MB.
_MAX_BYTES = 3_500_000


class Item(NamedTuple):
    """An item as people see it."""

    title: str  # or the ID if there is none
    picture: str | None  # anchor of its image in the page


class Gallery:
    """Titles and images of items; the page holds each image once, however often it is shown.

    Args:
        recommender: the run with the catalog.
        image_root: folder of the images, see :class:`~lirdrec_pyg.recommender.images.ItemImages`.
    """

    def __init__(self, recommender: Recommender, image_root: str | Path | None = None) -> None:
        self._recommender = recommender
        self._images = ItemImages(recommender, image_root)
        self._num_bytes = 0
        self._shapes: list[float] = []
        self._anchors: dict[int, str | None] = {}
        self.pictures: dict[str, str] = {}  # data: URI of each image that is shown, by its anchor

    def items(self, ids: pl.Series) -> list[Item]:
        """Return some items by ID, in their order."""
        titles = names_of(self._recommender, ids)
        positions: list[int] = self._recommender.items.find(ids).tolist()
        return [Item(title, self.picture(position)) for title, position in zip(titles, positions)]

    def picture(self, position: int) -> str | None:
        """Return the anchor of the image of an item; ``None`` if there is none, or the page is full."""
        if position not in self._anchors:
            self._anchors[position] = self._add(position)
        return self._anchors[position]

    def _add(self, position: int) -> str | None:
        image = None if position < 0 else self._images.get(position, _WIDTH)
        if image is None or self._num_bytes + len(image.content) > _MAX_BYTES:
            return None
        self._num_bytes += len(image.content)
        if image.size is not None:
            self._shapes.append(image.size[0] / image.size[1])
        anchor = f"picture-{len(self.pictures)}"
        self.pictures[anchor] = image.data_uri
        return anchor

    @property
    def shape(self) -> float:
        """Width by height of most images."""
        return min(max(median(self._shapes or [1.0]), 0.6), 1.6)
