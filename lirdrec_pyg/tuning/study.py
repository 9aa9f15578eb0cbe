import copy
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import yaml
from filelock import FileLock, Timeout
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import modalities
from lirdrec_pyg.data.files import whole_file
from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training import MONITOR, EpochResult, Trainer, TrainingDivergedError, make_fabric, resolve_device
from lirdrec_pyg.transforms import CacheAdjacency, LoadFeatures, check_search
from lirdrec_pyg.tuning.space import Settings, Space

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

_STUDY, _TABLE, _BEST = "study.db", "trials.csv", "best.yaml"
_LOCK, _WORKERS = ".lock", ".workers"
# A trial that was cut short is not one of those that count, and its settings are tried again.
_CUT_SHORT = "cut_short"
_UNTOLD = "device", "checkpoint_minutes"

Configs = tuple[DataConfig, LIRDRecConfig, TrainingConfig]


@dataclass(frozen=True)
class TrialResult:
    """What a trial brought.

    Attributes:
        number: of the trial, from 0.
        state: ``"complete"``, ``"pruned"``, ``"failed"`` if the loss was no number, or ``"interrupted"``.
        settings: what was tried.
        value: best validation Recall@20, if an epoch was finished.
        best_epoch: with this value.
        epochs: that were done.
        seconds: that the training took.
    """

    number: int
    state: str
    settings: Settings
    value: float | None = None
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class TuneHooks:
    """What a caller wants to hear of the trials.

    Attributes:
        on_start: called with the number, settings and trainer of a trial before its training.
        on_epoch: called after each epoch of a trial.
        on_end: called with the result of a trial, and whether it is the best so far.
        should_stop: asked as a training asks it.
    """

    on_start: Callable[[int, Settings, Trainer], None] = lambda number, settings, trainer: None
    on_epoch: Callable[[EpochResult], None] = lambda result: None
    on_end: Callable[[TrialResult, bool], None] = lambda result, best: None
    should_stop: Callable[[], bool] = lambda: False


