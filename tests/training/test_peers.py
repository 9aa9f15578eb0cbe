"""On data with a known truth, every peer learns it better than a ranking by popularity."""

import copy

import pytest
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg import LIRDRecConfig, PopularityConfig, Trainer, TrainingConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import MODEL_CONFIGS, model_class


@pytest.fixture(scope="module")
def graph() -> HeteroData:
    return synthetic_data(num_users=200, num_items=150).graph


def recall(name: str, graph: HeteroData) -> float:
    kind = MODEL_CONFIGS[name]
    config = kind(**({"embedding_dim": 16} if "embedding_dim" in kind.__dataclass_fields__ else {}))
    model_kind = model_class(config)
    seed_everything(0, verbose=False)
    data = model_kind.input_transform(config)(model_kind.graph_transform(config)(copy.copy(graph)))
    model = model_kind.from_config(config, data)
    if config.is_closed_form:
        model.fit(data)
    else:
        settings = {**config.training_defaults, "lr": 0.05, "batch_size": 256, "epochs": 8, "device": "cpu"}
        model.load_state_dict(Trainer(model, data, TrainingConfig(**settings)).fit().best_state)
    return evaluate_ranker(model.ranker(data), RankingTask.from_graph(data, "valid"))["recall@20"]


@pytest.mark.slow
def test_every_peer_is_better_than_popularity(graph: HeteroData) -> None:
    popularity = recall(PopularityConfig.model, graph)
    for name in sorted(MODEL_CONFIGS.keys() - {PopularityConfig.model, LIRDRecConfig.model}):
        assert recall(name, graph) > 1.5 * popularity, name
