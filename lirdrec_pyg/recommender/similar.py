"""Items similar to an item, by learned vectors or by the raw features of a modality."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from lirdrec_pyg.data import modalities
from lirdrec_pyg.errors import ConfigError, DataError, shown
from lirdrec_pyg.recommender.explain import cosine_with_all, feature_rows, largest
from lirdrec_pyg.recommender.ids import check_count

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender

# Cosines of vectors that all point in one direction differ by rounding only.
_SAME_COSINE = 1e-5


def similar_items(recommender: "Recommender", item: int | str, k: int, by: str) -> pl.DataFrame:
    """See :meth:`Recommender.similar_items`."""
    check_count("k", k)
    ids = recommender.items.ids
    position = int(recommender.item_positions([item])[0])
    cosine = _cosine(recommender, position, by)
    cosine[position] = -torch.inf
    others = cosine[cosine > -torch.inf]
    if len(others) > 1 and others.max() - others.min() < _SAME_COSINE:
        raise DataError(
            f"By {by}, all items are equally similar to {shown(ids[position])} (cosine {others[0]:.4f}), so there is "
            "nothing to rank. Pass another `by`."
        )
    best, values = largest(cosine, k)
    return pl.DataFrame(
        {
            "item": ids.gather(best.numpy()),
            "rank": np.arange(1, len(best) + 1, dtype=np.int32),
            "cosine": values.numpy(),
        }
    )


def _cosine(recommender: "Recommender", position: int, by: str) -> Tensor:
    """Return the cosines of all items with one; minus infinity for items without features."""
    if by == "vectors":
        recommender.check_vectors()
        item = recommender.vectors.item
        return F.cosine_similarity(item, item[position : position + 1])
    if by not in (names := modalities(recommender.graph)):
        raise ConfigError(f"`by` is {by!r}. Choose 'vectors' or a modality: {', '.join(names)}.")
    own, real = feature_rows(recommender.graph, by, torch.tensor([position]))
    if not real:
        raise DataError(f"The item {recommender.items.ids[position]!r} has no features in {by}.")
    return cosine_with_all(recommender.graph, by, own)
