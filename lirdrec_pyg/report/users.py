"""Users who differ: what they took, and what they are offered."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor
from torch_geometric.utils import scatter

from lirdrec_pyg.data import Split, held_out_interactions, training_interactions
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.report.gallery import Gallery, Item
from lirdrec_pyg.report.lists import best_before_test, spread
from lirdrec_pyg.report.section import Section

_PER_GROUP = 3
_SHOWN = 12


class Offer(NamedTuple):
    """A recommended item."""

    item: Item
    because: list[tuple[Item, float]]  # the user's items that contribute most to its score, and their shares
    is_hit: bool  # the user took it in the test split


class Person(NamedTuple):
    """A user with the recommendations of each run."""

    id: int | str
    num_taken: int  # training interactions
    popularity: float  # mean number of training interactions of these items
    taken: list[Item]  # some of them
    num_held_out: int  # interactions in the test split
    offers: list[list[Offer]]  # by run


def section(recommenders: Sequence[Recommender], gallery: Gallery) -> Section | None:
    """Show some users of the first run, and what each run recommends to them."""
    first = recommenders[0]
    count, popularity = first.history.start.diff().cpu(), _taste(first)
    groups = _groups(first, count, popularity)
    chosen = [user for users in groups.values() for user in users]
    if not chosen:
        return None
    ids = first.users.ids.gather(chosen)
    offers = [_offers(recommender, ids, gallery) for recommender in recommenders]
    num_held_out = held_out_interactions(first.graph, Split.TEST)[0].bincount(minlength=len(first.users))
    people = {
        user: Person(
            ids[n],
            int(count[user]),
            float(popularity[user]),
            _taken(first, user, gallery),
            int(num_held_out[user]),
            [of_run[ids[n]] for of_run in offers],
        )
        for n, user in enumerate(chosen)
    }
    content = {
        "groups": {name: [people[user] for user in users] for name, users in groups.items()},
        "explained": [recommender.model_config.supports_explanations for recommender in recommenders],
        "tested": bool(num_held_out.any()),
    }
    return Section("users", "People and their recommendations", "users.html", content)


def _taste(recommender: Recommender) -> Tensor:
    """Return the mean popularity of the training items of each user, shape ``(|U|,)``."""
    user, item = training_interactions(recommender.graph)
    return scatter(recommender.popularity[item].double(), user, dim_size=len(recommender.users), reduce="mean")


def _groups(recommender: Recommender, count: Tensor, popularity: Tensor) -> dict[str, list[int]]:
    """Choose users from the third with the least and that with the most interactions, and of both from the third whose
    items are the least and that whose items are the most popular; if there is a test split, users of it only."""
    eligible = count > 0
    if (tested := held_out_interactions(recommender.graph, Split.TEST)[0]).numel():
        eligible &= torch.zeros_like(eligible).index_fill(0, tested, True)
    users = eligible.nonzero().view(-1)
    light, _, heavy = users[count[users].argsort(stable=True)].tensor_split(3)
    groups: dict[str, Tensor] = {}
    for activity, part in (("light", light), ("heavy", heavy)):
        niche, _, mainstream = part[popularity[part].argsort(stable=True)].tensor_split(3)
        groups |= {f"{activity}, niche": niche, f"{activity}, mainstream": mainstream}
    return {name: spread(group, _PER_GROUP) for name, group in groups.items()}


def _taken(recommender: Recommender, user: int, gallery: Gallery) -> list[Item]:
    """Return a random sample of the training items of a user."""
    _, item = (x.cpu() for x in recommender.history.pairs(torch.tensor([user], device=recommender.device)))
    sample = torch.randperm(len(item), generator=torch.Generator().manual_seed(user))[:_SHOWN]
    return gallery.items(recommender.items.ids.gather(item[sample].numpy()))


def _offers(recommender: Recommender, users: pl.Series, gallery: Gallery) -> dict[int | str, list[Offer]]:
    """Return the best items for each user, those of the test split among them."""
    blocks = best_before_test(recommender, recommender.user_positions(users), _SHOWN)
    pairs = torch.cat([torch.stack([user, item]) for user, item, _ in blocks], dim=1).cpu()
    test = held_out_interactions(recommender.graph, Split.TEST)
    num_items = len(recommender.items)
    is_hit = torch.isin(pairs[0] * num_items + pairs[1], test[0] * num_items + test[1])
    frame = pl.DataFrame(
        {
            "user": recommender.users.ids.gather(pairs[0].numpy()),
            "item": recommender.items.ids.gather(pairs[1].numpy()),
            "hit": is_hit.numpy(),
        }
    )
    found: dict[int | str, list[Offer]] = {user: [] for user in users}
    for user, *offer in zip(
        frame["user"], gallery.items(frame["item"]), _reasons(recommender, frame, gallery), frame["hit"]
    ):
        found[user].append(Offer(*offer))
    return found


def _reasons(recommender: Recommender, frame: pl.DataFrame, gallery: Gallery) -> list[list[tuple[Item, float]]]:
    """Return for each row the items that contribute most, and their shares; none if the model does not say."""
    reasons: list[list[tuple[Item, float]]] = [[] for _ in range(len(frame))]
    if recommender.model_config.supports_explanations:
        explained = recommender.because(frame).with_row_index("row")
        for item, share in (("because_1", "because_1_share"), ("because_2", "because_2_share")):
            given = explained.drop_nulls(item)
            for row, reason in zip(given["row"], zip(gallery.items(given[item]), given[share])):
                reasons[row].append(reason)
    return reasons
