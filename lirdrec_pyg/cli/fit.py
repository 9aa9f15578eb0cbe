import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import click

from lirdrec_pyg.cli.options import config_file_option, config_options, take
from lirdrec_pyg.cli.tables import metric_table
from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig

if TYPE_CHECKING:
    from lirdrec_pyg.training import EpochResult, Trainer


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Run folder to make; see what it holds below."
)
@click.option("--overwrite", is_flag=True, help="Replace the run that is in --out.")
@config_file_option
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
      users.parquet, items.parquet   your IDs by position
      versions.json          what it was computed with
    """
    from lirdrec_pyg.datasets import load_data
    from lirdrec_pyg.training import Hooks, Run
    from lirdrec_pyg.training import fit as train

    configs = take(DataConfig, values), take(LIRDRecConfig, values), take(TrainingConfig, values)
    data_config, model_config, training_config = configs
    Run.check_free(out, overwrite)
    data = load_data(data_config, training_config.seed)
    for name, fact in data.facts.items():
        click.echo(f"{name}: {fact}")

    with _Interrupt() as interrupt, _Progress(training_config.epochs) as progress:
        metrics = train(
            data,
            out,
            absolute_paths(data_config),
            model_config,
            training_config,
            Hooks(progress.start, progress.step, progress.epoch, lambda: interrupt.signal is not None),
            overwrite,
        )
    click.echo(
        f"\nStopped: {metrics['stopped']}. Best epoch {metrics['best_epoch']} of {metrics['epochs']}, "
        f"validation {metrics['monitor']} {metrics['valid'][metrics['monitor']]:.4f}.\n"
        f"Test, all items ranked:\n{metric_table(metrics['test'])}\n\nThe run is in {out}"
    )
    if interrupt.signal is not None:
        sys.exit(128 + interrupt.signal)


def absolute_paths(config: DataConfig) -> DataConfig:
    """``config`` with paths that hold from any folder, as it is written down in a run."""
    from dataclasses import replace

    def absolute(path: str) -> str:
        return str(Path(path).absolute())

    return replace(
        config,
        data=config.data if config.data == "synthetic" else absolute(config.data),
        features={modality: absolute(path) for modality, path in config.features.items()},
        item_ids=config.item_ids and absolute(config.item_ids),
    )


class _Interrupt:
    """Turns the first SIGINT or SIGTERM into a wish to stop; the second has its usual effect."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        click.echo("\nStopping: saving what was learned so far.", err=True)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()


class _Progress:
    """A bar on a terminal, else a line an epoch."""

    def __init__(self, epochs: int) -> None:
        from tqdm import tqdm

        # disable=None: a bar on a terminal only.
        self._bar = tqdm(
            total=epochs,
            unit="epoch",
            disable=None,
            bar_format="{percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs "
            "[{elapsed}, at most {remaining} left{postfix}]",
        )
        self._epochs = epochs
        self._steps = 1
        self._best = 0.0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def start(self, trainer: "Trainer") -> None:
        self._steps = trainer.steps_per_epoch
        parameters = sum(p.numel() for p in trainer.model.parameters())
        self._bar.write(
            f"training: {parameters:,} parameters on {trainer.fabric.device}, "
            f"{len(trainer.sampler):,} triples in {self._steps} steps an epoch"
        )
        self._bar.reset(self._epochs)

    def step(self, _epoch: int, _step: int) -> None:
        self._bar.update(1 / self._steps)

    def epoch(self, result: "EpochResult") -> None:
        from lirdrec_pyg.training import MONITOR

        value = result.valid[MONITOR]
        self._best = max(self._best, value)
        if not self._bar.disable:
            self._bar.n = result.epoch
            self._bar.set_postfix_str(f"loss {result.loss:.4f}, {MONITOR} {value:.4f}, best {self._best:.4f}")
            return
        seconds = result.train_seconds + result.eval_seconds
        left = (self._epochs - result.epoch) * seconds
        click.echo(
            f"epoch {result.epoch:4d}/{self._epochs}  loss {result.loss:.4f}  {MONITOR} {value:.4f}"
            f"{' *' if result.improved else '  '}  {seconds:.1f} s, at most {left / 60:.0f} min left"
        )