class Study:
    """The trials in a folder, which several programs may add to at once.

    ``study.db`` is an Optuna study in SQLite; ``trials.csv`` and ``best.yaml`` are written anew after each trial.
    A trial whose program was killed is known by a file that no program holds any more.

    Args:
        path: folder, made if there is none.
        configs: what all trials share.
        space: what they differ in.

    Raises:
        ConfigError: if optuna is not installed, or the folder has trials of other settings.
        RunError: if the folder can't be used.
    """

    def __init__(self, path: Path, configs: Configs, space: Space) -> None:
        optuna = _optuna()
        self.path = path
        self.configs = configs
        self.space = space
        self._worker = uuid.uuid4().hex
        try:
            (path / _WORKERS).mkdir(parents=True, exist_ok=True)
            self._alive = FileLock(path / _WORKERS / self._worker)
            self._alive.acquire()
        except OSError as error:
            raise RunError(f"{path} can't be written ({error}): name another folder with --out.") from error
        with self._locked():
            self._study = self._open(optuna)
            self._check_settings()
            self._write_results()  # a program may have been killed before it did

    def _open(self, optuna: Any) -> "optuna.Study":
        from sqlalchemy import URL
        from sqlalchemy.exc import SQLAlchemyError

        url = URL.create("sqlite", database=str((self.path / _STUDY).absolute())).render_as_string(hide_password=False)
        try:
            # Another program may be writing.
            storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
            return optuna.create_study(
                storage=storage,
                study_name="lirdrec-pyg",
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=4),
                load_if_exists=True,
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            raise RunError(
                f"{self.path / _STUDY} can't be used ({first_line(error)}): name another folder with --out."
            ) from error

    def _check_settings(self) -> None:
        shared = {key: value for config in self.configs for key, value in asdict(config).items() if key not in _UNTOLD}
        space = {n: asdict(e) if not isinstance(e, tuple) else list(e) for n, e in self.space.entries.items()}
        settings = json.loads(json.dumps({**shared, "--space": space}))
        earlier = self._study.user_attrs.get("settings")
        if earlier is None:
            self._study.set_user_attr("settings", settings)
            return
        # Settings that came after the study was begun have their defaults there.
        earlier = {key: value for config in self.configs for key, value in asdict(type(config)()).items()} | earlier
        if other := [name for name in settings if earlier.get(name) != settings[name]]:
            name = other[0] if other[0].startswith("--") else "--" + other[0].replace("_", "-")
            raise ConfigError(
                f"{self.path} has trials with another {name}: their figures can't be compared, "
                "so name another folder with --out."
            )

    def close(self) -> None:
        """Lets other programs know that this one has no trial under way."""
        (self.path / _WORKERS / self._worker).unlink(missing_ok=True)
        self._alive.release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with FileLock(self.path / _LOCK):
                yield
        except OSError as error:
            raise RunError(f"{self.path} can't be written ({error}): name another folder with --out.") from error

    def trials(self) -> list["FrozenTrial"]:
        """All trials that count, in their order: finished ones and those under way."""
        found = self._study.get_trials(deepcopy=False)
        return [t for t in found if _CUT_SHORT not in t.user_attrs and t.state.name != "WAITING"]

    def finished(self) -> list["FrozenTrial"]:
        """The trials that are done."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def best(self) -> "FrozenTrial | None":
        """The complete trial with the best validation Recall@20; of equals the first."""
        complete = [trial for trial in self.finished() if trial.state.name == "COMPLETE"]
        return max(complete, key=lambda trial: trial.value or 0.0, default=None)

    def ask(self, num_trials: int) -> "tuple[Trial, Settings] | None":
        """The next trial and its settings; ``None`` if there are ``num_trials`` or nothing is left to try."""
        with self._locked():
            self._give_up_dead_trials()
            earlier = self.trials()
            if len(earlier) >= num_trials or not self._choose(earlier):
                return None
            trial = self._study.ask()
            settings = self.space.suggest(trial)
            trial.set_user_attr("worker", self._worker)
            return trial, settings

    def _choose(self, earlier: list["FrozenTrial"]) -> bool:
        """Sees to it that the next trial gets its settings by the seed and the trials before; ``False`` if every
        point of the grid was tried."""
        import optuna

        seed = self.configs[2].seed
        if any(trial.state.name == "WAITING" for trial in self._study.get_trials(deepcopy=False)):
            return True
        points = self.space.points()
        if points is None:
            self._study.sampler = optuna.samplers.TPESampler(seed=(seed + len(earlier)) % 2**32, constant_liar=True)
            return True
        tried = [trial.params for trial in earlier]
        left = [point for point in points if point not in tried]
        if left:
            self._study.enqueue_trial(left[np.random.default_rng([seed, len(earlier)]).integers(len(left))])
        return bool(left)

    def _give_up_dead_trials(self) -> None:
        for trial in self._study.get_trials(deepcopy=False):
            worker = trial.user_attrs.get("worker", "")
            if trial.state.name == "RUNNING" and worker != self._worker and self._is_dead(worker):
                self._cut_short(trial.number, trial.params)

    def _is_dead(self, worker: str) -> bool:
        path = self.path / _WORKERS / worker
        if not worker or not path.is_file():
            return True
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def _cut_short(self, number: int, settings: Settings) -> None:
        trial = self._study.get_trials(deepcopy=False)[number]
        self._study._storage.set_trial_user_attr(trial._trial_id, _CUT_SHORT, True)
        self._study.tell(number, state=_state("FAIL"), skip_if_finished=True)
        if settings.keys() == self.space.entries.keys():
            self._study.enqueue_trial(settings)

    def tell(self, trial: "Trial", result: TrialResult) -> bool:
        """Keeps the result of a trial; whether it is the best so far."""
        with self._locked():
            if result.state == "interrupted":
                self._cut_short(result.number, result.settings)
                return False
            for name in ("value", "best_epoch", "epochs", "seconds"):
                trial.set_user_attr(name, getattr(result, name))
            if result.state == "complete":
                self._study.tell(trial, result.value)
            else:
                self._study.tell(trial, state=_state("PRUNED" if result.state == "pruned" else "FAIL"))
            self._write_results()
            best = self.best()
            return best is not None and best.number == result.number

    def _write_results(self) -> None:
        if self.finished():
            self._write(_TABLE, self._table().write_csv)
        if (best := self.best()) is not None:
            self._write(_BEST, lambda file: file.write_text(self._config_of(best), "utf-8"))

    def _table(self) -> pl.DataFrame:
        return pl.DataFrame(
            [
                {
                    "trial": trial.number,
                    "state": {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed"),
                    **{name: trial.params.get(name) for name in self.space.entries},
                    f"valid_{MONITOR}": trial.user_attrs.get("value"),
                    "best_epoch": trial.user_attrs.get("best_epoch"),
                    "epochs": trial.user_attrs.get("epochs"),
                    "seconds": round(trial.user_attrs.get("seconds", 0.0), 2),
                }
                for trial in self.finished()
            ],
            infer_schema_length=None,
            strict=False,
        )

    def _config_of(self, trial: "FrozenTrial") -> str:
        data_config, model_config, training_config = self.configs
        configs = data_config, *self.space.configs(trial.params, model_config, training_config)
        settings = {key: value for config in configs for key, value in asdict(config).items()}
        head = f"# Trial {trial.number}, the best of {len(self.finished())}: validation Recall@20 {trial.value:.4f}\n"
        return head + yaml.safe_dump(settings, sort_keys=False)

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        with whole_file(self.path / name, self.path / f".{name}.{self._worker}") as unfinished:
            write(unfinished)


def _optuna() -> Any:
    if find_spec("optuna") is None:
        raise ConfigError("optuna is not installed, which tuning needs: pip install 'lirdrec-pyg[tune]'.")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


class _Graphs:
    """The graph as each setting of the item graph has it, made once."""

    def __init__(self, graph: HeteroData, training_config: TrainingConfig) -> None:
        self._graph = LoadFeatures()(copy.copy(graph).to(resolve_device(training_config.device)))
        self._backend = training_config.sparse_backend
        self._made: dict[Any, HeteroData] = {}

    def prepared(self, config: LIRDRecConfig) -> HeteroData:
        """What a model of ``config`` works on."""
        weights = tuple(sorted(config.graph_weights.items()))
        key = config.item_graph, config.only_modality, config.knn_k, config.knn_search, weights
        if key not in self._made:
            self._made[key] = LIRDRec.graph_transform(config, progress=True)(copy.copy(self._graph))
        return LIRDRec.input_transform(config, self._backend)(copy.copy(self._made[key]))


def check_before(configs: Configs) -> None:
    """Raises what :func:`tune` would raise whatever the data are; changes nothing."""
    _optuna()
    _, model_config, training_config = configs
    resolve_device(training_config.device)
    CacheAdjacency(training_config.sparse_backend)
    check_search(model_config.knn_search)


def tune(
    graph: HeteroData,
    out: str | Path,
    configs: Configs,
    num_trials: int,
    space: Space | None = None,
    hooks: TuneHooks | None = None,
) -> Study:
    """Trains LIRDRec with settings of ``space`` until the study in ``out`` has ``num_trials`` trials.

    All figures are those of the validation split. Where the space is a grid, its points are tried in an order drawn
    by the seed, each once; where it has ranges, Optuna's TPE sampler chooses. A trial ends early if its Recall@20
    is below the median of the trials before at the same epoch. It may be called again, and by several
    programs at once, with the same settings; each adds to what there is.

    Args:
        graph: of :func:`~lirdrec_pyg.data.build_graph`.
        out: folder of the study.
        configs: what all trials share; the seed decides the draws of the settings, too.
        num_trials: of the study as a whole.
        space: what is tried; by default :meth:`Space.paper`.
        hooks: for progress, and to stop early.

    Returns:
        The study, closed.

    Raises:
        LIRDRecError: of the kind that fits, in one sentence.
    """
    check_before(configs)
    hooks = hooks or TuneHooks()
    names = modalities(graph)
    space = space or Space.paper(names, *configs[1:])
    space.check(configs[1], configs[2], names)
    graphs = _Graphs(graph, configs[2])
    study = Study(Path(out), configs, space)
    try:
        while not hooks.should_stop() and (asked := study.ask(num_trials)) is not None:
            trial, settings = asked
            result = _train(trial, settings, study, graphs, hooks)
            hooks.on_end(result, study.tell(trial, result))
    finally:
        study.close()
    return study


def _train(trial: "Trial", settings: Settings, study: Study, graphs: _Graphs, hooks: TuneHooks) -> TrialResult:
    model_config, training_config = study.space.configs(settings, *study.configs[1:])
    start = time.perf_counter()
    seed_everything(training_config.seed, verbose=False)
    data = graphs.prepared(model_config)
    trainer = Trainer(LIRDRec.from_config(model_config, data), data, training_config, make_fabric(training_config))
    hooks.on_start(trial.number, settings, trainer)
    pruned = False

    def on_epoch(result: EpochResult) -> None:
        nonlocal pruned
        trial.report(result.valid[MONITOR], result.epoch)
        pruned = trial.should_prune()
        hooks.on_epoch(result)

    state = "complete"
    try:
        trainer.fit(on_epoch=on_epoch, should_stop=lambda: pruned or hooks.should_stop())
    except TrainingDivergedError:
        state = "failed"
    history = trainer.result.history
    if state != "failed" and trainer.result.stopped == "interrupted":
        state = "pruned" if pruned else "interrupted"
    best = max((epoch.valid[MONITOR] for epoch in history), default=None)
    return TrialResult(
        trial.number,
        state,
        settings,
        best,
        trainer.result.best_epoch,
        len(history),
        time.perf_counter() - start,
    )
