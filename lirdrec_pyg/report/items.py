"""Some items, and those that are similar by the model and by each modality."""

from typing import NamedTuple

import torch

from lirdrec_pyg.data import modalities
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.report.gallery import Gallery, Item
from lirdrec_pyg.report.lists import spread
from lirdrec_pyg.report.section import Section

_PER_GROUP = 2
_NEIGHBORS = 8


class Neighbors(NamedTuple):
    """An item with its neighbors by the model and by each modality, or why there are none."""

    item: Item
    popularity: int
    by: dict[str, list[Item] | str]


def section(recommender: Recommender, gallery: Gallery) -> Section:
    """Show popular, mid and rare items, and for each its neighbors by the vectors and by the features."""
    ways = {f"by {modality}": modality for modality in modalities(recommender.graph)}
    if recommender.compares_items:
        ways = {"by the model": "vectors", **ways}
    order = recommender.popularity.argsort(descending=True, stable=True)
    parts = order[: int((recommender.popularity > 0).sum())].tensor_split(10)
    groups = {
        name: [_neighbors(recommender, item, ways, gallery) for item in spread(part, _PER_GROUP)]
        for name, part in (("popular", parts[0]), ("mid", torch.cat(parts[4:6])), ("rare", parts[9]))
    }
    content = {"groups": groups, "by_model": recommender.compares_items}
    return Section("items", "Items and their neighbors", "items.html", content)


def _neighbors(recommender: Recommender, position: int, ways: dict[str, str], gallery: Gallery) -> Neighbors:
    ids = recommender.items.ids[position : position + 1]
    by = {label: similar(recommender, ids[0], _NEIGHBORS, way, gallery) for label, way in ways.items()}
    return Neighbors(gallery.items(ids)[0], int(recommender.popularity[position]), by)


def similar(recommender: Recommender, item: int | str, k: int, by: str, gallery: Gallery) -> list[Item] | str:
    """Return the items most similar to one, or why there are none."""
    try:
        return gallery.items(recommender.similar_items(item, k, by)["item"])
    except DataError as error:  # it has no such features, or is equally similar to all items
        return str(error).removesuffix(" Pass another `by`.")
