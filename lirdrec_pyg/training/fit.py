import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric, seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, ModelConfig, TrainingConfig
from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, REPORTED_SPLITS, RecommendationData, has_new_items
from lirdrec_pyg.environment import is_first_process, num_processes
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, check_cold_start, evaluate_cold_start, evaluate_ranking
from lirdrec_pyg.models import Neighbourhood, Vectors, attach_items, model_class
from lirdrec_pyg.sampler import check_sampling
from lirdrec_pyg.training.checkpoint import Checkpoint, EpochResult
from lirdrec_pyg.training.closed_form import compute, peak_memory
from lirdrec_pyg.training.passes import input_transform
from lirdrec_pyg.training.processes import leave, make_fabric, resolve_device
from lirdrec_pyg.training.run import Configs, Run
from lirdrec_pyg.training.trainer import MONITOR, Trainer, TrainingDivergedError
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
    model_config: ModelConfig,
    training_config: TrainingConfig,
    hooks: Hooks | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains a model on ``data`` and writes the run folder ``out``.

    Everything that can be checked is checked before the folder is made.

    Args:
        data: graph and IDs.
        out: run folder, see :class:`~lirdrec_pyg.training.Run`.
        data_config: where ``data`` came from; written down in the run.
        model_config: of the model, whose class says which one it is.
        training_config: of the training; of a model that is computed at once, only the device counts.
        hooks: for progress, and to stop early.
        overwrite: replaces an earlier run in ``out``.

    Returns:
        What ``metrics.json`` holds; of several processes, all but the first leave the writing to it, and
        return an empty dictionary.

    Raises:
        LIRDRecError: of the kind that fits, in one sentence.
    """
    hooks = hooks or Hooks()
    out = Path(out)
    configs = data_config, model_config, training_config
    if is_first_process():
        check_before(out, *configs, overwrite)
    fabric = make_fabric(training_config)
    metrics = _fit_on(fabric, data, out, configs, hooks, overwrite)
    leave(fabric)
    return metrics


def _fit_on(
    fabric: Fabric,
    data: RecommendationData,
    out: Path,
    configs: Configs,
    hooks: Hooks,
    overwrite: bool,
) -> dict[str, Any]:
    _, model_config, training_config = configs
    seed_everything(training_config.seed, verbose=False)
    transform = model_class(model_config).graph_transform(model_config, progress=True)
    graph = transform(copy.copy(data.graph).to(_place(fabric, training_config)))
    if model_config.closed_form:
        return compute(data, graph, out, configs, overwrite) if fabric.is_global_zero else {}
    trainer = _trainer(graph, model_config, training_config, fabric)
    data = replace(data, graph=_with_item_graphs(data.graph, graph))
    tasks = _tasks(trainer)
    if not fabric.is_global_zero:
        return _train_along(trainer, hooks)
    with Run.locked(out):
        run = Run.create(out, data, configs, overwrite)
        return _train(run, data, trainer, tasks, model_config, hooks)


def resume(path: str | Path, changes: Mapping[str, Any] | None = None, hooks: Hooks | None = None) -> dict[str, Any]:
    """Goes on with the training of a run from where it stood last, as if it had never stopped.

    All that is needed is in the run folder. On the CPU, with as many threads, the weights come out the
    same to the last bit.

    Args:
        path: run folder.
        changes: settings of the training that are to hold from now on: ``epochs``, ``patience``, ``lr``, ``device``.
        hooks: for progress, and to stop early.

    Returns:
        As :func:`fit`.

    Raises:
        LIRDRecError: of the kind that fits, in one sentence.
    """
    hooks = hooks or Hooks()
    run = Run.open(path)
    with Run.locked(run.path) if is_first_process() else nullcontext():
        checkpoint = run.checkpoint()
        if run.is_sealed:  # what is damaged would be sealed anew at the end
            run.verify()
        training_config = replace(run.training_config(), **(changes or {}))
        fabric = make_fabric(training_config)
        metrics = _resume_on(fabric, run, checkpoint, training_config, hooks)
    leave(fabric)
    return metrics


def _resume_on(
    fabric: Fabric, run: Run, checkpoint: Checkpoint, training_config: TrainingConfig, hooks: Hooks
) -> dict[str, Any]:
    model_config = run.model_config()
    data = RecommendationData(run.graph(), run.users(), run.items(), run.facts(), run.new_items())
    seed_everything(training_config.seed, verbose=False)
    graph = copy.copy(data.graph).to(_place(fabric, training_config))
    trainer = _trainer(graph, model_config, training_config, fabric)
    trainer.restore(checkpoint)
    tasks = _tasks(trainer)
    if not fabric.is_global_zero:
        return _train_along(trainer, hooks)
    run.reopen((run.data_config(), model_config, training_config))
    return _train(run, data, trainer, tasks, model_config, hooks)


def _train_along(trainer: Trainer, hooks: Hooks) -> dict[str, Any]:
    """What all processes but the first do."""
    hooks.on_start(trainer)
    trainer.fit(should_stop=hooks.should_stop)
    return {}


def _with_item_graphs(data: HeteroData, source: HeteroData) -> HeteroData:
    """``data`` with the item graphs of ``source``, which may be on another device."""
    data = copy.copy(data)
    for edge_type in set(source.edge_types) - {INTERACTS, INTERACTED_BY}:
        for key, value in source[edge_type].items():
            data[edge_type][key] = value.cpu()
    return data


def _place(fabric: Fabric, training_config: TrainingConfig) -> torch.device:
    """Where the graph is: one that is sampled from may be too large for the device."""
    return torch.device("cpu") if training_config.sampling == "neighbors" else fabric.device


def _trainer(graph: HeteroData, model_config: ModelConfig, training_config: TrainingConfig, fabric: Fabric) -> Trainer:
    prepared = input_transform(model_config, training_config)(graph)
    model = model_class(model_config).from_config(model_config, prepared)
    return Trainer(model, prepared, training_config, fabric)


def _tasks(trainer: Trainer) -> dict[str, RankingTask]:
    """Asked for before anything is written: they say if nobody can be evaluated."""
    if has_new_items(trainer.data):
        check_cold_start(trainer.data)
    return {"valid": trainer.task, "test": RankingTask.from_graph(trainer.data, "test")}


class _Checkpoints:
    """Decides when the time has come for a checkpoint: at the end of an epoch, unless the last one is so
    recent that they would take more than a twentieth of all time, and within an epoch that takes long."""

    def __init__(self, run: Run, trainer: Trainer) -> None:
        self._run = run
        self._trainer = trainer
        self._last, self._cost = -math.inf, 0.0

    def save(self) -> None:
        start = time.monotonic()
        self._run.save_checkpoint(self._trainer.checkpoint())
        self._last = time.monotonic()
        self._cost = self._last - start

    def after_step(self) -> None:
        if time.monotonic() - self._last >= 60 * self._trainer.config.checkpoint_minutes:
            self.save()

    def after_epoch(self) -> None:
        if time.monotonic() - self._last >= 20 * self._cost:
            self.save()


def _train(
    run: Run,
    data: RecommendationData,
    trainer: Trainer,
    tasks: Mapping[str, RankingTask],
    model_config: ModelConfig,
    hooks: Hooks,
) -> dict[str, Any]:
    """Trains from where the trainer stands to the end, and writes all that the run holds of it."""
    model = trainer.model.module
    checkpoints = _Checkpoints(run, trainer)
    checkpoints.save()
    hooks.on_start(trainer)

    def on_step(epoch: int, step: int) -> None:
        checkpoints.after_step()
        hooks.on_step(epoch, step)

    def on_epoch(result: EpochResult) -> None:
        run.save_history(trainer.result.history)
        if result.improved:
            run.save_weights("model", model.state_dict())
        checkpoints.after_epoch()
        hooks.on_epoch(result)

    try:
        result = trainer.fit(on_step, on_epoch, hooks.should_stop)
    except TrainingDivergedError as error:
        error.args = (
            f"{error} The batch is in {run.save_diverged(error.triples)}, and what was learned before is kept: "
            f"lirdrec-pyg fit --resume {run.path} --lr {trainer.config.lr / 3:.1g} goes on from there.",
        )
        raise
    checkpoints.save()
    run.save_history(result.history)
    run.save_weights("model", result.best_state)
    model.load_state_dict(result.best_state)
    vectors = trainer.source.vectors(model)
    # Where the graph is, too, for what follows.
    model.to(vectors.user.device)
    figures = {name: evaluate_ranking(vectors.user, vectors.item, task) for name, task in tasks.items()}
    if isinstance(model_config, LIRDRecConfig) and model_config.is_inductive:
        neighbourhood = Neighbourhood.of(model, trainer.data, vectors)
        run.save_neighbourhood(neighbourhood)
        if has_new_items(trainer.data):
            vectors = attach_items(model, trainer.data, vectors, neighbourhood, model_config.knn_k)
    run.save_vectors(vectors, len(data.items))
    metrics = {
        **_account(result.history, result.best_epoch, result.stopped),
        **figures,
        **_cold_start(trainer.data, vectors),
        **peak_memory(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": data.facts,
    }
    run.seal()
    run.save_metrics(metrics)
    return metrics


def _cold_start(data: HeteroData, vectors: Vectors) -> dict[str, Any]:
    if not has_new_items(data):
        return {}
    figures = {name: evaluate_cold_start(data, vectors, split) for name, split in REPORTED_SPLITS.items()}
    return {"cold_start": figures}


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
    out: Path, data_config: DataConfig, model_config: ModelConfig, training_config: TrainingConfig, overwrite: bool
) -> None:
    """Raises what :func:`fit` would raise whatever the data are; changes nothing."""
    Run.check_free(out, overwrite)
    check_settings(model_config, training_config)
    if data_config.split == "cold-items":
        _check_inductive(model_config)


def check_settings(model_config: ModelConfig, training_config: TrainingConfig) -> None:
    """Raises :class:`~lirdrec_pyg.errors.ConfigError` if these can't go together, or not here."""
    resolve_device(training_config.device)
    CacheAdjacency(training_config.sparse_backend)
    check_search(getattr(model_config, "knn_search", "auto"))
    if training_config.negatives > 1 and not isinstance(model_config, LIRDRecConfig):
        raise ConfigError(
            f"--negatives {training_config.negatives} is for --model lirdrec: --model {model_config.model} is trained "
            "as its paper has it, with one negative of each triple or none."
        )
    _check_sampling(model_config, training_config)


