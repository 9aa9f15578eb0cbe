import copy
import json
import logging
import math
import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml
from filelock import FileLock
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.callback import Callback, CallbackList
from lirdrec_pyg.config import Config
from lirdrec_pyg.data import DataConfig, Dataset, Split, modalities
from lirdrec_pyg.devices import resolve_device
from lirdrec_pyg.errors import ConfigError, RunError, first_line
from lirdrec_pyg.evaluation import RankingTask
from lirdrec_pyg.experiments.search_space import Settings, Space
from lirdrec_pyg.files import write_file
from lirdrec_pyg.models import ModelConfig, model_class
from lirdrec_pyg.training import (
    MONITOR,
    EpochResult,
    TrainingConfig,
    TrainingDivergedError,
    make_fabric,
    make_trainer,
)
from lirdrec_pyg.transforms import CacheAdjacency, LoadFeatures, check_search

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

_log = logging.getLogger(__name__)

_STUDY, _TABLE, _BEST, _LOCK = "study.db", "trials.csv", "best.yaml", ".lock"
_STARTED = "started"
_HEARTBEAT_SECONDS, _GRACE_SECONDS = 10, 60
# Settings that may differ between the programs that work on a study.
_NOT_COMPARED = {"device", "checkpoint_minutes"}


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial.

    Attributes:
        number: number of the trial, from 0.
        state: ``"complete"``, ``"pruned"``, ``"failed"`` if the loss became infinite or NaN, or ``"interrupted"``.
        settings: settings that were tried.
        value: best validation Recall@20, ``None`` if no epoch was finished.
        best_epoch: epoch with this value.
        epochs: number of finished epochs.
        seconds: duration of the training.
    """

    number: int
    state: str
    settings: Settings
    value: float | None
    best_epoch: int
    epochs: int
    seconds: float

    def row(self) -> dict[str, Any]:
        """Return the trial as a row of ``trials.csv``."""
        row = {"trial": self.number, "state": self.state, **self.settings, f"valid_{MONITOR}": self.value}
        return {**row, "best_epoch": self.best_epoch, "epochs": self.epochs, "seconds": round(self.seconds, 2)}


class Study:
    """The trials in a folder, to which several programs may add at the same time.

    ``study.db`` is an Optuna study in SQLite; ``trials.csv`` and ``best.yaml`` are rewritten after each trial.
    ``best.yaml`` has at least the default number of epochs, since those of a search may be few. Trials that were
    interrupted, or whose program was killed and sends no heartbeat, do not count and are repeated.

    Args:
        path: folder, created if necessary.
        space: settings that differ between trials.
        model_config: model, in which the trials replace the settings of ``space``.
        training_config: its training, likewise; the seed also determines the order of trials.
        data_config: origin of the data, ``None`` for a graph.

    Raises:
        ConfigError: if optuna is not installed, or the folder has trials of other settings.
        RunError: if the folder cannot be used.
    """

    def __init__(
        self,
        path: Path,
        space: Space,
        model_config: ModelConfig,
        training_config: TrainingConfig,
        data_config: DataConfig | None = None,
    ) -> None:
        self._optuna = _import_optuna()
        self.path, self.space = path, space
        self.model_config, self.training_config = model_config, training_config
        self._configs = [config for config in (data_config, model_config, training_config) if config is not None]
        self._lock = FileLock(path / _LOCK)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._study = self._open()
                self._check_settings()
                self._write_results()  # a program may have been killed before it could
        except OSError as error:
            raise RunError(f"Cannot write {path} ({error}). Pass another folder as `out`.") from error

    def _open(self) -> Any:
        from sqlalchemy import URL
        from sqlalchemy.exc import SQLAlchemyError

        file = self.path / _STUDY
        url = URL.create("sqlite", database=str(file.absolute())).render_as_string(hide_password=False)
        wait_for_other_programs = {"connect_args": {"timeout": 60}}
        heartbeat = {"heartbeat_interval": _HEARTBEAT_SECONDS, "grace_period": _GRACE_SECONDS}
        pruner = self._optuna.pruners.MedianPruner(n_warmup_steps=4)
        try:
            storage = self._optuna.storages.RDBStorage(url, wait_for_other_programs, **heartbeat)
            return self._optuna.create_study(
                storage=storage, study_name="lirdrec-pyg", direction="maximize", pruner=pruner, load_if_exists=True
            )
        except (SQLAlchemyError, self._optuna.exceptions.OptunaError, RuntimeError) as error:
            raise RunError(f"Cannot use {file} ({first_line(error)}). Pass another folder as `out`.") from error

    def _check_settings(self) -> None:
        shared = {"data": None, "model": self.model_config.model, **_settings(*self._configs)}
        settings = json.loads(json.dumps({**shared, "space": asdict(self.space)["entries"]}))
        earlier = self._study.user_attrs.get("settings")
        if earlier is None:
            self._study.set_user_attr("settings", settings)
            return
        # Settings that were introduced after the study began had their defaults.
        earlier = _settings(*(type(config)() for config in self._configs)) | earlier
        for name in settings:
            if name not in _NOT_COMPARED and settings[name] != earlier.get(name):
                raise ConfigError(f"{self.path} has trials with another `{name}`. Pass another folder as `out`.")

    def finished(self) -> list[TrialResult]:
        """Return the finished trials."""
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]
        return [TrialResult(**trial.user_attrs["result"]) for trial in trials if not _is_interrupted(trial)]

    def best(self) -> TrialResult | None:
        """Return the complete trial with the best validation Recall@20, the first of equal ones."""
        complete = [result for result in self.finished() if result.state == "complete"]
        return max(complete, key=lambda result: result.value or 0.0, default=None)

    def optimize(self, train: Callable[["Trial", Settings], TrialResult], num_trials: int, callback: Callback) -> None:
        """Run ``train`` until the study has ``num_trials`` trials or all points of a grid, or ``callback`` stops it."""
        num_trials = min(num_trials, self.space.num_points or num_trials)
        result: TrialResult

        def objective(trial: "Trial") -> Any:
            nonlocal result
            settings = self.space.suggest(trial, self.model_config)
            trial.set_user_attr(_STARTED, True)
            self._lock.release()  # other programs may choose their settings now
            result = train(trial, settings)
            if result.state != "interrupted":
                trial.set_user_attr("result", asdict(result))
            if result.state == "pruned":
                raise self._optuna.TrialPruned
            return result.value if result.state == "complete" else math.nan  # NaN is a failure

        waits_until: float | None = None
        while not callback.should_stop():
            with self._lock:
                running = self._repeat_interrupted()
                num_earlier = len(self.finished()) + running
                if num_earlier < num_trials:
                    self._study.sampler = self._sampler(num_earlier)
                    self._study.optimize(objective, n_trials=1)
            if num_earlier < num_trials:
                waits_until = None
                with self._lock:
                    best = self._write_results()
                callback.on_trial_end(result, result == best)
            elif not running or (waits_until is not None and time.monotonic() > waits_until):
                return
            else:
                if waits_until is None:
                    seconds = _GRACE_SECONDS + 2
                    _log.info("waiting up to %s s for %s trials of other programs, or of killed ones", seconds, running)
                    waits_until = time.monotonic() + seconds
                time.sleep(1)  # the programs of these trials may have been killed

    def _sampler(self, num_earlier: int) -> Any:
        samplers, seed = self._optuna.samplers, self.training_config.seed
        if self.space.num_points:
            return samplers.GridSampler(self.space.entries, seed=seed)
        # With the same seed in every program, each would begin with the same draws.
        return samplers.TPESampler(seed=(seed + num_earlier) % 2**32, constant_liar=True)

    def _repeat_interrupted(self) -> int:
        """Enqueue interrupted trials again, and return the number of running ones."""
        storages = self._optuna.storages
        storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)):
            if _STARTED not in trial.user_attrs:  # its program was killed while it held the lock
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        trials = self._study.get_trials()
        repeated = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
        # Renamed in optuna 4.9.
        retry = getattr(storages, "RetryHeartbeatStaleTrialCallback", None) or storages.RetryFailedTrialCallback
        for trial in trials:
            if _is_interrupted(trial) and trial.number not in repeated:
                retry()(self._study, trial)
        return sum(trial.state.name == "RUNNING" for trial in trials)

    def _write_results(self) -> TrialResult | None:
        finished, best = self.finished(), self.best()
        if finished:
            table = pl.DataFrame([result.row() for result in finished], infer_schema_length=None, strict=False)
            write_file(self.path, _TABLE, table.write_csv)
        if best is not None:
            chosen = self.space.configs(best.settings, self.model_config, self.training_config)
            settings = {"model": self.model_config.model, **_settings(*self._configs), **_settings(*chosen)}
            head = f"# Trial {best.number}, the best of {len(finished)}: validation Recall@20 {best.value:.4f}\n"
            if "epochs" not in best.settings and (few := settings["epochs"]) < TrainingConfig.epochs:
                settings["epochs"] = TrainingConfig.epochs
                head += (
                    f"# 'epochs' is the default, not the {few} of a trial: early stopping ends the final training.\n"
                )
            text = head + yaml.safe_dump(settings, sort_keys=False)
            write_file(self.path, _BEST, lambda file: file.write_text(text, "utf-8"))
        return best


def _settings(*configs: Config) -> dict[str, Any]:
    return {name: value for config in configs for name, value in asdict(config).items()}


def _import_optuna() -> Any:
    if find_spec("optuna") is None:
        raise ConfigError("Tuning needs optuna, which is not installed: pip install 'lirdrec-pyg[tune]'.")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _is_interrupted(trial: "FrozenTrial") -> bool:
    return trial.state.name == "FAIL" and trial.user_attrs.get("result", {}).get("state") != "failed"


class _Graphs:
    """Graphs with what a model adds to them, such as its item graph; each is made once."""

    def __init__(self, graph: HeteroData) -> None:
        self._made: dict[Any, HeteroData] = {"neighbors": graph}

    def prepared(self, model_config: ModelConfig, config: TrainingConfig) -> HeteroData:
        """Return the graph with what a model of these settings needs."""
        if config.sampling not in self._made:  # a graph that is sampled from may be too large for the device
            graph = copy.copy(self._made["neighbors"]).to(resolve_device(config.device))
            self._made[config.sampling] = LoadFeatures()(graph)
        transform = model_class(model_config).graph_transform(model_config, progress=True)
        key = config.sampling, pickle.dumps(transform)
        if key not in self._made:
            self._made[key] = transform(copy.copy(self._made[config.sampling]))
        return self._made[key]


class _Pruning(Callback):
    def __init__(self, trial: "Trial") -> None:
        self._trial, self.pruned = trial, False

    def on_epoch_end(self, result: EpochResult) -> None:
        self._trial.report(result.valid[MONITOR], result.epoch)
        self.pruned = self._trial.should_prune()

    def should_stop(self) -> bool:
        return self.pruned


def check_before(model_config: ModelConfig, training_config: TrainingConfig) -> None:
    """Raise what :func:`tune` would raise whatever the data and the space are; change nothing."""
    _import_optuna()
    if model_config.is_closed_form:
        raise ConfigError(f"`model={model_config.model!r}` cannot be tuned, since it is not trained in epochs.")
    resolve_device(training_config.device)
    CacheAdjacency(training_config.sparse_backend)
    check_search(getattr(model_config, "knn_search", "auto"))


def tune(
    dataset: Dataset,
    out: str | Path,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    num_trials: int,
    space: Space | None = None,
    callback: Callback | None = None,
) -> Study:
    """Search for the settings with the best validation Recall@20.

    A grid is tried in a random order, each point once; from a space with ranges, Optuna's TPE sampler chooses. A trial
    stops early if its Recall@20 is below the median of earlier trials at the same epoch. The function may be called
    again, and by several programs at the same time, with the same settings: each adds trials to the study.

    Args:
        dataset: interactions and features; the test split is not used.
        out: folder of the study.
        model_config: model; trials replace the settings of ``space``.
        training_config: its training, likewise; the seed also determines the order of trials.
        num_trials: number of trials of the study as a whole.
        space: settings to try; by default those that the model declares, see :meth:`Space.default`.
        callback: follows trials and trainings, and may stop the search.

    Raises:
        LIRDRecError: naming the parameter or file at fault, and the fix.
    """
    check_before(model_config, training_config)
    callback = callback or Callback()
    training_config = replace(training_config, race=False)  # variants are in the space, if at all
    names = modalities(dataset.graph)
    space = space or Space.default(names, model_config, training_config)
    space.check(model_config, training_config, names)
    RankingTask.from_graph(dataset.graph, Split.VALID)  # fails if there is nobody to validate with
    graphs = _Graphs(dataset.graph)
    study = Study(Path(out), space, model_config, training_config, dataset.config)

    def train(trial: "Trial", settings: Settings) -> TrialResult:
        callback.on_trial_start(trial.number, settings)
        start = time.perf_counter()
        model, training = space.configs(settings, model_config, training_config)
        seed_everything(training.seed, verbose=False)
        trainer = make_trainer(graphs.prepared(model, training), model, training, make_fabric(training))
        pruning, state = _Pruning(trial), "complete"
        try:
            if trainer.fit(CallbackList((pruning, callback))).stopped == "interrupted":
                state = "pruned" if pruning.pruned else "interrupted"
        except TrainingDivergedError:
            state = "failed"
        history, seconds = trainer.result.history, time.perf_counter() - start
        best = max((epoch.valid[MONITOR] for epoch in history), default=None)
        return TrialResult(trial.number, state, settings, best, trainer.result.best_epoch, len(history), seconds)

    study.optimize(train, num_trials, callback)
    return study
