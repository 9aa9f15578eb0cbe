"""Scores of all pairs, and what is known of each user, by IDs."""

import numpy as np

from lirdrec_pyg.data import HELD_OUT, INTERACTS
from lirdrec_pyg.recommender import Recommender

Scores = dict[int | str, dict[int | str, float]]


def items_by_user(recommender: Recommender, *edges: str) -> dict[int | str, list[int | str]]:
    """Return the items of each user in some of the splits, by the names of their edges."""
    users, items = recommender.users.ids.to_list(), recommender.items.ids.to_list()
    found: dict[int | str, list[int | str]] = {user: [] for user in users}
    for name in edges:
        for user, item in recommender.graph[INTERACTS][name].t().tolist():
            found[users[user]].append(items[item])
    return found


def trained_by_user(recommender: Recommender) -> dict[int | str, list[int | str]]:
    """Return the training items of each user."""
    return items_by_user(recommender, "edge_index")


def seen_by_user(recommender: Recommender) -> dict[int | str, list[int | str]]:
    """Return all known items of each user: training, validation and test."""
    return items_by_user(recommender, "edge_index", *(split.edge_label_key for split in HELD_OUT))


def all_scores(recommender: Recommender, exclude_seen: bool, only: list | None = None) -> Scores:
    """Return the scores of the items that each user with training interactions may get."""
    u, v = (x.astype(np.float64) for x in (recommender.user_vectors(), recommender.item_vectors()))
    seen, items = seen_by_user(recommender), recommender.items.ids.to_list()
    trained = trained_by_user(recommender)
    kept = [n for n, item in enumerate(items) if only is None or item in only]
    return {
        user: {items[n]: float(row[n]) for n in kept if not (exclude_seen and items[n] in seen[user])}
        for user, row in zip(recommender.users.ids.to_list(), u @ v.T, strict=True)
        if trained[user]
    }
