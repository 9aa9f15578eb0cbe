"""Logs of a training for TensorBoard and MLflow, by the logger interface of Lightning Fabric."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.loggers import Logger, TensorBoardLogger
from lightning_fabric.utilities.rank_zero import rank_zero_only

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.errors import ConfigError, check_extra, first_line
from lirdrec_pyg.training.checkpoint import EpochResult
from lirdrec_pyg.training.trainer import Trainer

LoggerKind = Literal["tensorboard", "mlflow"]

# In the run folder, beside the files that belong to the run.
LOGS = "logs"


class TrainingLog(Callback):
    """Writes a training into a logger of Lightning Fabric.

    After each epoch, which is the step, it writes ``loss``, ``valid/recall@20`` and all other validation metrics,
    ``train_seconds`` and ``eval_seconds``; those of a refit as ``refit/loss`` and so on. At the end, it writes the
    hyperparameters and all numbers of ``metrics.json``, as ``final/test/recall@20`` and so on.

    A resumed training continues its log. If the logger has a method ``last_step``, which returns the last step of a
    metric, earlier epochs that are missing are written, too, and none is written twice.

    Args:
        logger: for example ``lightning_fabric.loggers.TensorBoardLogger("logs")``.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self._done: dict[str, int] = {}

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer) -> None:
        is_refit = trainer.config.refit and trainer.task is None
        self._prefix = "refit/" if is_refit else ""
        if self._prefix not in self._done:
            self._done[self._prefix] = self._last_step(f"{self._prefix}loss", trainer.num_restored)
        for result in trainer.result.history:
            self.on_epoch_end(result)

    @rank_zero_only
    def on_epoch_end(self, result: EpochResult) -> None:
        if result.epoch > self._done[self._prefix]:
            metrics = {
                **{f"valid/{name}": value for name, value in result.valid.items()},
                "train_seconds": result.train_seconds,
                "eval_seconds": result.eval_seconds,
                "loss": result.loss,
            }
            self.logger.log_metrics({f"{self._prefix}{name}": x for name, x in metrics.items()}, result.epoch)
            self.logger.save()
            self._done[self._prefix] = result.epoch

    @rank_zero_only
    def on_fit_end(self, recommender: Any) -> None:
        metrics = dict(_numbers(recommender.metrics, "final"))
        step = int(metrics["final/epochs"] + metrics.get("final/refit/epochs", 0))
        if step > self._last_step("final/epochs", -1):
            configs = (recommender.dataset.config, recommender.training_config, recommender.model_config)
            settings = {"model": recommender.model_config.model}
            for config in filter(None, configs):
                settings |= asdict(config)
            if isinstance(self.logger, TensorBoardLogger):  # its HPARAMS tab shows the metrics that are given with them
                self.logger.log_hyperparams(settings, metrics, step)
            else:
                self.logger.log_metrics(metrics, step)
                with suppress(NotImplementedError):  # CSVLogger
                    self.logger.log_hyperparams(settings)
        self.logger.finalize("success")

    def _last_step(self, name: str, default: int) -> int:
        return getattr(self.logger, "last_step", lambda _: default)(name)


