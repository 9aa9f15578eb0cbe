"""Trainings that take less than a second."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch_geometric.data import HeteroData
from torch_geometric.typing import WITH_TORCH_SPARSE

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig
from lirdrec_pyg.training import Trainer, TrainingConfig, input_transform

MODEL = LIRDRecConfig(embedding_dim=8, knn_k=4)
BATCH = 100

needs_torch_sparse = pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")

# Settings that change how a training draws and steps; each is covered once.
KINDS: list[Any] = [
    {},
    {"edge_dropout": 0.3, "popularity_alpha": 0.75, "ema": 0.9},
    {"model": replace(MODEL, loss="softmax", fusion="mean", feature_dim=4), "ema": 0.9, "edge_dropout": 0.2},
    {"negatives": 3, "precision": "bf16-mixed", "weight_decay": 1e-4},
    pytest.param({"sampling": "neighbors", "fanout": "3,2", "negatives": 2}, marks=needs_torch_sparse),
    pytest.param({"sampling": "neighbors", "user_gradients": "sparse"}, marks=needs_torch_sparse),
]


def small_graph() -> HeteroData:
    return LIRDRec.graph_transform(MODEL)(synthetic_data(num_users=60, num_items=40).graph)


def make_trainer(
    graph: HeteroData, fabric: Fabric | None = None, model: LIRDRecConfig = MODEL, **settings: Any
) -> Trainer:
    config = TrainingConfig(**{"epochs": 3, "batch_size": BATCH, "lr": 0.01, "device": "cpu", "seed": 1, **settings})
    torch.manual_seed(config.seed)
    data = input_transform(model, config)(graph)
    made = LIRDRec.from_config(model, data)
    made.prepare(data)
    return Trainer(made, data, config, fabric)


class Stop(Callback):
    """Notes all steps, and stops after one of them."""

    def __init__(self, after: tuple[int, int] | None = None) -> None:
        self.steps: list[tuple[int, int]] = []
        self.after = after

    def on_step_end(self, epoch: int, step: int) -> None:
        self.steps.append((epoch, step))

    def should_stop(self) -> bool:
        return self.steps[-1:] == [self.after]
