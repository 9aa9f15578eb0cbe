"""On data with a known truth, a right model comes close to it, and a wrong one does not."""

import pytest
import torch
from lightning_fabric import seed_everything
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.data import INTERACTS, held_out_edges
from lirdrec_pyg.datasets import synthetic_data, true_scores
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig
from lirdrec_pyg.training import Trainer, TrainingConfig

pytestmark = pytest.mark.slow

NUM_USERS, NUM_ITEMS = 200, 150


def graph_with(shuffled_features: bool) -> HeteroData:
    graph = synthetic_data(num_users=NUM_USERS, num_items=NUM_ITEMS).graph
    if shuffled_features:
        order = torch.randperm(NUM_ITEMS, generator=torch.Generator().manual_seed(1))
        for key in ("x_image", "x_text"):
            graph["item"][key] = graph["item"][key][order]
    return graph


def trained(graph: HeteroData) -> tuple[Trainer, Tensor, Tensor]:
    seed_everything(0, verbose=False)
    config = LIRDRecConfig(embedding_dim=16)
    data = LIRDRec.input_transform(config)(LIRDRec.graph_transform(config)(graph))
    model = LIRDRec.from_config(config, data)
    trainer = Trainer(model, data, TrainingConfig(lr=0.01, batch_size=128, epochs=6, device="cpu"))
    model.load_state_dict(trainer.fit().best_state)
    model.eval()
    with torch.no_grad():
        return trainer, *model(data)


def rank_of_cold_items(graph: HeteroData, user: Tensor, item: Tensor) -> float:
    """Return the mean percentile, among cold items alone, of the cold items that users chose; 0.5 is chance."""
    cold = (degree(graph[INTERACTS].edge_index[1], len(item)) == 0).nonzero().view(-1)
    taken = torch.zeros(len(user), len(item), dtype=torch.bool)
    taken[tuple(held_out_edges(graph, "test"))] = True
    percentile = (user @ item[cold].t()).argsort(dim=1).argsort(dim=1) / (len(cold) - 1)
    return float(percentile[taken[:, cold]].mean())


@pytest.fixture(scope="module")
def right() -> tuple[HeteroData, Trainer, Tensor, Tensor]:
    graph = graph_with(shuffled_features=False)
    return graph, *trained(graph)


def test_right_model_comes_close_to_the_truth(right: tuple[HeteroData, Trainer, Tensor, Tensor]) -> None:
    graph, trainer, _, _ = right
    task = RankingTask.from_graph(graph, "valid")
    truth = true_scores(graph, torch.arange(NUM_USERS))
    best_possible = evaluate_ranking(truth, torch.eye(NUM_ITEMS), task)["recall@20"]
    popularity = degree(graph[INTERACTS].edge_index[1], NUM_ITEMS).unsqueeze(1)
    by_popularity = evaluate_ranking(torch.ones(NUM_USERS, 1), popularity, task)["recall@20"]
    reached = trainer.evaluate(task)["recall@20"]
    assert reached > 0.65 * best_possible
    assert reached > 3 * by_popularity


def test_only_right_features_rank_cold_items(
    right: tuple[HeteroData, Trainer, Tensor, Tensor],
) -> None:
    graph, _, user, item = right
    assert rank_of_cold_items(graph, user, item) > 0.75
    wrong = graph_with(shuffled_features=True)
    _, user, item = trained(wrong)
    assert rank_of_cold_items(wrong, user, item) < 0.62
