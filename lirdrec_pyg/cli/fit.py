import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.model_command import ModelCommand, model_option
from lirdrec_pyg.cli.options import config_file_option, config_options, preset_option, take
from lirdrec_pyg.cli.progress import Progress
from lirdrec_pyg.cli.tables import cold_start_table, metric_table
from lirdrec_pyg.config import MODEL_CONFIGS, DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.environment import is_first_process

# What may be changed when a training goes on.
_CHANGEABLE = ("epochs", "patience", "lr", "device")


@click.command(cls=ModelCommand, context_settings={"max_content_width": 100})
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make; see what it holds below.")
@click.option("--overwrite", is_flag=True, help="Replace the run that is in --out.")
@click.option(
    "--resume",
    "resumed",
    type=click.Path(path_type=Path),
    help="Run folder whose training to go on with, by its settings but for --epochs, --patience, --lr and --device.",
)
@config_file_option
@model_option
@preset_option
@click.option("--data", help=DataConfig.doc("data"))
@config_options(DataConfig, LIRDRecConfig, TrainingConfig, skip=("data",))
@click.pass_context
def fit(ctx: click.Context, out: Path | None, overwrite: bool, resumed: Path | None, model: str, **values: Any) -> None:
    """Train LIRDRec or another model, evaluate it on the test split, and save the run.

    --model names another one, from popularity to MGCN, to compare with: fit --model NAME --help shows
    its options.

    The model of the epoch with the best validation Recall@20 is kept. Ctrl-C ends the training and
    keeps what was learned; a second one ends the program at once. After either, or a power cut,
    --resume goes on from where the training stood.

    Several processes, each on a device of its own, share the triples of every step when torchrun starts
    them: torchrun --nproc-per-node 2 -m lirdrec_pyg fit ...

    \b
    The run folder holds
      metrics.json             best epoch, validation and test figures, time, memory
      history.csv              a line an epoch
      config.yaml              every option: repeat the run with fit --config
      model.safetensors        weights of the best epoch
      checkpoint.safetensors   where the training stands, for --resume
      graph.safetensors        features, interactions, splits, item graph
      vectors.safetensors      representations of users and items, which recommend works with
      users.parquet, items.parquet   your IDs by position
      versions.json, SHA256SUMS      what it was computed with; checksums
    """
    from lirdrec_pyg.datasets import load_data
    from lirdrec_pyg.training import Hooks, Trainer, check_before
    from lirdrec_pyg.training import fit as train
    from lirdrec_pyg.training import resume as train_on

    keep_freed_memory()
    with Interrupt() as interrupt, Progress() as progress:

        def on_start(trainer: Trainer) -> None:
            interrupt.listen()
            if is_first_process():
                progress.start(trainer)

        hooks = Hooks(on_start, progress.step, progress.epoch, lambda: interrupt.signal is not None)
        if resumed is not None:
            metrics = train_on(resumed, _changes(ctx, values), hooks)
        else:
            for name, value in (("out", out), ("data", values["data"])):
                if value is None:
                    raise click.UsageError(f"Missing option '--{name}'.")
            assert out is not None
            configs = take(DataConfig, values), take(MODEL_CONFIGS[model], values), take(TrainingConfig, values)
            data_config, model_config, training_config = configs
            if is_first_process():
                check_before(out, *configs, overwrite)
            data = load_data(data_config, training_config.seed)
            if is_first_process():
                for name, fact in data.facts.items():
                    click.echo(f"{name}: {fact}")
            metrics = train(data, out, absolute_paths(data_config), model_config, training_config, hooks, overwrite)
    if metrics:
        click.echo(_account(metrics, resumed or out))
    if interrupt.signal is not None:
        if metrics:
            click.echo(f"Go on with: lirdrec-pyg fit --resume {resumed or out}")
        sys.exit(128 + interrupt.signal)


def _account(metrics: Mapping[str, Any], run: Path | None) -> str:
    best = (
        f"Best epoch {metrics['best_epoch']} of {metrics['epochs']}" if metrics["epochs"] else "No epoch was finished"
    )
    if "seconds" in metrics:
        best = f"It took {metrics['seconds']:.1f} s"
    cold = metrics.get("cold_start")
    return (
        f"\nStopped: {metrics['stopped']}. {best}, "
        f"validation {metrics['monitor']} {metrics['valid'][metrics['monitor']]:.4f}.\n"
        f"Test, all items ranked:\n{metric_table(metrics['test'])}\n"
        + (f"\nTest, items held out:\n{cold_start_table(cold['test'])}\n" if cold else "")
        + f"\nThe run is in {run}"
    )


def _changes(ctx: click.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings given beside ``--resume``."""
    given = [
        param
        for param in ctx.command.params
        if param.name != "resumed" and ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    ]
    if wrong := [param.opts[0] for param in given if param.name not in _CHANGEABLE]:
        raise click.UsageError(
            f"{wrong[0]} can't go with --resume, which goes on by the settings of the run: "
            f"only {', '.join(f'--{name}' for name in _CHANGEABLE)} can be changed."
        )
    return {name: values[name] for name in (param.name for param in given) if name is not None}


def absolute_paths(config: DataConfig) -> DataConfig:
    """``config`` with paths that hold from any folder, as it is written down in a run."""

    def absolute(path: str) -> str:
        return str(Path(path).absolute())

    return replace(
        config,
        data=config.data if config.data == "synthetic" else absolute(config.data),
        features={modality: absolute(path) for modality, path in config.features.items()},
        item_ids=config.item_ids and absolute(config.item_ids),
    )
