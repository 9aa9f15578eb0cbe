import copy
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import RecommendationData, has_new_items
from lirdrec_pyg.data.graph import Split
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, check_cold_start, evaluate_cold_start, evaluate_ranking
from lirdrec_pyg.models import LIRDRec, Neighbourhood, Vectors, attach_items
from lirdrec_pyg.training.run import Run
from lirdrec_pyg.training.trainer import MONITOR, EpochResult, Trainer, resolve_device
from lirdrec_pyg.transforms import CacheAdjacency, check_search


@dataclass(frozen=True)
class Hooks:
    """What a caller wants to hear of a training.

    Attributes:
        on_start: called with the trainer before the first epoch.
        on_step: see :meth:`Trainer.fit`.
        on_epoch: see :meth:`Trainer.fit`.
        should_stop: see :meth:`Trainer.fit`.
    """

    on_start: Callable[[Trainer], None] = lambda trainer: None
    on_step: Callable[[int, int], None] = lambda epoch, step: None
    on_epoch: Callable[[EpochResult], None] = lambda result: None
    should_stop: Callable[[], bool] = lambda: False


def fit(
    data: RecommendationData,
    out: str | Path,
    data_config: DataConfig,
    model_config: LIRDRecConfig,
    training_config: TrainingConfig,
    hooks: Hooks | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains LIRDRec on ``data`` and writes the run folder ``out``.

    Everything that can be checked is checked before the folder is made.

    Args:
        data: graph and IDs.
        out: run folder, see :class:`~lirdrec_pyg.training.Run`.
        data_config: where ``data`` came from; written down in the run.
        model_config: of the model.
        training_config: of the training.
        hooks: for progress, and to stop early.
        overwrite: replaces an earlier run in ``out``.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        LIRDRecError: of the kind that fits, in one sentence.
    """
    hooks = hooks or Hooks()
    out = Path(out)
    check_before(out, data_config, model_config, training_config, overwrite)
    seed_everything(training_config.seed, verbose=False)
    place = resolve_device(training_config.device)
    graph = LIRDRec.graph_transform(model_config, progress=True)(copy.copy(data.graph).to(place))
    data = replace(data, graph=copy.copy(graph).to("cpu"))
    prepared = LIRDRec.input_transform(model_config, training_config.sparse_backend)(graph)
    model = LIRDRec.from_config(model_config, prepared)
    trainer = Trainer(model, prepared, training_config)
    tasks = {"valid": trainer.task, "test": RankingTask.from_graph(trainer.data, "test")}

    if has_new_items(graph):
        check_cold_start(trainer.data)
    run = Run.create(out, data, (data_config, model_config, training_config), overwrite)
    hooks.on_start(trainer)

    def on_epoch(result: EpochResult) -> None:
        run.append_history(result)
        state = model.state_dict()
        run.save_weights("last", state)
        if result.improved:
            run.save_weights("model", state)
        hooks.on_epoch(result)

    result = trainer.fit(hooks.on_step, on_epoch, hooks.should_stop)
    run.save_weights("last", model.state_dict())
    run.save_weights("model", result.best_state)
    model.load_state_dict(result.best_state)
    vectors = model.vectors(trainer.data)
    figures = {name: evaluate_ranking(vectors.user, vectors.item, task) for name, task in tasks.items()}
    if model_config.dct == "feature":
        neighbourhood = Neighbourhood.of(model, trainer.data, vectors)
        run.save_neighbourhood(neighbourhood)
        if has_new_items(graph):
            vectors = attach_items(model, trainer.data, vectors, neighbourhood, model_config.knn_k)
    run.save_vectors(vectors, len(data.items))
    metrics = {
        **_account(result.history, result.best_epoch, result.stopped),
        **figures,
        **_cold_start(trainer.data, vectors),
        "peak_memory_mib": _peak_memory_mib(),
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if place == "cuda" else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": data.facts,
    }
    run.seal()
    run.save_metrics(metrics)
    return metrics


def _cold_start(data: HeteroData, vectors: Vectors) -> dict[str, Any]:
    if not has_new_items(data):
        return {}
    splits: dict[str, Split] = {"valid": "val", "test": "test"}
    return {"cold_start": {name: evaluate_cold_start(data, vectors, split) for name, split in splits.items()}}


def _account(history: list[EpochResult], best_epoch: int, stopped: str) -> dict[str, Any]:
    return {
        "best_epoch": best_epoch,
        "epochs": len(history),
        "stopped": stopped,
        "monitor": MONITOR,
        "seconds_per_epoch": {
            "training": statistics.fmean(r.train_seconds for r in history) if history else None,
            "evaluation": statistics.fmean(r.eval_seconds for r in history) if history else None,
        },
    }


def check_before(
    out: Path, data_config: DataConfig, model_config: LIRDRecConfig, training_config: TrainingConfig, overwrite: bool
) -> None:
    """Raises what :func:`fit` would raise whatever the data are; changes nothing."""
    Run.check_free(out, overwrite)
    resolve_device(training_config.device)
    CacheAdjacency(training_config.sparse_backend)
    check_search(model_config.knn_search)
    if data_config.split == "cold-items" and model_config.dct == "2d":
        raise ConfigError(
            "--split cold-items can't go with --dct 2d, whose cosine transform ties every item to all others: "
            "take --dct feature."
        )


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
