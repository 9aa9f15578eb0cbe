"""The run of a model that is computed at once, without training steps."""

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import INTERACTS, REPORTED_SPLITS, RecommendationData
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import model_class
from lirdrec_pyg.training.run import Configs, Run
from lirdrec_pyg.training.trainer import MONITOR


def compute(
    data: RecommendationData, graph: HeteroData, out: Path, configs: Configs, overwrite: bool = False
) -> dict[str, Any]:
    """Computes the model of ``configs`` on ``data`` and writes the run folder ``out``.

    Args:
        data: graph and IDs.
        graph: that of ``data``, where to compute, as the model's ``graph_transform`` leaves it.
        out: run folder.
        configs: of the data, the model and the training.
        overwrite: replaces an earlier run in ``out``.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        LIRDRecError: of the kind that fits, in one sentence.
    """
    config = configs[1]
    kind = model_class(config)
    graph = kind.input_transform(config)(graph)
    model = kind.from_config(config, graph).to(graph[INTERACTS].edge_index.device)
    tasks = {name: RankingTask.from_graph(graph, split) for name, split in REPORTED_SPLITS.items()}
    start = time.perf_counter()
    model.fit(graph, progress=True)
    seconds = time.perf_counter() - start
    figures = {name: evaluate_ranker(model.ranker(graph), task) for name, task in tasks.items()}
    with Run.locked(out):
        run = Run.create(out, data, configs, overwrite)
        run.save_weights("model", model.state_dict())
        if (vectors := model.vectors(graph)) is not None:
            run.save_vectors(vectors, len(data.items))
        metrics = {
            "stopped": "computed at once",
            "monitor": MONITOR,
            "epochs": 0,
            "best_epoch": 0,
            "seconds": seconds,
            **figures,
            **peak_memory(),
            "parameters": 0,
            "data": data.facts,
        }
        run.seal()
        run.save_metrics(metrics)
    return metrics


def peak_memory() -> dict[str, float | None]:
    """Peak memory of the process so far, and of torch on a GPU, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
    }
