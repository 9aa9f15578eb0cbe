"""New items, and items without training interactions: how often they are offered, to whom, and what they are like."""

from typing import NamedTuple

import torch
from torch import Tensor

from lirdrec_pyg.data import Split, held_out_interactions
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.report.gallery import Gallery, Item
from lirdrec_pyg.report.items import similar
from lirdrec_pyg.report.lists import best_before_test
from lirdrec_pyg.report.section import Section

_K = 20
_SHOWN = 12
_NEIGHBORS = 3


class Kind(NamedTuple):
    """A kind of items, and its shares of all items, of all lists and of the test split if there is one."""

    name: str
    num_items: int
    num_offered: int  # to any user
    of_items: float
    of_lists: float
    of_test: float | None


class Landing(NamedTuple):
    """Where an item without interactions lands; without a meaningful rank and user if it is in no list."""

    item: Item
    num_lists: int
    rank: int  # the best in a list
    user: int | str  # who has it there
    like: list[Item]  # by the model


def section(recommender: Recommender, gallery: Gallery) -> Section | None:
    """Count items without training interactions in the lists of all users, and show those that are offered most."""
    popularity = recommender.popularity
    is_new = torch.arange(len(popularity)) >= recommender.num_trained_items
    unclicked = popularity == 0
    if not unclicked.any():
        return None
    num_lists, best = _offers(recommender)
    test = held_out_interactions(recommender.graph, Split.TEST)[1].bincount(minlength=len(popularity))
    kinds = {
        "with training interactions": ~unclicked,
        "without training interactions": unclicked & ~is_new,
        "new: the training did not see them": is_new,
    }
    table = [
        Kind(
            name,
            int(mask.sum()),
            int((num_lists[mask] > 0).sum()),
            float(mask.double().mean()),
            float(num_lists[mask].sum() / num_lists.sum()),
            float(test[mask].sum() / test.sum()) if test.any() else None,
        )
        for name, mask in kinds.items()
        if mask.any()
    ]
    order = num_lists.masked_fill(~unclicked, -1).argsort(descending=True, stable=True)
    ids, by_model, landings = recommender.items.ids, recommender.compares_items, []
    for position in order[: min(_SHOWN, int(unclicked.sum()))].tolist():
        rank, user = divmod(int(best[position]), len(recommender.users))
        found = similar(recommender, ids[position], _NEIGHBORS, "vectors", gallery) if by_model else ""
        like = [] if isinstance(found, str) else found
        item = gallery.items(ids[position : position + 1])[0]
        landings.append(Landing(item, int(num_lists[position]), rank + 1, recommender.users.ids[user], like))
    content = {"table": table, "landings": landings, "k": _K}
    return Section("unclicked-items", "Items that nobody has clicked", "unclicked.html", content)


def _offers(recommender: Recommender) -> tuple[Tensor, Tensor]:
    """Return for each item how many lists hold it, and its best place as ``rank * |U| + user``, rank from 0."""
    num_users, num_items = len(recommender.users), len(recommender.items)
    users = torch.from_numpy(recommender.has_history).nonzero().view(-1)
    num_lists = torch.zeros(num_items, dtype=torch.long, device=recommender.device)
    best = torch.full_like(num_lists, _K * num_users)
    for user, item, rank in best_before_test(recommender, users, _K):
        num_lists += item.bincount(minlength=num_items)
        best.scatter_reduce_(0, item, rank * num_users + user, "amin")
    return num_lists.cpu(), best.cpu()
