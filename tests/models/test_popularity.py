import torch
from small_graph import fitted, interactions, small_graph

from lirdrec_pyg.models import PopularityConfig


def test_items_rank_by_their_interactions_for_every_user() -> None:
    model, data = fitted(PopularityConfig())
    vectors = model.vectors(data)
    count = interactions(small_graph()).sum(dim=0)
    assert torch.equal(vectors.user @ vectors.item.t(), count.float().expand(len(vectors.user), -1))
