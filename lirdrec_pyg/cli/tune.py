import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from lirdrec_pyg.callback import CallbackList
from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.options import PresetCommand, config_file_option, config_options, preset_option, take
from lirdrec_pyg.cli.output import counted
from lirdrec_pyg.cli.progress import BarCallback
from lirdrec_pyg.data import DataConfig, Dataset
from lirdrec_pyg.experiments import Space, TrialResult
from lirdrec_pyg.experiments import tune as search
from lirdrec_pyg.experiments.tune import check_before
from lirdrec_pyg.models import LIRDRecConfig
from lirdrec_pyg.training import MONITOR, EpochResult, Trainer, TrainingConfig


@click.command(cls=PresetCommand, context_settings={"max_content_width": 100})
@click.option("--data", required=True, help=DataConfig.doc("data"))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the study.")
@click.option("--trials", required=True, type=click.IntRange(1), help="Number of trials of the study as a whole.")
@click.option(
    "--space",
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML file with the values to try instead of the default; see below.",
)
@config_file_option
@preset_option("best")
@config_options(DataConfig, LIRDRecConfig, TrainingConfig, skip=("data",))
def tune(out: Path, trials: int, space: Path | None, **values: Any) -> None:
    """Search for the settings of LIRDRec with the best validation Recall@20.

    By default, it tries --item-graph and --no-item-graph, --num-layers 1, 2, 3 and --temperature 0.1, 0.15, 0.2. With
    --preset paper, it tries the paper's grid: --num-layers 2, 3, 4; --reg-weight 1e-2, 1e-3, 1e-4; --network-weight
    0.9, 0.95, 0.99; --weight-decay 0, 1e-6, 1e-5; and, if there are images beside other modalities, their share 0.1,
    0.5, 0.9 in the item graph. Settings without effect on the model are left out. Other settings are those of the
    options. Trials have no race and no linear branch; fit adds the linear branch of --preset best after its training. A
    file for --space has lines such as

    \b
      num_layers: [2, 3, 4]
      lr: {low: 1e-5, high: 1e-3, log: true}
      graph_weights.image: [0.1, 0.5]

    A grid is tried in a random order, each point once; from a space with ranges, Optuna's TPE sampler chooses. A trial
    stops early if its Recall@20 is below the median of earlier trials at the same epoch. Fewer --epochs than the
    default shorten the trials only: best.yaml then has the default, and early stopping ends the final training. A
    larger number is kept, and so is one from --space.

    After Ctrl-C, a kill or with a larger --trials, the same command resumes the study. It may run several times at
    once; at the end, it waits up to a minute for signs of life of the others, and repeats the trial of one that was
    killed. The test split is not used. Needs the extra 'tune': pip install 'lirdrec-pyg[tune]'.

    \b
    --out holds
      best.yaml    settings of the best trial, for fit --config
      trials.csv   one line per trial
      study.db     Optuna study in SQLite
    """
    keep_freed_memory()
    data_config, model_config = take(DataConfig, values), take(LIRDRecConfig, values)
    training_config = take(TrainingConfig, values)
    check_before(model_config, training_config)
    settings = None if space is None else Space.read(space, model_config)
    dataset = Dataset.from_path(data_config, seed=training_config.seed)
    with Interrupt() as interrupt, closing(_Progress(trials)) as progress:
        callback = CallbackList((interrupt, progress))
        study = search(dataset, out, model_config, training_config, trials, settings, callback)
    finished, best = len(study.finished()), study.best()
    left = "" if finished >= trials else f" of {trials}"
    if left and interrupt.signal is None:
        left += "; others are running, or everything was tried"
    click.echo(f"\n{counted(finished, 'trial is', 'trials are')} done{left}.")
    if best is not None:
        click.echo(f"Best validation {MONITOR}: {best.value:.4f}, with {_format(best.settings)}")
        click.echo(f"Train with it: lirdrec-pyg fit --config {out / 'best.yaml'} --out RUN")
    if interrupt.signal is not None:
        click.echo("The same command resumes the study.")
        sys.exit(128 + interrupt.signal)


def _format(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )


class _Progress(BarCallback):
    """Prints a line per trial, and shows a bar of the epochs of the current one on a terminal."""

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._number = 0
        self._start = time.monotonic()
        self._done = 0

    def on_trial_start(self, number: int, settings: dict[str, Any]) -> None:
        self._number = number

    def on_fit_start(self, trainer: Trainer) -> None:
        # On a terminal only.
        description = f"trial {self._number}"
        form = "{desc}: epoch {n} of at most {total} [{elapsed}{postfix}]"
        self._bar = tqdm(total=trainer.config.epochs, desc=description, disable=None, leave=False, bar_format=form)

    def on_epoch_end(self, result: EpochResult) -> None:
        assert self._bar is not None
        self._bar.update()
        self._bar.set_postfix_str(f"{MONITOR} {result.valid[MONITOR]:.4f}")

    def on_trial_end(self, result: TrialResult, is_best: bool) -> None:
        self.close()
        if result.state == "interrupted":
            return
        self._done += 1
        seconds = (time.monotonic() - self._start) / self._done
        value = "no epoch" if result.value is None else f"{MONITOR} {result.value:.4f}{' *' if is_best else '  '}"
        note = "" if result.state == "complete" else f" ({result.state})"
        left = tqdm.format_interval(seconds * max(0, self._trials - result.number - 1))
        click.echo(
            f"trial {result.number:3d}  {value}  epoch {result.best_epoch} of {result.epochs}{note}, "
            f"{result.seconds:.1f} s, about {left} left: {_format(result.settings)}"
        )
