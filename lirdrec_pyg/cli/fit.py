import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.model_command import ModelCommand
from lirdrec_pyg.cli.options import (
    config_file_option,
    config_options,
    folder_option,
    given_options,
    preset_option,
    take,
)
from lirdrec_pyg.cli.output import cold_start_table, metric_table
from lirdrec_pyg.cli.progress import Progress
from lirdrec_pyg.cli.report import report_path
from lirdrec_pyg.data import DataConfig
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.models import MODEL_CONFIGS, LIRDRecConfig
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender import fit as fit_model
from lirdrec_pyg.recommender import resume as resume_training
from lirdrec_pyg.report import check_packages, write_report
from lirdrec_pyg.training import LoggerKind, TrainingConfig, training_log
from lirdrec_pyg.training.config import replaces_race

# Settings that may change when a training is resumed.
_CHANGEABLE = ("epochs", "patience", "minutes", "lr", "device", "refit")
_CHANGEABLE_OPTIONS = [f"--{name}" for name in _CHANGEABLE]


@click.command(cls=ModelCommand, context_settings={"max_content_width": 100})
@folder_option("the run", "Run folder to create; see above for what it holds.", required=False)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Run folder whose training to resume, with its settings except for "
    f"{', '.join(_CHANGEABLE_OPTIONS[:-1])} and {_CHANGEABLE_OPTIONS[-1]}.",
)
@click.option(
    "--logger",
    type=click.Choice(get_args(LoggerKind)),
    help="Also log losses and metrics of all epochs to TensorBoard or MLflow; needs the extra of that name.",
)
@click.option(
    "--logger-dir",
    metavar="FOLDER|URI",
    help="Folder of the logs of TensorBoard, or tracking URI of MLflow. By default logs/ in the run folder; for "
    "MLflow, MLFLOW_TRACKING_URI comes first.",
)
@click.option(
    "--report",
    "with_report",
    is_flag=True,
    help="Also write a report for people to read, OUT.html beside the run folder; needs the extra 'report'.",
)
@config_file_option
@click.option(
    "--model",
    type=click.Choice(list(MODEL_CONFIGS)),
    default=LIRDRecConfig.model,
    show_default=True,
    help="Model to train. Each has options of its own, see fit --model NAME --help.",
)
@preset_option("best")
@click.option("--data", help=DataConfig.doc("data"))
@config_options(DataConfig, skip=("data",))
@click.pass_context
def fit(
    ctx: click.Context,
    out: Path | None,
    overwrite: bool,
    resume: Path | None,
    logger: LoggerKind | None,
    logger_dir: str | None,
    with_report: bool,
    model: str,
    **values: Any,
) -> None:
    """Train a model, evaluate it on the test split, and save the run.

    The model is LIRDRec, or another one to compare with: fit --model NAME --help shows its options.

    The weights of the epoch with the best validation Recall@20 are kept. Ctrl-C ends the training and saves the
    progress; a second Ctrl-C ends the program immediately. After either, or a power cut, --resume continues the
    training.

    For production, --refit uses what was held out, too: once validation has found the best epoch, a second training
    starts from scratch on all interactions and takes as many epochs. An epoch is one pass over the interactions, so it
    has more steps. The run holds the second model, beside the metrics of the first.

    --logger tensorboard shows the training while it runs: tensorboard --logdir OUT/logs. With --resume, the same option
    continues the log.

    Several processes, one per device, share the triples of every step if torchrun starts them:
    torchrun --nproc-per-node 2 -m lirdrec_pyg fit ...
    With millions of users, --sampling neighbors --user-table sharded divides the users among them, too.

    \b
    The run folder holds
      metrics.json             best epoch, validation and test metrics, time, memory
      history.csv              one line per epoch
      selection.json, selection.csv   with --refit: metrics and history of the first training
      config.yaml              all settings: repeat the run with fit --config
      model.safetensors        weights of the best epoch
      checkpoint.safetensors   state of the training, for --resume
      graph.safetensors        features, interactions, splits, item graph
      vectors.safetensors      representations of users and items, for recommend
      users.parquet, items.parquet   your IDs by position
      versions.json, SHA256SUMS      versions of all packages; checksums
    """
    keep_freed_memory()
    if logger_dir is not None and logger is None:
        raise click.UsageError("--logger-dir needs --logger.")
    folder = resume or out
    if folder is None:
        raise click.UsageError("Missing option '--out'.")
    if resume is None and values["data"] is None:
        raise click.UsageError("Missing option '--data'.")
    if with_report:
        check_packages()
    with Interrupt() as interrupt, closing(Progress()) as progress:
        log = () if logger is None else (training_log(logger, folder, logger_dir, resume is not None),)
        callbacks = interrupt, progress, *log
        if resume is not None:
            recommender = resume_training(resume, _changes(ctx, values), callbacks=callbacks)
        else:
            model_config, training_config = take(MODEL_CONFIGS[model], values), take(TrainingConfig, values)
            if replaces_race(model_config, given_options(ctx)):
                training_config = replace(training_config, race=False)
            configs = take(DataConfig, values), model_config, training_config
            recommender = fit_model(*configs, folder, callbacks=callbacks, overwrite=overwrite)
    if is_first_process():
        click.echo(_account(recommender, folder))
        if interrupt.signal is not None:
            click.echo(f"Resume with: lirdrec-pyg fit --resume {folder}")
        elif with_report:
            write_report([recommender], page := report_path(folder))
            click.echo(f"The report is in {page}")
        else:
            click.echo(f"See it: lirdrec-pyg report {folder}")
    if interrupt.signal is not None:
        sys.exit(128 + interrupt.signal)


