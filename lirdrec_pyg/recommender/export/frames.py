import numpy as np
import polars as pl
import torch

from lirdrec_pyg.data import ItemCatalog
from lirdrec_pyg.recommender.recommender import Recommender


def database_frames(recommender: Recommender) -> dict[str, pl.DataFrame]:
    """Return the tables of a database.

    =========  =========================================================================================
    ``users``  ``id`` and ``vector`` of users with training interactions; others have no meaningful vector
    ``items``  ``id``, ``vector``, ``title``, and the other columns of the item catalog, without those of lists,
               structs and bytes
    ``seen``   ``user_id``, ``item_id``: all known interactions, those held out for validation and test among them
    =========  =========================================================================================

    Raises:
        ConfigError: if scores are not dot products of vectors.
    """
    users, items = recommender.users.ids, recommender.items.ids
    trained = recommender.has_history
    described = _described(recommender.dataset.catalog, items)
    return {
        "users": vector_frame(users.filter(pl.Series(trained)), recommender.user_vectors()[trained]),
        "items": vector_frame(items, recommender.item_vectors()).hstack(described),
        "seen": _seen(recommender),
    }


def seen_lists(recommender: Recommender) -> pl.Series:
    """Return the known interactions of each user as a list, null for users without training interactions."""
    lists = _seen(recommender).group_by("user_id").agg(seen="item_id")
    found = pl.DataFrame({"user_id": recommender.users.ids}).join(
        lists, on="user_id", how="left", maintain_order="left"
    )
    return found.select(pl.when(pl.Series(recommender.has_history)).then("seen"))["seen"]


def _seen(recommender: Recommender) -> pl.DataFrame:
    users, items = recommender.users.ids, recommender.items.ids
    row, item = recommender.seen.pairs(torch.arange(len(users), device=recommender.device))
    pairs = {"user_id": users.gather(row.cpu().numpy()), "item_id": items.gather(item.cpu().numpy())}
    return pl.DataFrame(pairs).unique(maintain_order=True)


def vector_frame(ids: pl.Series, vectors: np.ndarray) -> pl.DataFrame:
    """Return a table with the columns ``id`` and ``vector``, float32 arrays."""
    column = pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
    return pl.DataFrame({"id": ids, "vector": column})


def _described(catalog: ItemCatalog | None, ids: pl.Series) -> pl.DataFrame:
    """Return the title of each item, and its other columns that hold single values."""
    if catalog is None:
        return pl.DataFrame({"title": pl.repeat(None, len(ids), dtype=pl.String, eager=True)})
    taken = {"id", "vector", "title", catalog.title}
    dtypes = catalog.frame.schema.items()
    others = [
        name
        for name, dtype in dtypes
        if name not in taken and not dtype.is_nested() and dtype not in (pl.Binary, pl.Object)
    ]
    return catalog.rows(ids).select(catalog.titles(ids), *others)
