"""The steps that every training has in common, from the graph to the recommender."""

import copy
import logging
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric, seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.callback import Callback, CallbackList
from lirdrec_pyg.data import HELD_OUT, INTERACTED_BY, INTERACTS, Dataset, Split, has_new_items, held_out_edges
from lirdrec_pyg.evaluation import RankingTask, check_cold_start, evaluate_cold_start, evaluate_ranker, evaluate_splits
from lirdrec_pyg.models import ItemRegression, ModelConfig, attach_items, attach_unclicked, model_class, scale_new_items
from lirdrec_pyg.nn import DotProducts, Ranker
from lirdrec_pyg.recommender.recommender import Recommender
from lirdrec_pyg.recommender.run import Run
from lirdrec_pyg.training import (
    DEFAULT_BATCH,
    MAX_STEPS,
    MONITOR,
    Checkpoint,
    FitResult,
    Journal,
    Trainer,
    TrainingConfig,
    TrainingDivergedError,
    make_trainer,
)

_log = logging.getLogger(__name__)


def with_item_graphs(dataset: Dataset, source: HeteroData) -> Dataset:
    """Return ``dataset`` with the item graphs of ``source``, which may be on another device."""
    data = copy.copy(dataset.graph)
    for edge_type in set(source.edge_types) - {INTERACTS, INTERACTED_BY}:
        for key, value in source[edge_type].items():
            data[edge_type][key] = value.cpu()
    return replace(dataset, graph=data)


def _stored_graph(dataset: Dataset, training_config: TrainingConfig, fabric: Fabric) -> HeteroData:
    """Seed all random generators, and return a copy of the graph where it is trained."""
    seed_everything(training_config.seed, verbose=False)
    # A graph that is sampled from may be too large for a GPU.
    device = "cpu" if training_config.sampling == "neighbors" else fabric.device
    return copy.copy(dataset.graph).to(device)


def transformed_graph(
    dataset: Dataset, model_config: ModelConfig, training_config: TrainingConfig, fabric: Fabric
) -> HeteroData:
    """Seed all random generators, and return the graph with what the model needs, where it is trained."""
    transform = model_class(model_config).graph_transform(model_config, progress=True)
    return transform(_stored_graph(dataset, training_config, fabric))


def prepared(
    dataset: Dataset, model_config: ModelConfig, training_config: TrainingConfig, fabric: Fabric
) -> tuple[Trainer, Dataset, dict[str, RankingTask]]:
    """Return a trainer of a new model, the data with the item graphs, and what to evaluate in the end."""
    graph, trainer = new_trainer(dataset, model_config, training_config, fabric)
    return trainer, with_item_graphs(dataset, graph), ranking_tasks(trainer.data, trainer.task)


def new_trainer(
    dataset: Dataset, model_config: ModelConfig, training_config: TrainingConfig, fabric: Fabric
) -> tuple[HeteroData, Trainer]:
    """Return the graph with what a new model needs, and a trainer of this model."""
    graph = transformed_graph(dataset, model_config, training_config, fabric)
    return graph, make_trainer(graph, model_config, training_config, fabric)


def restored_trainer(
    dataset: Dataset,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    fabric: Fabric,
    checkpoint: Checkpoint | None,
) -> Trainer:
    """Return a trainer on data that have the item graphs, at ``checkpoint`` or at the start of the training."""
    trainer = make_trainer(_stored_graph(dataset, training_config, fabric), model_config, training_config, fabric)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer


def ranking_tasks(data: HeteroData, valid: RankingTask | None = None) -> dict[str, RankingTask]:
    """Return what to evaluate, before anything is written: this raises if no user can be evaluated."""
    if has_new_items(data):
        check_cold_start(data)
    known = {Split.VALID: valid}
    return {
        split.value: known.get(split) or RankingTask.from_graph(data, split)
        for split in HELD_OUT
        if held_out_edges(data, split).numel()
    }


