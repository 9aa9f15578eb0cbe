import copy
import gc
import logging
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch_geometric.data import HeteroData

from lirdrec_pyg.callback import Callback, CallbackList
from lirdrec_pyg.data import (
    INTERACTS,
    DataConfig,
    Dataset,
    Split,
    has_new_items,
    held_out_edges,
    known_interactions,
)
from lirdrec_pyg.data.graph import set_interactions
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import evaluate_splits
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.models import LIRDRecConfig, ModelConfig, Vectors, model_class
from lirdrec_pyg.recommender.race import race
from lirdrec_pyg.recommender.recommender import Recommender
from lirdrec_pyg.recommender.run import Run
from lirdrec_pyg.recommender.sharded import fit_sharded, train_sharded
from lirdrec_pyg.recommender.train import (
    finished,
    peak_memory,
    prepared,
    ranking_tasks,
    restored_trainer,
    trained,
    transformed_graph,
    with_item_graphs,
)
from lirdrec_pyg.training import (
    MONITOR,
    Checkpoint,
    TrainingConfig,
    check_settings,
    make_fabric,
    preset,
)
from lirdrec_pyg.training.distributed import leave

_log = logging.getLogger(__name__)


def fit(
    data: Dataset | DataConfig | str | Path,
    model_config: ModelConfig | None = None,
    training_config: TrainingConfig | None = None,
    out: str | Path | None = None,
    *,
    callbacks: Iterable[Callback] = (),
    overwrite: bool = False,
) -> Recommender:
    """Train a model, evaluate it on the test split, and return it ready to recommend.

    Everything that can be checked is checked before the data are read and any work starts. Without a validation split,
    the training takes exactly ``training_config.epochs`` epochs.

    With ``training_config.refit``, a second training from scratch follows, on all interactions, for as many epochs as
    the best one of the first: as many passes over the data, in more steps in proportion to the interactions. The
    metrics are those of the first training, and all else is that of the second.

    Args:
        data: the data, or what :meth:`Dataset.from_path` reads.
        model_config: hyperparameters, whose class says which model; by default those of LIRDRec.
        training_config: settings of the training; a model in closed form uses the device and ``refit`` only. By default
            those of the paper, or of the model's own paper. Without either configuration, they are those of
            :func:`lirdrec_pyg.preset`.
        out: run folder to write, from which an interrupted training can be resumed; by default nothing is written.
        callbacks: follow the training, and may stop it.
        overwrite: whether to replace an earlier run in ``out``.

    Returns:
        The recommender. Of several processes, each returns one, but only the first writes.

    Raises:
        LIRDRecError: naming the problem and the fix.
    """
    for name, config, kind in (
        ("model_config", model_config, ModelConfig),
        ("training_config", training_config, TrainingConfig),
    ):
        if not isinstance(config, (kind, type(None))):
            raise ConfigError(f"`{name}` is of type {type(config).__name__}. Pass a {kind.__name__}, or nothing.")
    if model_config is None and training_config is None:
        model_config, training_config = preset("best")
    model_config = model_config or LIRDRecConfig()
    training_config = training_config or TrainingConfig(**model_config.training_defaults)
    out = None if out is None else Path(out)
    if out is not None and is_first_process():
        Run.check_free(out, overwrite)
    check_settings(model_config, training_config)
    callback = CallbackList(callbacks)
    if training_config.is_sharded:
        read = partial(_checked, data, model_config, training_config)
        fabric, recommender = fit_sharded(read, model_config, training_config, out, overwrite, callback)
    else:
        data = _checked(data, model_config, training_config)
        fabric = make_fabric(training_config)
        folder = out if fabric.is_global_zero else None
        recommender = _fit_on(fabric, data, model_config, training_config, folder, overwrite, callback)
    callback.on_fit_end(recommender)
    leave(fabric)
    return recommender


def _checked(
    data: Dataset | DataConfig | str | Path, model_config: ModelConfig, training_config: TrainingConfig
) -> Dataset:
    """Read the data if necessary, and check that these settings fit them."""
    if not isinstance(data, Dataset):
        if not isinstance(data, (DataConfig, str, Path)):
            raise ConfigError(
                f"`data` is a {type(data).__name__}. Pass a path, or a Dataset, such as `Dataset.from_frames` returns."
            )
        config = data if isinstance(data, DataConfig) else DataConfig(data=str(data))
        if config.split == "cold-items":
            model_config.require("new_items")
        data = Dataset.from_path(config, seed=training_config.seed)
        for name, fact in data.facts.items():
            _log.info("%s: %s", name, fact)
    elif has_new_items(data.graph):
        model_config.require("new_items")
    if training_config.refit:
        _check_refit(data.graph)
    elif not _validates(data.graph):
        if training_config.race:
            raise ConfigError(
                "`race=True` compares by validation, but no interactions are held out for it. Pass another `split`, or "
                "`race=False`."
            )
        if training_config.epochs == TrainingConfig.epochs and not model_config.is_closed_form:
            raise ConfigError(
                f"No interactions are held out for validation, so nothing would end the training before the default of "
                f"`epochs={training_config.epochs}`. Pass another number, such as the best epoch of a run with a "
                "validation split; or use such a split with `refit=True`, which finds the number."
            )
    return data


