"""On data with a known truth, every peer learns it better than a ranking by popularity."""

import copy
from collections.abc import Iterator

import pytest
import torch
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import MODEL_CONFIGS, LIRDRecConfig, PopularityConfig, TrainingConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import model_class
from lirdrec_pyg.nn import Ranker
from lirdrec_pyg.training import Trainer


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps are so small that threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def graph() -> HeteroData:
    return synthetic_data(num_users=400, num_items=200).graph


def ranker(name: str, graph: HeteroData) -> tuple[Ranker, HeteroData]:
    kind = MODEL_CONFIGS[name]
    config = kind(**({"embedding_dim": 16} if "embedding_dim" in kind.__dataclass_fields__ else {}))
    model_kind = model_class(config)
    seed_everything(0, verbose=False)
    data = model_kind.input_transform(config)(model_kind.graph_transform(config)(copy.copy(graph)))
    model = model_kind.from_config(config, data)
    if config.closed_form:
        model.fit(data)
    else:
        settings = {**config.training, "lr": 0.01, "batch_size": 256, "epochs": 12, "device": "cpu"}
        model.load_state_dict(Trainer(model, data, TrainingConfig(**settings)).fit().best_state)
    return model.ranker(data), data


def recall(name: str, graph: HeteroData) -> float:
    found, data = ranker(name, graph)
    return evaluate_ranker(found, RankingTask.from_graph(data, "val"))["recall@20"]


@pytest.mark.parametrize("name", sorted(MODEL_CONFIGS.keys() - {PopularityConfig.model, LIRDRecConfig.model}))
def test_every_peer_is_better_than_popularity(name: str, graph: HeteroData) -> None:
    assert recall(name, graph) > 1.5 * recall(PopularityConfig.model, graph)