def _account(recommender: Recommender, run: Path) -> str:
    metrics = recommender.metrics
    assert metrics is not None
    best = "No epoch was finished"
    if recommender.model_config.is_closed_form:
        best = f"It took {metrics['seconds']:.1f} s"
    elif metrics["epochs"]:
        best = f"{'Best' if 'valid' in metrics else 'Last'} epoch {metrics['best_epoch']} of {metrics['epochs']}"
    if "valid" in metrics:
        best += f", validation {metrics['monitor']} {metrics['valid'][metrics['monitor']]:.4f}"
    lines = [f"\nStopped: {metrics['stopped']}. {best}."]
    if "test" in metrics:
        lines.append(f"Test metrics, all items ranked:\n{metric_table(metrics['test'])}")
    if "cold_start" in metrics:
        lines.append(f"\nTest metrics, held-out items:\n{cold_start_table(metrics['cold_start']['test'])}")
    return "\n".join([*lines, "", _training(metrics), f"The run is in {run}"])


def _training(metrics: Mapping[str, Any]) -> str:
    """Return in a sentence which interactions the model was trained on."""
    count = f"{metrics['interactions']:,}"
    if (refit := metrics.get("refit")) is None:
        return (
            f"The model was trained on {count} interactions, without those held out."
            if "valid" in metrics or "test" in metrics
            else f"The model was trained on all {count} interactions."
        )
    done = f"for {refit['epochs']} epochs" if refit["epochs"] else "in closed form"
    if refit["stopped"] == "interrupted":
        done = f"for {refit['epochs']} of {metrics['best_epoch']} epochs so far"
    return (
        f"These metrics are of a model trained on {count} interactions. The model in the run was then trained on all "
        f"{refit['interactions']:,} from scratch, {done}."
    )


def _changes(ctx: click.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings given beside ``--resume``."""
    options = {str(param.name): param.opts[0] for param in ctx.command.params}
    given = [name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    allowed = ("resume", "logger", "logger_dir", "with_report", *_CHANGEABLE)
    if wrong := [options[name] for name in given if name not in allowed]:
        raise click.UsageError(
            f"{wrong[0]} cannot be combined with --resume, which uses the settings of the run. Only "
            f"{', '.join(_CHANGEABLE_OPTIONS)} can be changed."
        )
    return {name: values[name] for name in given if name in _CHANGEABLE}
