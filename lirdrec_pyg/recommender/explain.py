"""Why an item is recommended: parts of a score, and cosines of representations or raw features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl
import torch
from torch import Tensor
from torch_geometric.utils import scatter

from lirdrec_pyg.data import Vocabulary, modalities
from lirdrec_pyg.data.dataset import Table, to_polars
from lirdrec_pyg.errors import DataError, listed
from lirdrec_pyg.explanation import Explanation
from lirdrec_pyg.models import Attribution, Parts, attribution_of_history
from lirdrec_pyg.recommender.columns import checked_columns, with_columns
from lirdrec_pyg.recommender.cosines import feature_cosines, largest
from lirdrec_pyg.recommender.history import History, KnownHistory
from lirdrec_pyg.recommender.ids import as_ids, check_count

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender

_BLOCK_PARTS = 2**20


def explain(
    recommender: "Recommender", user: int | str, item: int | str, nearest: int, columns: Sequence[str]
) -> Explanation:
    """See :meth:`Recommender.explain`."""
    recommender.model_config.require("explanations")
    check_count("nearest", nearest, least=0)
    columns = checked_columns(recommender, columns, ("item", "part", "share", "modality", "cosine"))
    row, column = recommender.user_positions([user]), recommender.item_positions([item])
    parts = recommender.attribution(row, column)
    (whole,), (user_part,) = _whole(parts).tolist(), parts.rest.tolist()
    part = parts.part.double()
    ids = recommender.items.ids
    past = parts.past.numpy()
    items = pl.DataFrame({"item": ids.gather(past), "part": part.numpy(), "share": (part / whole).numpy()})
    own = parts.past[parts.past != column]
    found = []
    for modality in modalities(recommender.graph):
        best, cosine = largest(feature_cosines(recommender.graph, modality, column, own), nearest)
        names = pl.Series([modality] * len(best), dtype=pl.String)
        found.append(pl.DataFrame({"modality": names, "item": ids.gather(own[best].numpy()), "cosine": cosine.numpy()}))
    return Explanation(
        score=user_part + float(part.sum()),
        items=with_columns(recommender, items.sort("part", descending=True, maintain_order=True), columns),
        user_part=user_part,
        user_share=user_part / whole,
        branches=_branches(recommender, row, column),
        nearest=with_columns(recommender, pl.concat(found), columns),
    )


def _branches(recommender: "Recommender", row: Tensor, column: Tensor) -> pl.DataFrame:
    schema = {"branch": pl.String, "weight": pl.Float32, "part": pl.Float64}
    if not recommender.model_config.supports_fusion_weights:
        return pl.DataFrame(schema=schema)
    model, vectors = recommender.model, recommender.vectors
    product, learned = vectors.user[row[0]].double() * vectors.item[column[0]].double(), vectors.width
    part = model.split_branches(product[:learned]).sum(dim=-1)[0].tolist()
    weight: list[float | None] = vectors.user_weight[row[0]].tolist()
    branches = list(model.branches)
    if vectors.linear.size(1):  # no fusion weights it
        branches, weight, part = [*branches, "linear"], [*weight, None], [*part, float(product[learned:].sum())]
    return pl.DataFrame({"branch": branches, "weight": weight, "part": part}, schema=schema)


def because(recommender: "Recommender", table: Table, count: int, history: History | None) -> pl.DataFrame:
    """See :meth:`Recommender.because`."""
    recommender.model_config.require("explanations")
    check_count("count", count)
    frame = to_polars(table)
    for name in ("user", "item"):
        if name not in frame.columns:
            raise DataError(
                f"The table has no column {name!r} (columns: {listed(frame.columns)}). Pass one like that of "
                "`Recommender.recommend`."
            )
    if history is None:
        users, attribution = recommender.users, recommender.attribution
    else:
        users, attribution = _of_history(recommender, history)
    user = torch.from_numpy(users.find(as_ids(frame["user"], "user")))
    item = recommender.item_positions(frame["item"])
    past, share = item.new_full((len(frame), count), -1), torch.zeros(len(frame), count)
    known = (user >= 0).nonzero().view(-1)
    num_parts = attribution.history.start.diff()[user[known]]
    block = num_parts.cumsum(dim=0) // _BLOCK_PARTS
    for rows in known.split(block.unique_consecutive(return_counts=True)[1].tolist()):
        past[rows], share[rows] = _strongest(attribution(user[rows], item[rows]), item[rows], count)
    catalog, columns = recommender.dataset.catalog, []
    for n in range(count):
        has = pl.Series((past[:, n] >= 0).numpy())
        ids = recommender.items.ids.gather(pl.Series(past[:, n].numpy()).set(~has, None)).alias(f"because_{n + 1}")
        columns.append(ids)
        if catalog is not None and catalog.title is not None:
            columns.append(catalog.titles(ids).alias(f"{ids.name}_title"))
        columns.append(pl.Series(f"{ids.name}_share", share[:, n].numpy()).set(~has, None))
    return frame.with_columns(columns)


def _of_history(recommender: "Recommender", history: History) -> tuple[Vocabulary, Attribution]:
    recommender.model_config.require("new_users")
    later = KnownHistory.of(recommender, history)
    known = recommender.vectors, recommender.history, recommender.popularity
    attribution = attribution_of_history(recommender.model, *known, later.pairs, later.position)
    return Vocabulary(later.users, "user"), attribution


def _whole(parts: Parts) -> Tensor:
    """Return what shares are relative to: the sum of the absolute values of all parts of a score, shape ``(N,)``."""
    whole = scatter(parts.part.double().abs(), parts.row, dim_size=len(parts.rest)) + parts.rest.abs()
    return whole.where(whole > 0, 1)


def _strongest(parts: Parts, item: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the other items with the largest positive parts, -1 where there are fewer, and their shares."""
    whole, place = _whole(parts), torch.arange(len(parts.part), device=item.device)
    part = parts.part.where(parts.past != item[parts.row], 0)
    past, share = item.new_full((len(item), count), -1), whole.new_zeros(len(item), count, dtype=torch.float32)
    for n in range(count):
        best = scatter(part, parts.row, dim_size=len(item), reduce="max")
        is_best = (part == best[parts.row]) & (part > 0)
        first = scatter(place[is_best], parts.row[is_best], dim_size=len(item), reduce="min")[best > 0]
        past[best > 0, n], share[best > 0, n] = parts.past[first], (best / whole)[best > 0].float()
        part[first] = 0
    return past, share
