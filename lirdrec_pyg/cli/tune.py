import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.fit import absolute_paths
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.options import config_file_option, config_options, preset_option, take
from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig

if TYPE_CHECKING:
    from lirdrec_pyg.training import EpochResult, Trainer
    from lirdrec_pyg.tuning import TrialResult


@click.command(context_settings={"max_content_width": 100})
@click.option("--data", required=True, help=DataConfig.doc("data"))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the study.")
@click.option("--trials", required=True, type=click.IntRange(1), help="Number of trials of the study as a whole.")
@click.option(
    "--space",
    "space_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML file with what to try instead of the paper's grid; see below.",
)
@config_file_option
@preset_option
@config_options(DataConfig, LIRDRecConfig, TrainingConfig, skip=("data",))
def tune(out: Path, trials: int, space_file: Path | None, **values: Any) -> None:
    """Search for good settings of LIRDRec by the validation Recall@20.

    The paper's grid is tried by default: --num-layers 2, 3, 4; --reg-weight 1e-2, 1e-3, 1e-4; --network-weight 0.9,
    0.95, 0.99; --weight-decay 0, 1e-6, 1e-5; and, if there are pictures beside other modalities, their share
    0.1, 0.5, 0.9 in the item graph; but nothing that makes no difference to the settings given here, of which all
    others are. A file for --space has lines as

    \b
      num_layers: [2, 3, 4]
      lr: {low: 1e-5, high: 1e-3, log: true}
      graph_weights.image: [0.1, 0.5]

    The points of a grid are tried once each, in an order drawn by --seed; with ranges, Optuna's TPE sampler
    chooses. A trial ends early if its Recall@20 is below the median of the trials before at the same epoch.

    The same command goes on where the study stands, after Ctrl-C, a kill or with a larger --trials, and can be
    run several times at once. The test split plays no part. Needs the extra 'tune'.

    \b
    --out holds
      best.yaml    settings of the best trial: fit --config takes it
      trials.csv   a line a trial
      study.db     the Optuna study, in SQLite
    """
    from lirdrec_pyg.datasets import load_data
    from lirdrec_pyg.tuning import Space, TuneHooks
    from lirdrec_pyg.tuning import tune as search
    from lirdrec_pyg.tuning.study import check_before

    keep_freed_memory()
    data_config, model_config = take(DataConfig, values), take(LIRDRecConfig, values)
    training_config = take(TrainingConfig, values)
    configs = absolute_paths(data_config), model_config, training_config
    check_before(configs)
    space = None if space_file is None else Space.read(space_file)
    data = load_data(data_config, training_config.seed)
    with Interrupt() as interrupt, _Progress(trials) as progress:
        interrupt.listen()
        hooks = TuneHooks(progress.start, progress.epoch, progress.end, lambda: interrupt.signal is not None)
        study = search(data.graph, out, configs, trials, space, hooks)
    finished, best = len(study.finished()), study.best()
    click.echo(f"\n{finished} trials are done{_why_not_all(finished, trials)}.")
    if best is not None:
        click.echo(f"Best validation recall@20: {best.value:.4f}, with {_shown(best.params)}")
        click.echo(f"Train with it: lirdrec-pyg fit --config {out / 'best.yaml'} --out RUN")
    if interrupt.signal is not None:
        click.echo("The same command goes on from here.")
        sys.exit(128 + interrupt.signal)


def _why_not_all(finished: int, trials: int) -> str:
    return "" if finished >= trials else f" of {trials}; others are under way, or there is nothing else to try"


def _shown(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )


class _Progress:
    """A line a trial, and on a terminal a bar of the epochs of the one under way."""

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._bar: tqdm | None = None
        self._start = time.monotonic()
        self._done = 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def start(self, number: int, settings: dict[str, Any], trainer: "Trainer") -> None:
        self._bar = tqdm(
            total=trainer.config.epochs,
            desc=f"trial {number}",
            unit="epoch",
            disable=None,  # a bar on a terminal only
            leave=False,
        )

    def epoch(self, result: "EpochResult") -> None:
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix_str(f"recall@20 {result.valid['recall@20']:.4f}")

    def end(self, result: "TrialResult", best: bool) -> None:
        self._close()
        if result.state == "interrupted":
            return
        self._done += 1
        seconds = (time.monotonic() - self._start) / self._done
        value = "no epoch" if result.value is None else f"recall@20 {result.value:.4f}{' *' if best else '  '}"
        note = "" if result.state == "complete" else f" ({result.state})"
        left = tqdm.format_interval(seconds * max(0, self._trials - result.number - 1))
        click.echo(
            f"trial {result.number:3d}  {value}  epoch {result.best_epoch} of {result.epochs}{note}, "
            f"{result.seconds:.1f} s, about {left} left: {_shown(result.settings)}"
        )
