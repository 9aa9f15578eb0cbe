"""Rules of recommendations: which items may be recommended, and how the best of them are chosen."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.config import Config, field
from lirdrec_pyg.data import modalities
from lirdrec_pyg.errors import ConfigError, DataError, listed, shown
from lirdrec_pyg.nn import DotProducts, Ranker, Scores
from lirdrec_pyg.recommender.columns import catalog_for, numbered
from lirdrec_pyg.recommender.cosines import feature_rows
from lirdrec_pyg.recommender.ids import IDs, as_ids, check_count
from lirdrec_pyg.recommender.rerankers import AtMost, Diverse, DiversityMethod, Unpenalized, penalized, pyversity

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender


@dataclass(frozen=True)
class Rules(Config):
    """Which items may be recommended, and how the best of them are chosen.

    The result is exact: among the items that a user may get, by ``where`` and by the lists of candidates and excluded
    items, the best ones that ``max_per`` allows. With limits on several columns, these are found one after the other,
    as :class:`~lirdrec_pyg.recommender.rerankers.AtMost` describes. "Best" is by the score, or with a
    ``popularity_penalty`` by :func:`~lirdrec_pyg.recommender.rerankers.penalized`. With ``diversity``, the same rules
    give the ``max(100, 5 k)`` items that pyversity chooses from, by scores that are scaled to [0, 1] for each user.

    Whatever the rules, ``rank`` is the order of the result, and ``score`` is the score of the model.
    """

    where: str | None = field(
        None,
        "Recommend only items whose row in the item catalog meets a condition in SQL, such as "
        "\"stock > 0 AND category <> 'Socks'\".",
    )
    max_per: dict[str, int] = field(
        {},
        "COLUMN=NUMBER: at most so many items of a user with one value in this column of the item catalog, such as "
        "category=3. Repeat it for several columns. Items without a value are not limited.",
    )
    popularity_penalty: float = field(
        0.0,
        "Rank popular items lower: log(1 + interactions) of an item, standardized, in units of the standard deviation "
        "of a user's scores, times this number, is subtracted for the ranking.",
        min=0,
    )
    diversity: float = field(
        0.0,
        "Re-rank for variety by the extra 'rerank', from 0 (relevance only) to 1 (variety only): choose from the best "
        "5 k items, at least 100.",
        min=0,
        max=1,
    )
    diversity_method: DiversityMethod = field("dpp", "How --diversity chooses: a strategy of pyversity.")
    diversity_by: str = field(
        "vectors",
        "What --diversity compares items by: 'vectors' for the learned representations, or a modality, such as image, "
        "for its raw features.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for count in self.max_per.values():
            check_count("max_per", count)
        for name in ("diversity_method", "diversity_by"):
            if not self.diversity and getattr(self, name) != getattr(Rules, name):
                raise ConfigError(f"`{name}` has no effect without `diversity`. Pass `diversity`, such as 0.3.")


def allowed_items(
    recommender: "Recommender", rules: Rules, candidates: IDs | None, exclude: IDs | None
) -> Tensor | None:
    """Return the positions of the items that may be recommended, in ascending order; ``None`` for all.

    Raises:
        DataError: if ``candidates`` holds no known item, or no item is left.
        ConfigError: if ``where`` is invalid or matches no item.
    """
    if candidates is None and exclude is None and rules.where is None:
        return None
    items = recommender.items
    allowed = torch.ones(len(items), dtype=torch.bool)
    if candidates is not None:
        ids = as_ids(candidates, "candidate")
        if not len(ids):
            raise DataError("The list of candidates is empty.")
        position = items.find(ids)
        if len(unknown := ids.filter(pl.Series(position < 0))):
            text = f"{len(unknown)} of {len(ids)} candidates are unknown ({listed(unknown)})."
            if len(unknown) == len(ids):
                raise DataError(f"{text} {items.hint(unknown)}")
            warnings.warn(f"{text} They are skipped. {items.hint(unknown)}", stacklevel=4)
        allowed[:] = False
        allowed[position[position >= 0]] = True
    if exclude is not None:
        ids = as_ids(exclude, "excluded item")
        position = items.find(ids)
        if len(unknown := ids.filter(pl.Series(position < 0))):
            text = f"{len(unknown)} of {len(ids)} excluded items are unknown ({listed(unknown)})."
            warnings.warn(f"{text} {items.hint(unknown)}", stacklevel=4)
        allowed[position[position >= 0]] = False
    if rules.where is not None:
        position = items.find(catalog_for(recommender, "where").matching(rules.where))
        matching = torch.zeros_like(allowed)
        matching[position[position >= 0]] = True
        if not matching.any():
            raise ConfigError(f"No item that the model knows meets `where`, {shown(rules.where)}. Relax the condition.")
        allowed &= matching
    if not allowed.any():
        raise DataError("No item is left to recommend: `candidates`, `exclude` and `where` together leave out all.")
    return allowed.nonzero().view(-1).to(recommender.device)


def ruled(recommender: "Recommender", ranker: DotProducts | Scores, rules: Rules) -> Ranker:
    """Return a ranker of all users or of some, such as ``recommender.ranker``, that obeys the rules.

    Raises:
        ConfigError: if a column or modality is unknown, or a package is missing.
    """
    penalty = rules.popularity_penalty
    by_score = penalized(ranker, recommender.relative_popularity, penalty) if penalty else ranker
    found: Ranker = by_score
    if rules.max_per:
        values = numbered(recommender, [*rules.max_per], "max_per").to(recommender.device)
        found = AtMost(by_score, values, [*rules.max_per.values()])
    if rules.diversity:
        diversify = pyversity(rules.diversity_method, rules.diversity)
        found = Diverse(found, _features(recommender, rules.diversity_by), diversify)
    return Unpenalized(found, ranker) if penalty else found


def _features(recommender: "Recommender", by: str) -> Callable[[Tensor], Tensor]:
    """Return a function from items to the vectors that they are compared by."""
    names = [*(["vectors"] if recommender.compares_items else []), *modalities(recommender.graph)]
    if by not in names:
        none = (
            f", but `model='{recommender.model_config.model}'` has none that compare items" if by == "vectors" else ""
        )
        raise ConfigError(f"`diversity_by` is {shown(by)}{none}. Choose one of {', '.join(names)}.")
    if by == "vectors":
        return lambda items: recommender.vectors.learned_item[items]
    return lambda items: feature_rows(recommender.graph, by, items)[0]  # the mean where they are missing
