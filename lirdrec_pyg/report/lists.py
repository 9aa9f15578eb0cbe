"""Lists of recommendations as the test split judges them, and which users and items are shown."""

import torch
from torch import Tensor

from lirdrec_pyg.data import Split, held_out_edges, new_item_edges
from lirdrec_pyg.nn import SeenItems
from lirdrec_pyg.recommender import Recommender


def held_out(recommender: Recommender, split: Split) -> Tensor:
    """Return the interactions (user, item) that were held out, shape ``(2, num_pairs)``; new items follow the others.

    :func:`~lirdrec_pyg.data.known_interactions` numbers the items alike.
    """
    graph = recommender.graph
    pairs, new = held_out_edges(graph, split), new_item_edges(graph, split)
    if new is None:
        return pairs
    return torch.cat([pairs, torch.stack([new[0], new[1] + recommender.num_trained_items])], dim=1)


def known_before_test(recommender: Recommender) -> SeenItems:
    """Return the items of each user for training and validation: all that is left out, so that those of the test split
    can be recommended."""
    history = recommender.history
    row, item = history.pairs(torch.arange(len(recommender.users), device=recommender.device))
    pairs = torch.cat([torch.stack([row, item]), held_out(recommender, Split.VALID).to(row.device)], dim=1)
    return SeenItems.of(pairs, len(recommender.users))


def spread(group: Tensor, number: int) -> list[int]:
    """Return ``number`` members of an ordered group from even places, without the extremes."""
    place = torch.linspace(0, len(group) - 1, number + 2)[1:-1].round().long().unique()
    members: list[int] = group[place].tolist() if len(group) else []
    return members
