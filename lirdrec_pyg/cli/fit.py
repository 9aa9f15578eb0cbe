import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.model_command import ModelCommand, model_option
from lirdrec_pyg.cli.options import config_file_option, config_options, folder_option, preset_option, take
from lirdrec_pyg.cli.output import cold_start_table, metric_table
from lirdrec_pyg.cli.progress import Progress
from lirdrec_pyg.data import DataConfig
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.models import MODEL_CONFIGS, LIRDRecConfig
from lirdrec_pyg.recommender import fit as fit_model
from lirdrec_pyg.recommender import resume as resume_training
from lirdrec_pyg.training import TrainingConfig

# Settings that may change when a training is resumed.
_CHANGEABLE = ("epochs", "patience", "lr", "device")


@click.command(cls=ModelCommand, context_settings={"max_content_width": 100})
@folder_option("the run", "Run folder to create; see above for what it holds.", required=False)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Run folder whose training to resume, with its settings except for --epochs, --patience, --lr and --device.",
)
@config_file_option
@model_option
@preset_option
@click.option("--data", help=DataConfig.doc("data"))
@config_options(DataConfig, LIRDRecConfig, TrainingConfig, skip=("data",))
@click.pass_context
def fit(ctx: click.Context, out: Path | None, overwrite: bool, resume: Path | None, model: str, **values: Any) -> None:
    """Train a model, evaluate it on the test split, and save the run.

    The model is LIRDRec, or another one to compare with, from popularity to MGCN: fit --model NAME --help shows its
    options.

    The weights of the epoch with the best validation Recall@20 are kept. Ctrl-C ends the training and saves the
    progress; a second Ctrl-C ends the program immediately. After either, or a power cut, --resume continues the
    training.

    Several processes, one per device, share the triples of every step if torchrun starts them:
    torchrun --nproc-per-node 2 -m lirdrec_pyg fit ...

    \b
    The run folder holds
      metrics.json             best epoch, validation and test metrics, time, memory
      history.csv              one line per epoch
      config.yaml              all settings: repeat the run with fit --config
      model.safetensors        weights of the best epoch
      checkpoint.safetensors   state of the training, for --resume
      graph.safetensors        features, interactions, splits, item graph
      vectors.safetensors      representations of users and items, for recommend
      users.parquet, items.parquet   your IDs by position
      versions.json, SHA256SUMS      versions of all packages; checksums
    """
    keep_freed_memory()
    with Interrupt() as interrupt, Progress() as progress:
        callbacks = interrupt, progress
        if resume is not None:
            folder, recommender = resume, resume_training(resume, _changes(ctx, values), callbacks=callbacks)
        else:
            for name, value in (("out", out), ("data", values["data"])):
                if value is None:
                    raise click.UsageError(f"Missing option '--{name}'.")
            assert out is not None
            configs = take(DataConfig, values), take(MODEL_CONFIGS[model], values), take(TrainingConfig, values)
            folder, recommender = out, fit_model(*configs, out, callbacks=callbacks, overwrite=overwrite)
    if is_first_process():
        assert recommender.metrics is not None
        click.echo(_account(recommender.metrics, folder))
    if interrupt.signal is not None:
        if is_first_process():
            click.echo(f"Resume with: lirdrec-pyg fit --resume {folder}")
        sys.exit(128 + interrupt.signal)


def _account(metrics: Mapping[str, Any], run: Path) -> str:
    best = (
        f"{'Best' if 'valid' in metrics else 'Last'} epoch {metrics['best_epoch']} of {metrics['epochs']}"
        if metrics["epochs"]
        else "No epoch was finished"
    )
    if "seconds" in metrics:
        best = f"It took {metrics['seconds']:.1f} s"
    lines = [f"\nStopped: {metrics['stopped']}. {best}"]
    if "valid" in metrics:
        lines[0] += f", validation {metrics['monitor']} {metrics['valid'][metrics['monitor']]:.4f}"
    lines[0] += "."
    if "test" in metrics:
        lines.append(f"Test metrics, all items ranked:\n{metric_table(metrics['test'])}")
    if "cold_start" in metrics:
        lines.append(f"\nTest metrics, held-out items:\n{cold_start_table(metrics['cold_start']['test'])}")
    return "\n".join([*lines, f"\nThe run is in {run}"])


def _changes(ctx: click.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings given beside ``--resume``."""
    given = [
        param
        for param in ctx.command.params
        if param.name != "resume" and ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    ]
    if wrong := [param.opts[0] for param in given if param.name not in _CHANGEABLE]:
        raise click.UsageError(
            f"{wrong[0]} cannot be combined with --resume, which uses the settings of the run. Only "
            f"{', '.join(f'--{name}' for name in _CHANGEABLE)} can be changed."
        )
    return {name: values[name] for name in (param.name for param in given) if name is not None}