def _validates(graph: HeteroData) -> bool:
    """Return whether interactions are held out for validation."""
    return held_out_edges(graph, Split.VALID).numel() > 0


def _check_refit(graph: HeteroData) -> None:
    if has_new_items(graph):
        raise ConfigError(
            "`refit=True` cannot be combined with `split='cold-items'`, whose held-out items have no part in the "
            "training. Pass another `split`."
        )
    if not _validates(graph):
        raise ConfigError(
            "`refit=True` finds the number of epochs by validation, but no interactions are held out for it. Pass "
            "another `split`, or the number of `epochs` without `refit`."
        )


def _fit_on(
    fabric: Fabric,
    dataset: Dataset,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    folder: Path | None,
    overwrite: bool,
    callback: Callback,
) -> Recommender:
    if model_config.is_closed_form:
        graph = transformed_graph(dataset, model_config, training_config, fabric)
        recommender = _compute(dataset, graph, model_config, training_config)
        if training_config.refit:
            selection, dataset = recommender.metrics, replace(dataset, graph=_with_all_for_training(dataset.graph))
            recommender = _compute(dataset, _with_all_for_training(graph), model_config, training_config)
            recommender = _with_selection(recommender, selection)
        with _created(folder, dataset, model_config, training_config, overwrite) as run:
            return finished(run, recommender)
    record: dict[str, Any] = {}
    if training_config.race:
        winner, record["race"] = race(dataset, model_config, training_config, fabric, callback)
        model_config, trainer = winner.model_config, winner.trainer
        dataset, tasks = with_item_graphs(dataset, winner.graph), ranking_tasks(trainer.data, trainer.task)
        del winner
        gc.collect()  # a trainer refers to itself
    else:
        trainer, dataset, tasks = prepared(dataset, model_config, training_config, fabric)
    with _created(folder, dataset, model_config, trainer.config, overwrite) as run:
        recommender = trained(run, dataset, trainer, tasks, model_config, callback, record)
        del trainer, tasks  # the refit needs the memory
        return finished(run, _refit_if_wanted(run, recommender, fabric, callback))


def _created(folder: Path | None, *settings: Any) -> AbstractContextManager[Run | None]:
    return nullcontext() if folder is None else Run.created(folder, *settings)


def resume(
    path: str | Path, changes: Mapping[str, Any] | None = None, *, callbacks: Iterable[Callback] = ()
) -> Recommender:
    """Resume the training of a run as if it had never stopped.

    Everything needed is in the run folder. On the CPU, with the same number of threads, the weights are bit-identical
    to those of an uninterrupted training.

    Args:
        path: run folder.
        changes: settings of the training to change: ``epochs``, ``patience``, ``minutes``, ``lr``, ``device``,
            ``refit``.
        callbacks: follow the training, and may stop it.

    Returns:
        As :func:`fit`.

    Raises:
        LIRDRecError: naming the problem and the fix.
    """
    run = Run.open(path)
    with Run.locked(run.path) if is_first_process() else nullcontext():
        if run.is_sealed:  # damage would get new checksums at the end
            run.verify()
        training_config = replace(run.training_config(), **(changes or {}))
        model_config, dataset, selection = run.model_config(), run.dataset(), run.selection()
        record = {name: value for name, value in (run.metrics() or {}).items() if name == "race"}
        if selection is not None and (fixed := {"epochs", "patience", "minutes"} & {*(changes or {})}):
            raise ConfigError(
                f"The refit in {run.path} takes the {selection['best_epoch']} epochs that validation found, so "
                f"`{min(fixed)}` cannot be changed."
            )
        if training_config.refit and selection is None:
            _check_refit(dataset.graph)
        # A refit that was stopped before its first checkpoint starts from scratch.
        is_new = selection is not None and (_validates(dataset.graph) or not run.has_checkpoint)
        checkpoint = None if is_new else run.checkpoint()
        fabric = make_fabric(training_config)
        written = run if fabric.is_global_zero else None
        callback = CallbackList(callbacks)
        if training_config.is_sharded:
            if written is not None:
                written.reopen(dataset.config, model_config, training_config)
            recommender = train_sharded(run, fabric, model_config, training_config, callback, checkpoint)
        elif selection is None:
            trainer = restored_trainer(dataset, model_config, training_config, fabric, checkpoint)
            trainer.model.module.prepare(trainer.data)  # an update has the components of an earlier graph
            tasks = ranking_tasks(trainer.data, trainer.task)
            if written is not None:
                written.reopen(dataset.config, model_config, training_config)
            recommender = trained(written, dataset, trainer, tasks, model_config, callback, record)
            del trainer, tasks
            recommender = finished(written, _refit_if_wanted(written, recommender, fabric, callback))
        else:
            recommender = _refitted(
                written, dataset, model_config, training_config, selection, fabric, callback, checkpoint
            )
            recommender = finished(written, recommender)
        callback.on_fit_end(recommender)
    leave(fabric)
    return recommender