def trained(
    run: Run | None,
    dataset: Dataset,
    trainer: Trainer,
    tasks: Mapping[str, RankingTask],
    model_config: ModelConfig,
    callback: Callback,
    record: Mapping[str, Any] = {},
) -> Recommender:
    """Train to the end, and write the progress into the run, but not the result; ``record`` joins the metrics."""
    result = fitted(trainer, None if run is None else Journal(run.path), callback)
    model = trainer.model.module
    completed = model_config
    if result.stopped != "interrupted":  # else the settings would stay when the training is resumed
        try:
            completed = model.complete(model_config, trainer.data, _measure(trainer, callback))
        except _InterruptedError:
            result.stopped = "interrupted"
    vectors = trainer.loader.vectors(model)
    model.to(vectors.user.device)
    ranker = DotProducts(vectors.user, vectors.item)
    metrics = evaluate_splits(ranker, tasks, trainer.data)
    regression = None
    if model_config.supports_new_items:
        regression = ItemRegression.of(model, trainer.data, vectors)
        if result.stopped != "interrupted":
            completed = scale_new_items(completed, model, trainer.data, vectors)
        if has_new_items(trainer.data):
            vectors = attach_items(model, trainer.data, vectors, regression)
            metrics["cold_start"] = {s.value: evaluate_cold_start(trainer.data, vectors, s) for s in HELD_OUT}
        if model_config.attaches_unclicked_items:
            vectors = attach_unclicked(model, trainer.data, vectors, regression)
    if run is not None and completed != model_config:
        run.reopen(dataset.config, completed, trainer.config)
    return Recommender(
        dataset,
        model.cpu().eval(),
        completed,
        trainer.config,
        vectors.to("cpu"),
        regression and ItemRegression(**{name: x.cpu() for name, x in vars(regression).items()}),
        {**account(trainer, dataset, metrics), **record},
    )


def fitted(trainer: Trainer, journal: Journal | None, callback: Callback) -> FitResult:
    """Train to the end, and give the model the weights of the best epoch."""
    if trainer.task is None and not trainer.config.refit:
        _log.info("no validation split: training for exactly %s epochs", trainer.config.epochs)
    is_large = trainer.config.sampling == "full" and len(trainer.sampler) > DEFAULT_BATCH * MAX_STEPS
    if is_large and trainer.steps_per_epoch > 2 * MAX_STEPS:
        _log.warning(
            "An epoch has %s steps, and each passes over all %s interactions. A larger `batch_size` or "
            "`sampling='neighbors'` makes it shorter.",
            f"{trainer.steps_per_epoch:,}",
            f"{len(trainer.sampler):,}",
        )
    elif is_large and trainer.config.batch_size is None:
        _log.info(
            "batch size: %s, in %s steps per epoch, since each passes over all %s interactions",
            f"{trainer.batch_size:,}",
            trainer.steps_per_epoch,
            f"{len(trainer.sampler):,}",
        )
    try:
        result = trainer.fit(CallbackList([callback] if journal is None else [journal, callback]))
    except TrainingDivergedError as error:
        if journal is not None:
            journal.save_diverged(error)
        raise
    if journal is not None:
        journal.close()
    trainer.model.module.load_state_dict(result.best_state)
    return result


def account(trainer: Trainer, dataset: Dataset, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``metrics`` with what happened in the training."""
    result = trainer.result
    return {
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "stopped": result.stopped,
        "monitor": MONITOR,
        "interactions": len(trainer.sampler),
        "seconds": result.seconds,
        "seconds_per_epoch": {
            "training": _mean([epoch.train_seconds for epoch in result.history]),
            "evaluation": _mean([epoch.eval_seconds for epoch in result.history]),
        },
        **metrics,
        **peak_memory(),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "data": dataset.facts,
    }


class _InterruptedError(Exception):
    """A callback asked to stop what follows the training."""


def _measure(trainer: Trainer, callback: Callback) -> Callable[[Ranker], float] | None:
    """Return the validation Recall@20 as a function of a ranking function, or ``None`` without a validation split.

    The function raises :class:`_InterruptedError` if ``callback`` asks to stop.
    """
    if (task := trainer.task) is None:
        return None

    def measure(ranker: Ranker) -> float:
        if trainer.any_stops(callback):
            raise _InterruptedError
        return evaluate_ranker(ranker, task)[MONITOR]

    return measure


def finished(run: Run | None, recommender: Recommender) -> Recommender:
    """Write the result into the run, if there is one, and return the recommender of its folder."""
    if run is None:
        return recommender
    run.finish(recommender)
    return replace(recommender, path=run.path)


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def peak_memory() -> dict[str, float | None]:
    """Return the peak memory of the process so far, and of torch on a GPU, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
    }