def _check_inductive(config: ModelConfig) -> None:
    if not isinstance(config, LIRDRecConfig):
        raise ConfigError(
            f"--split cold-items can't go with --model {config.model}, which has no place for items that it never "
            "met: take --model lirdrec."
        )
    if config.dct == "2d":
        raise ConfigError(
            "--split cold-items can't go with --dct 2d, whose cosine transform ties every item to all others: "
            "take --dct feature."
        )
    if config.id_branch:
        raise ConfigError("--split cold-items can't go with --id-branch, in which a new item has no vector.")


def _check_sampling(model_config: ModelConfig, config: TrainingConfig) -> None:
    if config.sampling == "full":
        if config.user_gradients == "sparse":
            raise ConfigError("--user-gradients sparse goes with --sampling neighbors: a full pass touches every user.")
        return
    check_sampling()
    if not isinstance(model_config, LIRDRecConfig) or model_config.id_branch:
        raise ConfigError(
            "--sampling neighbors is for lirdrec without --id-branch: its items need no vectors of their own."
        )
    config.fanouts(model_config.num_layers)
    if config.edge_dropout:
        raise ConfigError(
            "--edge-dropout can't go with --sampling neighbors, which draws from all edges: leave it out."
        )
    if config.user_gradients == "sparse" and config.weight_decay:
        raise ConfigError("--weight-decay can't go with --user-gradients sparse: SparseAdam has none.")
    if config.user_gradients == "sparse" and num_processes() > 1:
        raise ConfigError("--user-gradients sparse works in one process only: take dense with several.")
