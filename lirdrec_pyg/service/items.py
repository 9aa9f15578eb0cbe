from collections.abc import Mapping, Sequence

import torch

from lirdrec_pyg.data import NewItems, Vocabulary, feature_widths
from lirdrec_pyg.errors import DataError, shown
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.ids import as_ids


def new_items(
    recommender: Recommender, ids: Sequence[int | str], features: Sequence[Mapping[str, Sequence[float]]]
) -> NewItems:
    """Return new items whose features are given one by one; a modality that an item leaves out is missing for it.

    Raises:
        DataError: naming the item whose ID or features are wrong.
    """
    widths = feature_widths(recommender.graph)
    for id_, vectors in zip(ids, features):
        for name, vector in vectors.items():
            if name not in widths:
                raise DataError(f"The new item {shown(id_)} has features in {name!r}. Known are {', '.join(widths)}.")
            if len(vector) != widths[name]:
                raise DataError(
                    f"{name!r} of the new item {shown(id_)} has {len(vector)} numbers, but {widths[name]} in training."
                )
    masks = {name: torch.tensor([name in vectors for vectors in features]) for name in widths}
    matrices = {
        name: torch.tensor([vectors.get(name, [0.0] * width) for vectors in features]) for name, width in widths.items()
    }
    partial = {name: mask for name, mask in masks.items() if not mask.all()}
    return NewItems(Vocabulary(as_ids(ids, "new item"), "item"), matrices, partial)
