"""Rank items for users of the training, or for users by their history, and return tables."""

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.config import check_choice
from lirdrec_pyg.data import Vocabulary
from lirdrec_pyg.errors import DataError, listed
from lirdrec_pyg.models import fold_in_users
from lirdrec_pyg.nn import DotProducts, Scores, SeenItems, TopK
from lirdrec_pyg.recommender.columns import checked_columns
from lirdrec_pyg.recommender.history import History, KnownHistory
from lirdrec_pyg.recommender.ids import IDs, as_ids, check_count
from lirdrec_pyg.recommender.rules import Rules, allowed_items, ruled

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender

Fallback = Literal["skip", "popular", "error"]

_COLUMNS = ("user", "item", "rank", "score")


def recommend_blocks(
    recommender: "Recommender",
    users: IDs | None,
    k: int,
    exclude_seen: bool,
    candidates: IDs | None,
    exclude: IDs | None,
    fallback: Fallback,
    columns: Sequence[str],
    rules: Rules,
) -> Iterator[pl.DataFrame]:
    """See :meth:`Recommender.recommend_blocks`. The call itself raises all errors."""
    check_choice("fallback", fallback, Fallback)
    check_count("k", k)
    columns = checked_columns(recommender, columns, _COLUMNS)
    asked = recommender.users.ids if users is None else as_ids(users, "user").unique(maintain_order=True)
    if not len(asked):
        raise DataError("The list of users is empty.")
    position = recommender.trained_positions(asked)
    others = asked.filter(pl.Series(position < 0))
    if len(others):
        _report(recommender.users, others, len(asked), fallback)
    allowed = allowed_items(recommender, rules, candidates, exclude)
    ranker = ruled(recommender, recommender.ranker, rules)
    index = torch.from_numpy(position[position >= 0])
    ids = recommender.users.ids
    if ids.dtype != others.dtype:
        # As text, all fit into one column.
        ids, others = ids.cast(pl.String), others.cast(pl.String)

    def blocks() -> Iterator[pl.DataFrame]:
        if len(index):
            seen = recommender.seen if exclude_seen else None
            for block in ranker.top_k(index.to(recommender.device), k, seen, allowed):
                yield _table(recommender, ids.gather(index[block.rows].numpy()), block, columns)
        if fallback == "popular" and len(others):
            yield from _popular(recommender, others, k, exclude_seen, allowed, columns, rules)

    return blocks()


def _report(users: Vocabulary, others: pl.Series, num_asked: int, fallback: Fallback) -> None:
    unknown = others.filter(pl.Series(users.find(others) < 0))
    text = f"{len(others)} of {num_asked} users are unknown or have no training interactions ({listed(others)})."
    hint = f" {users.hint(unknown)}" if len(unknown) else ""
    if fallback == "error":
        raise DataError(f"{text}{hint} Leave them out, or pass `fallback='skip'` or `fallback='popular'`.")
    if fallback == "skip" and len(others) == num_asked:
        raise DataError(f"{text}{hint} Pass `fallback='popular'` to recommend popular items.")
    warnings.warn(f"{text} They {'are skipped' if fallback == 'skip' else 'get popular items'}.{hint}", stacklevel=4)


def _popular(
    recommender: "Recommender",
    users: pl.Series,
    k: int,
    exclude_seen: bool,
    allowed: Tensor | None,
    columns: list[str],
    rules: Rules,
) -> Iterator[pl.DataFrame]:
    """Rank items by their number of training interactions, ties by position, for users without a vector."""
    order = recommender.popularity.argsort(descending=True, stable=True)
    score = -order.argsort().to(recommender.device, torch.float)  # minus the place of each item
    # Such users can have interactions that were held out.
    seen = _seen_with(recommender, torch.empty(2, 0, dtype=torch.long), users) if exclude_seen else None
    ranker = Scores(lambda index: score.repeat(len(index), 1), len(score))
    limited = ruled(recommender, ranker, Rules(where=rules.where, max_per=rules.max_per))
    for block in limited.top_k(torch.arange(len(users), device=recommender.device), k, seen, allowed):
        frame = _table(recommender, users[block.rows], block, columns)
        yield frame.with_columns(score=pl.lit(None, pl.Float32))


