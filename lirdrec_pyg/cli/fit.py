import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.options import config_file_option, config_options, preset_option, take
from lirdrec_pyg.cli.progress import Progress
from lirdrec_pyg.cli.tables import cold_start_table, metric_table
from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Run folder to make; see what it holds below."
)
@click.option("--overwrite", is_flag=True, help="Replace the run that is in --out.")
@config_file_option
@preset_option
@click.option("--data", required=True, help=DataConfig.doc("data"))
@config_options(DataConfig, LIRDRecConfig, TrainingConfig, skip=("data",))
def fit(out: Path, overwrite: bool, **values: Any) -> None:
    """Train LIRDRec, evaluate it on the test split, and save the run.

    The model of the epoch with the best validation Recall@20 is kept. Ctrl-C ends the training and
    keeps what was learned; a second one ends the program at once.

    \b
    The run folder holds
      metrics.json           best epoch, validation and test figures, time, memory
      history.csv            a line an epoch
      config.yaml            every option: repeat the run with fit --config
      model.safetensors      weights of the best epoch; last.safetensors of the last
      graph.safetensors      features, interactions, splits, item graph
      vectors.safetensors    representations of users and items, which recommend works with
      users.parquet, items.parquet   your IDs by position
      versions.json, SHA256SUMS      what it was computed with; checksums
    """
    from lirdrec_pyg.datasets import load_data
    from lirdrec_pyg.training import Hooks, Trainer, check_before
    from lirdrec_pyg.training import fit as train

    keep_freed_memory()
    configs = take(DataConfig, values), take(LIRDRecConfig, values), take(TrainingConfig, values)
    data_config, model_config, training_config = configs
    check_before(out, *configs, overwrite)
    data = load_data(data_config, training_config.seed)
    for name, fact in data.facts.items():
        click.echo(f"{name}: {fact}")

    with Interrupt() as interrupt, Progress(training_config.epochs) as progress:

        def on_start(trainer: Trainer) -> None:
            interrupt.listen()
            progress.start(trainer)

        metrics = train(
            data,
            out,
            absolute_paths(data_config),
            model_config,
            training_config,
            Hooks(on_start, progress.step, progress.epoch, lambda: interrupt.signal is not None),
            overwrite,
        )
    best = (
        f"Best epoch {metrics['best_epoch']} of {metrics['epochs']}" if metrics["epochs"] else "No epoch was finished"
    )
    cold = metrics.get("cold_start")
    click.echo(
        f"\nStopped: {metrics['stopped']}. {best}, "
        f"validation {metrics['monitor']} {metrics['valid'][metrics['monitor']]:.4f}.\n"
        f"Test, all items ranked:\n{metric_table(metrics['test'])}\n"
        + (f"\nTest, items held out:\n{cold_start_table(cold['test'])}\n" if cold else "")
        + f"\nThe run is in {out}"
    )
    if interrupt.signal is not None:
        sys.exit(128 + interrupt.signal)


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
