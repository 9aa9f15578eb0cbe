import torch
from small_graph import interactions, prepared, small_graph

from lirdrec_pyg.config import PopularityConfig


def test_items_rank_by_their_interactions_for_everybody() -> None:
    graph = small_graph()
    model, data = prepared(PopularityConfig(), graph)
    model.fit(data)
    vectors = model.vectors(data)
    count = interactions(graph).sum(dim=0)
    assert torch.equal(vectors.user @ vectors.item.t(), count.float().expand(len(vectors.user), -1))
    (block,) = model.ranker(data).top_k(torch.tensor([8, 0]), 3)
    assert torch.equal(block.score[0], count.sort(descending=True).values[:3].float())
    assert torch.equal(block.score[0], block.score[1])


def test_a_saved_model_is_the_fitted_one() -> None:
    model, data = prepared(PopularityConfig(), small_graph())
    other, _ = prepared(PopularityConfig(), small_graph())
    model.fit(data)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.count, other.count)
