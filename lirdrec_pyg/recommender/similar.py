"""Items similar to one item or to each item, by learned vectors or by the raw features of a modality."""

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from lirdrec_pyg.data import modalities
from lirdrec_pyg.errors import ConfigError, DataError, shown
from lirdrec_pyg.nn import SeenItems, top_k, unit_vectors
from lirdrec_pyg.recommender.columns import checked_columns, columns_of, with_columns
from lirdrec_pyg.recommender.cosines import feature_cosines, feature_rows, largest
from lirdrec_pyg.recommender.ids import check_count

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender

# Cosines of vectors that all point in one direction differ by rounding only.
_SAME_COSINE = 1e-5


def similar_items(recommender: "Recommender", item: int | str, k: int, by: str, columns: Sequence[str]) -> pl.DataFrame:
    """See :meth:`Recommender.similar_items`."""
    check_count("k", k)
    columns = checked_columns(recommender, columns, ("item", "rank", "cosine"))
    _check_by(recommender, by)
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
    frame = pl.DataFrame(
        {
            "item": ids.gather(best.numpy()),
            "rank": np.arange(1, len(best) + 1, dtype=np.int32),
            "cosine": values.numpy(),
        }
    )
    return with_columns(recommender, frame, columns)


def similar_items_blocks(recommender: "Recommender", k: int, by: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """See :meth:`Recommender.similar_items_blocks`. The call itself raises errors of the arguments."""
    check_count("k", k)
    columns = checked_columns(recommender, columns, ())
    _check_by(recommender, by)
    return _blocks(recommender, k, by, columns)


def _blocks(recommender: "Recommender", k: int, by: str, columns: list[str]) -> Iterator[pl.DataFrame]:
    ids = recommender.items.ids
    everything = torch.arange(len(ids))
    if by == "vectors":
        x, present = recommender.ranked_items[:, : recommender.vectors.width], everything
    else:
        x, real = feature_rows(recommender.graph, by, everything)
        x, present = x[real].to(recommender.device), everything[real.cpu()]
    unit = unit_vectors(x)
    index = torch.arange(len(unit), device=unit.device)
    itself = SeenItems(torch.arange(len(unit) + 1, device=unit.device), index)
    num_alike = 0
    for block in top_k(unit, unit, index, max(k, 2), itself):
        alike = _equally_similar(unit, index[block.rows], block.score)
        num_alike += int(alike.sum())
        score, rank = block.score[:, :k], torch.arange(1, k + 1, dtype=torch.int32, device=unit.device)
        row, place = ((score > -torch.inf) & ~alike.unsqueeze(1)).nonzero(as_tuple=True)
        frame = {
            "item": ids.gather(present[block.rows][row.cpu()].numpy()),
            "similar_item": ids.gather(present[block.item[row, place].cpu()].numpy()),
        }
        described = {
            f"{name}_{column.name}": column
            for name, items in frame.items()
            for column in columns_of(recommender, items, columns)
        }
        yield pl.DataFrame(
            {**frame, "rank": rank[place].cpu().numpy(), "cosine": score[row, place].cpu().numpy(), **described}
        )
    num_missing = len(ids) - len(present)
    if num_alike + num_missing == len(ids):
        raise DataError(f"By {by}, no item is more similar to an item than others. Pass another `by`.")
    if num_alike + num_missing:
        reasons = {f"have no features in {by}": num_missing, "are equally similar to all others": num_alike}
        counted = ", and ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        text = f"{num_alike + num_missing} of {len(ids)} items are skipped: {counted}."
        warnings.warn(text, stacklevel=2)


def _equally_similar(unit: Tensor, rows: Tensor, best: Tensor) -> Tensor:
    """Return to which of ``rows`` all other items are equally similar, bool, shape ``(N,)``.

    ``best`` holds the largest cosines with others, in descending order, minus infinity where there is no other.
    """
    alike = best[:, 0] - best.masked_fill(best == -torch.inf, torch.inf).amin(dim=1) < _SAME_COSINE
    if len(unit) < 3 or not alike.any():
        return torch.zeros_like(alike)
    items = rows[alike]
    itself = SeenItems(torch.arange(len(items) + 1, device=items.device), items)
    index = torch.arange(len(items), device=items.device)
    opposite = torch.cat([block.score for block in top_k(-unit[items], unit, index, 1, itself)])
    return alike.masked_scatter(alike, best[alike, 0] + opposite[:, 0] < _SAME_COSINE)


def _check_by(recommender: "Recommender", by: str) -> None:
    if by == "vectors":
        recommender.check_item_vectors()
    elif by not in (names := modalities(recommender.graph)):
        raise ConfigError(f"`by` is {by!r}. Choose 'vectors' or a modality: {', '.join(names)}.")


def _cosine(recommender: "Recommender", position: int, by: str) -> Tensor:
    """Return the cosines of all items with one; minus infinity for items without features."""
    if by == "vectors":
        item = recommender.vectors.learned_item
        return F.cosine_similarity(item, item[position : position + 1])
    cosine = feature_cosines(recommender.graph, by, torch.tensor([position]), torch.arange(len(recommender.items)))
    if cosine[position] == -torch.inf:
        raise DataError(f"The item {recommender.items.ids[position]!r} has no features in {by}.")
    return cosine
