import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import assert_refused, lirdrec
from lightning_fabric.loggers import CSVLogger

from lirdrec_pyg import EASEConfig, LIRDRecConfig, TrainingConfig, fit
from lirdrec_pyg.callback import Callback
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.recommender import Run, resume
from lirdrec_pyg.training import LoggerKind, TrainingLog, training_log

Series = dict[str, list[tuple[int, float]]]

DATA = synthetic_data(num_users=60, num_items=40)
MODEL = LIRDRecConfig(embedding_dim=8, knn_k=4)
KINDS: tuple[LoggerKind, ...] = ("tensorboard", "mlflow")


@pytest.fixture(autouse=True)
def _mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MLflow keeps to itself, and writes into files, since it takes seconds to create a database."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())


def trained(out: Path, *callbacks: Callback, epochs: int = 2, **settings: Any) -> None:
    config = TrainingConfig(epochs=epochs, batch_size=100, device="cpu", **settings)
    fit(DATA, MODEL, config, out, callbacks=callbacks, overwrite=True)


def logged_by_tensorboard(run: Path) -> tuple[Series, dict[str, Any]]:
    """All points by name, and the hyperparameters."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    (folder,) = (run / "logs" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    values = {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in given.items()}
    names = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}, values


def mlflow_client(uri: str | None = None) -> Any:
    from mlflow.tracking import MlflowClient  # takes seconds

    return MlflowClient(uri)


def mlflow_runs(client: Any) -> list[Any]:
    (experiment,) = [each for each in client.search_experiments() if each.name == "lirdrec-pyg"]
    return [*client.search_runs([experiment.experiment_id])]


def logged_by_mlflow(run: Path) -> tuple[Series, dict[str, Any]]:
    client = mlflow_client()
    (found,) = mlflow_runs(client)
    assert (found.info.run_name, found.info.status) == (run.name, "FINISHED")
    history = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    points = {name.replace("_at_", "@"): [(m.step, m.value) for m in metrics] for name, metrics in history.items()}
    return points, found.data.params


LOGGED: dict[LoggerKind, Callable[[Path], tuple[Series, dict[str, Any]]]] = {
    "tensorboard": logged_by_tensorboard,
    "mlflow": logged_by_mlflow,
}


def history_of(run: Path, file: str = "history.csv") -> Series:
    """The points of each metric in ``history.csv``, by its name in the log."""
    with (run / file).open() as lines:
        rows = [*csv.DictReader(lines)]
    names = [name for name in rows[0] if name not in ("epoch", "improved")]
    return {name.replace("valid_", "valid/"): [(int(r["epoch"]), float(r[name])) for r in rows] for name in names}


def assert_logged(found: Series, expected: Series) -> None:
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        # TensorBoard keeps single precision, and history.csv four digits of a time.
        assert [x for _, x in found[name]] == pytest.approx([x for _, x in points], rel=1e-6, abs=1e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_holds_what_the_run_holds(kind: LoggerKind, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, training_log(kind, run), lr=0.003)
    assert_logged(LOGGED[kind](run)[0], history_of(run))
    resume(run, {"epochs": 4}, callbacks=[training_log(kind, run, resume=True)])
    found, settings = LOGGED[kind](run)
    expected = history_of(run)
    assert len(expected["loss"]) == 4
    assert_logged(found, expected)
    metrics = json.loads((run / "metrics.json").read_text())
    assert found["final/test/recall@20"][-1] == (4, pytest.approx(metrics["test"]["recall@20"]))
    assert found["final/beyond_accuracy/valid/gini@10"][-1] == (
        4,
        pytest.approx(metrics["beyond_accuracy"]["valid"]["gini@10"]),
    )
    assert (float(settings["lr"]), settings["model"]) == (0.003, "lirdrec")
    # The log is not a part of the run.
    assert Run.open(run).verify() is not None
    # Nothing is left to train or to write.
    resume(run, callbacks=[training_log(kind, run, resume=True)])
    assert LOGGED[kind](run)[0] == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_behind_or_ahead_of_the_checkpoint_is_continued(kind: LoggerKind, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run)
    # The log of a training that was killed lacks the second epoch, or has the third one already.
    log = training_log(kind, run)
    log.logger.log_metrics({"loss": history_of(run)["loss"][0][1]}, 1)
    log.logger.finalize("failed")
    resume(run, {"epochs": 3}, callbacks=[training_log(kind, run, resume=True)])
    assert_logged({"loss": LOGGED[kind](run)[0]["loss"]}, {"loss": history_of(run)["loss"]})
    ahead = training_log(kind, run, resume=True)
    ahead.logger.log_metrics({"loss": 0.5}, 4)
    ahead.logger.finalize("failed")
    resume(run, {"epochs": 5}, callbacks=[training_log(kind, run, resume=True)])
    assert [step for step, _ in LOGGED[kind](run)[0]["loss"]] == [1, 2, 3, 4, 5]


def test_a_new_training_starts_a_new_log(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        trained(run, *(training_log(kind, run) for kind in KINDS), epochs=1)
    versions = {path.name for path in (run / "logs" / "tensorboard").iterdir()}
    assert versions == {"version_0", "version_1"}
    assert len(mlflow_runs(mlflow_client())) == 2
    other = training_log("tensorboard", run, str(tmp_path / "all"))
    trained(run, other, epochs=1)
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"run"}


def test_a_refit_is_logged_beside_the_first_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, training_log("tensorboard", run), refit=True)
    found, _ = logged_by_tensorboard(run)
    assert_logged(found, history_of(run, "selection.csv"))
    assert_logged(found, {f"refit/{name}": points for name, points in history_of(run).items()})
    assert found["final/refit/epochs"] == [(2 + len(found["refit/loss"]), len(found["refit/loss"]))]


def test_a_model_in_closed_form_logs_its_result(tmp_path: Path) -> None:
    run = tmp_path / "run"
    recommender = fit(DATA, EASEConfig(), None, run, callbacks=[training_log("mlflow", run)])
    found, settings = logged_by_mlflow(run)
    assert recommender.metrics is not None
    assert found["final/test/ndcg@20"] == [(0, pytest.approx(recommender.metrics["test"]["ndcg@20"]))]
    assert float(settings["l2"]) == EASEConfig().l2


def test_any_logger_of_fabric_will_do(tmp_path: Path) -> None:
    run = tmp_path / "run"
    logger = CSVLogger(str(tmp_path), "csv", "both")
    trained(run, TrainingLog(logger))
    resume(run, {"epochs": 3}, callbacks=[TrainingLog(logger)])
    with (tmp_path / "csv" / "both" / "metrics.csv").open() as lines:
        rows = [*csv.DictReader(lines)]
    losses = [(int(row["step"]), float(row["loss"])) for row in rows if row["loss"]]
    assert_logged({"loss": losses}, {"loss": history_of(run)["loss"]})


@pytest.mark.slow
def test_the_command_line_logs_beside_the_run(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    first = ("fit", "--data", shop, "--out", "run", "--epochs", 1, "--embedding-dim", 8, "--overwrite")
    for command in (
        (*first, "--logger", "mlflow"),
        (*first, "--logger", "tensorboard"),
        ("fit", "--resume", "run", "--epochs", 2, "--logger", "tensorboard"),
    ):
        result = lirdrec(*command)
        assert result.exit_code == 0, result.output
    assert_logged(logged_by_tensorboard(Path("run"))[0], {"loss": history_of(Path("run"))["loss"]})
    client = mlflow_client(f"sqlite:///{tmp_path / 'run' / 'logs' / 'mlflow.db'}")
    (found,) = mlflow_runs(client)
    assert [m.step for m in client.get_metric_history(found.info.run_id, "loss")] == [1]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "shop"}


def test_mistakes_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("fit", "--data", "synthetic", "--out", tmp_path / "run")
    assert "--logger-dir needs --logger" in lirdrec(*given, "--logger-dir", "x").output
    monkeypatch.setattr("lirdrec_pyg.errors.find_spec", lambda name: None)
    assert_refused(lirdrec(*given, "--logger", "mlflow"), "--logger mlflow", "pip install 'lirdrec-pyg[mlflow]'")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="Cannot log to MLflow at nonsense://x"):
        trained(run, training_log("mlflow", run, "nonsense://x"))