def recommend_for_history(
    recommender: "Recommender",
    history: History,
    k: int,
    exclude_seen: bool,
    candidates: IDs | None,
    exclude: IDs | None,
    fallback: Fallback,
    columns: Sequence[str],
    rules: Rules,
) -> pl.DataFrame:
    """See :meth:`Recommender.recommend_for_history`."""
    check_choice("fallback", fallback, Fallback)
    check_count("k", k)
    recommender.model_config.require("new_users")
    columns = checked_columns(recommender, columns, _COLUMNS)
    later = KnownHistory.of(recommender, history)
    _report_history(recommender.items, later, fallback)
    allowed = allowed_items(recommender, rules, candidates, exclude)
    frames = []
    if len(later.users):
        known = recommender.vectors, recommender.history, recommender.popularity
        vectors = fold_in_users(recommender.model, *known, later.pairs, later.position)
        seen = _seen_with(recommender, later.pairs, later.users) if exclude_seen else None
        ranker = ruled(recommender, DotProducts(vectors.user.to(recommender.device), recommender.ranked_items), rules)
        index = torch.arange(len(later.users), device=recommender.device)
        for block in ranker.top_k(index, k, seen, allowed):
            frames.append(_table(recommender, later.users[block.rows], block, columns))
    if fallback == "popular" and len(later.other_users):
        frames += _popular(recommender, later.other_users, k, exclude_seen, allowed, columns, rules)
    return pl.concat(frames)


def _report_history(items: Vocabulary, later: KnownHistory, fallback: Fallback) -> None:
    others, unknown = later.other_users, later.unknown_items
    hint = f" {items.hint(unknown)}" if len(unknown) else ""
    if len(others) and fallback == "error":
        raise DataError(
            f"{len(others)} users have neither training interactions nor a known item ({listed(others)}).{hint} Leave "
            "them out, or pass `fallback='skip'` or `fallback='popular'`."
        )
    if not len(later.users) and fallback == "skip":
        if not len(unknown):
            raise DataError(
                "The history is empty. Pass at least one item, or `fallback='popular'` to recommend popular items."
            )
        raise DataError(
            f"No item of the history is in the catalog ({listed(unknown)}).{hint} Pass `fallback='popular'` to "
            "recommend popular items."
        )
    if len(unknown):
        warnings.warn(f"Unknown items are left out of the history: {listed(unknown)}.{hint}", stacklevel=4)
    if len(others):
        served = "are skipped" if fallback == "skip" else "get popular items"
        warnings.warn(f"Users without a known item {served}: {listed(others)}.", stacklevel=4)


def _seen_with(recommender: "Recommender", pairs: Tensor, users: pl.Series) -> SeenItems:
    """Return the known items of ``users``, together with those of ``pairs`` (place of the user among these, item)."""
    position = torch.from_numpy(recommender.users.find(users))
    known = (position >= 0).nonzero().view(-1)
    row, item = (x.cpu() for x in recommender.seen.pairs(position[known].to(recommender.device)))
    both = torch.cat([pairs, torch.stack([known[row], item])], dim=1)
    return SeenItems.of(both.to(recommender.device), len(position))


def _table(recommender: "Recommender", users: pl.Series, block: TopK, columns: list[str]) -> pl.DataFrame:
    """Return one row per user and rank."""
    k, item = block.item.size(1), block.item.flatten().cpu().numpy()
    frame = pl.DataFrame(
        {
            "user": users.gather(np.repeat(np.arange(len(users)), k)),
            "item": recommender.items.ids.gather(item),
            "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), len(users)),
            "score": block.score.flatten().float().cpu().numpy(),
        }
    )
    if columns:  # by position, since a search by ID takes as long as the ranking for one user
        frame = frame.hstack(recommender.catalog_rows.select(columns)[item])
    return frame if (kept := frame["score"] > -np.inf).all() else frame.filter(kept)