def _refit_if_wanted(run: Run | None, first: Recommender, fabric: Fabric, callback: Callback) -> Recommender:
    """Return the recommender of a refit, if the settings say so and the first training came to its end."""
    assert first.metrics is not None
    if not first.training_config.refit or first.metrics["stopped"] == "interrupted":
        return first
    gc.collect()  # a trainer refers to itself
    if run is not None:
        run.keep_selection(first.metrics)
    return _refitted(run, first.dataset, first.model_config, first.training_config, first.metrics, fabric, callback)


def _refitted(
    run: Run | None,
    dataset: Dataset,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    selection: Mapping[str, Any],
    fabric: Fabric,
    callback: Callback,
    checkpoint: Checkpoint | None = None,
) -> Recommender:
    """Train on all interactions, from scratch or from ``checkpoint``, for as many epochs as ``selection`` found."""
    dataset = replace(dataset, graph=_with_all_for_training(dataset.graph))
    config = replace(training_config, epochs=selection["best_epoch"], minutes=None)
    trainer = restored_trainer(dataset, model_config, config, fabric, checkpoint)
    if run is not None:
        run.reopen(dataset.config, model_config, training_config)
        if checkpoint is None:
            run.start_refit(dataset.graph)
    _log.info(
        "refit: from scratch on all %s interactions, for the %s epochs that validation found: as many passes over "
        "the data, in %s steps each instead of %s",
        f"{len(trainer.sampler):,}",
        config.epochs,
        trainer.steps_per_epoch,
        math.ceil(selection["interactions"] / config.triples_per_step(selection["interactions"])),
    )
    found = trained(run, dataset, trainer, {}, model_config, callback)
    return _with_selection(replace(found, training_config=training_config), selection)


def _with_all_for_training(data: HeteroData) -> HeteroData:
    """Return a copy of ``data`` in which the held-out interactions are for training, too."""
    none = data[INTERACTS].edge_index.new_empty(2, 0)
    return set_interactions(copy.copy(data), [known_interactions(data), none, none])


def _with_selection(refit: Recommender, selection: Mapping[str, Any] | None) -> Recommender:
    """Return ``refit`` with the metrics of the training before it, and its own as an account."""
    assert selection is not None
    assert refit.metrics is not None
    account = {name: refit.metrics[name] for name in ("interactions", "epochs", "stopped", "seconds")}
    return replace(refit, metrics={**selection, **peak_memory(), "refit": account})


def _compute(
    dataset: Dataset, graph: HeteroData, model_config: ModelConfig, training_config: TrainingConfig
) -> Recommender:
    """Compute a model in closed form."""
    kind = model_class(model_config)
    graph = kind.input_transform(model_config)(graph)
    model = kind.from_config(model_config, graph).to(graph[INTERACTS].edge_index.device)
    tasks = ranking_tasks(graph)
    start = time.perf_counter()
    model.fit(graph, progress=True)
    seconds = time.perf_counter() - start
    vectors = model.vectors(graph)
    ranker = model.ranker(graph)
    metrics = evaluate_splits(ranker, tasks, graph)
    if vectors is None:
        vectors = Vectors.of(torch.empty(len(dataset.users), 0), torch.empty(len(dataset.items), 0))
    return Recommender(
        dataset,
        model.cpu().eval(),
        model_config,
        training_config,
        vectors.to("cpu"),
        metrics={
            "stopped": "computed in closed form",
            "monitor": MONITOR,
            "epochs": 0,
            "best_epoch": 0,
            "interactions": graph[INTERACTS].edge_index.size(1),
            "seconds": seconds,
            **metrics,
            **peak_memory(),
            "parameters": 0,
            "data": dataset.facts,
        },
    )
