"""What people see of a run: users and items to search for, images, and columns to filter by."""

import math
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import polars as pl

from lirdrec_pyg.data import Vocabulary
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.columns import checked_columns, title_column, with_columns
from lirdrec_pyg.recommender.images import ItemImages
from lirdrec_pyg.service.answers import has_json

_IMAGES = 1000
# Columns of tables of recommendations.
_TAKEN = ("user", "item", "rank", "score", "cosine", "interactions")
# A column is described by its first rows, and its most frequent values that are short.
_ROWS, _VALUES, _LENGTH = 100_000, 30, 40
# A column in which so many texts have commas holds lists, such as genres.
_COMMA, _MANY = ", ", 0.2


class Shelf:
    """Users, items and images of a run, prepared when they are first asked for.

    Args:
        recommender: the run.
        image_root: folder of the images; by default that of the item catalog.

    Raises:
        ConfigError: if ``image_root`` is not a folder.
    """

    def __init__(self, recommender: Recommender, image_root: str | None) -> None:
        self._recommender = recommender
        self.image = lru_cache(_IMAGES)(ItemImages(recommender, image_root).get)

    @cached_property
    def _items(self) -> pl.DataFrame:
        ids, popularity = self._recommender.items.ids, self._recommender.popularity.numpy()
        catalog, text = self._recommender.dataset.catalog, ids.cast(pl.String)
        if catalog is not None:
            text = catalog.titles(ids).fill_null("") + " " + text
        return _texts(text, np.argsort(-popularity, kind="stable"))

    @cached_property
    def _users(self) -> pl.DataFrame:
        ids = self._recommender.users.ids
        return _texts(ids.cast(pl.String), np.arange(len(ids)))

    def items(self, text: str, user: str | None, start: int, count: int, columns: list[str]) -> pl.DataFrame:
        """Return items whose ID is ``text``, or whose title and ID contain all of its words, the most popular first.

        Args:
            text: ID or words, in any case; empty for all items.
            user: search only among the known interactions of this user.
            start: number of items to skip.
            count: number of items to return.
            columns: columns of the catalog to add.

        Returns:
            ``item``, ``interactions`` of the training, and ``columns``.

        Raises:
            DataError: if the user is unknown.
            ConfigError: if the catalog has no such column.
        """
        recommender, texts = self._recommender, self._items
        columns = checked_columns(recommender, columns, ("item", "interactions"))
        if user is not None:
            _, item = recommender.seen.pairs(recommender.user_positions([user]).to(recommender.device))
            texts = texts.filter(pl.col("position").is_in(item.unique().cpu().numpy()))
        position = _found(recommender.items, texts, text).slice(start, count).to_numpy()
        ids = recommender.items.ids.gather(position).alias("item")
        interactions = pl.Series("interactions", recommender.popularity.numpy()[position])
        return with_columns(recommender, pl.DataFrame([ids, interactions]), columns)

    def users(self, text: str, start: int, count: int) -> pl.DataFrame:
        """Return users whose ID contains all words of ``text``, and how many known ``interactions`` they have."""
        position = _found(self._recommender.users, self._users, text).slice(start, count).to_numpy()
        interactions = np.diff(self._recommender.seen.start.cpu().numpy())
        user = self._recommender.users.ids.gather(position).alias("user")
        return pl.DataFrame([user, pl.Series("interactions", interactions[position])])

    @cached_property
    def columns(self) -> list[dict[str, Any]]:
        """Columns of the catalog to filter by.

        Each has a ``name``; a ``type``, which is ``number``, ``text``, ``list`` for texts with commas, or ``other``;
        and ``values``: of a number the smallest and the largest, of texts and parts of lists frequent ones.
        """
        catalog = self._recommender.dataset.catalog
        if catalog is None:
            return []
        frame = catalog.frame.drop({"id", catalog.picture or "id", *title_column(self._recommender)})
        return [
            _described(frame[name].head(_ROWS))
            for name, dtype in frame.schema.items()
            if name not in _TAKEN and has_json(dtype) and not dtype.is_nested()
        ]


def _texts(text: pl.Series, order: np.ndarray) -> pl.DataFrame:
    """Return each ``position`` in the order in which users or items are listed, and the ``text`` to search in."""
    return pl.DataFrame({"position": order, "text": text.gather(order).str.to_lowercase()})


def _found(known: Vocabulary, texts: pl.DataFrame, text: str) -> pl.Series:
    """Return positions of the matches, the ID itself first."""
    exact = pl.col("position") == int(known.find(pl.Series([text]))[0])
    others = texts.filter(~exact)
    for word in text.lower().split():  # one after another, so that only what has the first is searched for the second
        others = others.filter(pl.col("text").str.contains(word, literal=True))
    return pl.concat([texts.filter(exact), others])["position"]


def _described(column: pl.Series) -> dict[str, Any]:
    name, kind, values = column.name, "other", []
    if column.dtype.is_numeric():
        numbers = column.cast(pl.Float64)
        kind, values = "number", [x for x in (numbers.min(), numbers.max()) if x is not None and math.isfinite(x)]
    elif column.dtype == pl.String:
        kind, texts = "text", column.drop_nulls()
        if texts.str.len_chars().sum() <= _LENGTH * len(texts):  # else, it is prose
            if texts.str.contains(_COMMA, literal=True).sum() > _MANY * len(texts):
                kind, texts = "list", texts.str.split(_COMMA).explode()
            frequent = texts.value_counts(sort=True, name="count").filter(pl.col("count") > 1)[name]
            values = frequent.filter(frequent.str.len_chars() <= _LENGTH).head(_VALUES).to_list()
    return {"name": name, "type": kind, "values": values}
