"""Lists of recommendations as the test split judges them, and which users and items are shown."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lirdrec_pyg.data import Split, held_out_interactions, training_interactions
from lirdrec_pyg.nn import SeenItems
from lirdrec_pyg.recommender import Recommender


def known_before_test(recommender: Recommender) -> SeenItems:
    """Return the items of each user for training and validation: all that is left out, so that those of the test split
    can be recommended."""
    graph = recommender.graph
    train = training_interactions(graph)
    known = torch.cat([train, held_out_interactions(graph, Split.VALID)], dim=1)
    return SeenItems.of(known.to(recommender.device), len(recommender.users))


def best_before_test(recommender: Recommender, users: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rank the best items for some users as before the test, and yield user, item and rank, which starts at 0."""
    users = users.to(recommender.device)
    for block in recommender.ranker.top_k(users, k, known_before_test(recommender)):
        row, rank = (block.score > -torch.inf).nonzero(as_tuple=True)
        yield users[block.rows][row], block.item[row, rank], rank


def spread(group: Tensor, number: int) -> list[int]:
    """Return ``number`` members of an ordered group from even places, without the extremes."""
    place = torch.linspace(0, len(group) - 1, number + 2)[1:-1].round().long().unique()
    return group[place].tolist() if len(group) else []