def _numbers(metrics: Mapping[str, Any], name: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested ``metrics`` by their path."""
    for key, value in metrics.items():
        if isinstance(value, Mapping) and key != "data":
            yield from _numbers(value, f"{name}/{key}")
        elif isinstance(value, (int, float)):
            yield f"{name}/{key}", value


class ContinuedTensorBoardLogger(TensorBoardLogger):
    """Writes into ``root_dir/name/version_N`` for TensorBoard.

    Args:
        root_dir: folder of all logs.
        name: folder within it.
        resume: whether to continue the last version instead of starting the next one.
    """

    def __init__(self, root_dir: Path, name: str, resume: bool = False) -> None:
        super().__init__(root_dir, name)
        if resume:
            self._version = max(0, self._get_next_version() - 1)

    def last_step(self, name: str) -> int:
        """Return the last step of a metric, -1 if there is none."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        if not Path(self.log_dir).is_dir():
            return -1
        events = EventAccumulator(self.log_dir).Reload()
        return max((e.step for e in events.Scalars(name)), default=-1) if name in events.Tags()["scalars"] else -1


class MLflowLogger(Logger):
    """Writes a run of MLflow.

    The experiment is ``MLFLOW_EXPERIMENT_NAME``, by default ``lirdrec-pyg``. MLflow allows no ``@`` in names of
    metrics, so that ``recall@20`` becomes ``recall_at_20``, and no changes of hyperparameters, so that those of a
    resumed training stay as they were.

    Args:
        tracking_uri: server or database of MLflow, such as ``http://localhost:5000`` or ``sqlite:////tmp/mlflow.db``.
        folder: run folder, whose name is that of the MLflow run, and which identifies it.
        resume: whether to continue the last MLflow run of ``folder`` instead of starting one.
    """

    def __init__(self, tracking_uri: str, folder: Path, resume: bool = False) -> None:
        self._tracking_uri, self._folder, self._resume = tracking_uri, folder.absolute(), resume

    @property
    def name(self) -> str:
        return os.environ.get("MLFLOW_EXPERIMENT_NAME", "lirdrec-pyg")

    @property
    def version(self) -> str:
        """ID of the MLflow run."""
        return self._run[1]

    @cached_property
    def _run(self) -> tuple[Any, str]:
        """Client and ID of the run, which is made when it is first needed."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        if self._tracking_uri.startswith("sqlite:///"):
            Path(self._tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        tag = "lirdrec_pyg.folder"
        try:
            client = MlflowClient(self._tracking_uri)
            found = client.get_experiment_by_name(self.name)
            experiment = client.create_experiment(self.name) if found is None else found.experiment_id
            if self._resume:
                for run in client.search_runs([experiment], f'tags."{tag}" = "{self._folder}"', max_results=1):
                    client.update_run(run.info.run_id, status="RUNNING")
                    return client, run.info.run_id
            run = client.create_run(experiment, run_name=self._folder.name, tags={tag: str(self._folder)})
        except (MlflowException, ImportError) as error:  # a database needs sqlalchemy and alembic
            raise ConfigError(f"Cannot log to MLflow at {self._tracking_uri} ({first_line(error)}).") from error
        return client, run.info.run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        client, run_id = self._run
        now = int(1000 * time.time())
        client.log_batch(run_id, [Metric(_name(key), float(x), now, step or 0) for key, x in metrics.items()])

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        from mlflow.entities import Param

        client, run_id = self._run
        known = client.get_run(run_id).data.params
        client.log_batch(run_id, params=[Param(k, str(value)) for k, value in params.items() if k not in known])

    def last_step(self, name: str) -> int:
        """Return the last step of a metric, -1 if there is none."""
        client, run_id = self._run
        return max((metric.step for metric in client.get_metric_history(run_id, _name(name))), default=-1)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        client, run_id = self._run
        client.set_terminated(run_id, "FINISHED" if status == "success" else "FAILED")


def _name(metric: str) -> str:
    return metric.replace("@", "_at_")


def training_log(kind: LoggerKind, run: Path, where: str | None = None, resume: bool = False) -> TrainingLog:
    """Create the callback that logs the training of a run.

    Nothing is written before the training starts.

    Args:
        kind: ``"tensorboard"`` or ``"mlflow"``.
        run: run folder.
        where: folder of the logs of TensorBoard, or tracking URI of MLflow; by default ``logs`` in the run folder,
            which MLflow's variable ``MLFLOW_TRACKING_URI`` replaces.
        resume: whether to continue the last log of the run instead of starting one.

    Raises:
        ConfigError: if the package is not installed.
    """
    check_extra(kind, kind, purpose=f"`logger={kind!r}`")
    run = run.absolute()
    if kind == "mlflow":
        uri = where or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run / LOGS / 'mlflow.db'}"
        return TrainingLog(MLflowLogger(uri, run, resume))
    root, name = (run / LOGS, kind) if where is None else (Path(where), run.name)
    return TrainingLog(ContinuedTensorBoardLogger(root, name, resume))
