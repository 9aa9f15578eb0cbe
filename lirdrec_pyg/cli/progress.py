from collections.abc import Iterable, Iterator
from typing import Any
from weakref import proxy

import click
import polars as pl
from tqdm import tqdm

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.cli.output import counted
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.training import MONITOR, EpochResult, Trainer


class BarCallback(Callback):
    """Base of callbacks with a progress bar."""

    _bar: tqdm | None = None

    def close(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Progress(BarCallback):
    """Shows the progress of a training: a bar on a terminal, else one line per epoch."""

    def on_fit_start(self, trainer: Trainer) -> None:
        if not is_first_process():
            return
        self._trainer = proxy(trainer)  # its memory is free for the refit when it has ended
        done = trainer.result.history
        self.close()  # the bar of an earlier training
        if trainer.num_restored:
            click.echo(f"resuming after epoch {len(done)}{self._best()}")
        parameters = sum(p.numel() for p in trainer.model.parameters())
        click.echo(
            f"training: {parameters:,} parameters on {trainer.fabric.device}, "
            f"{len(trainer.sampler):,} interactions in {counted(trainer.steps_per_epoch, 'step')} per epoch"
        )
        self._bar = tqdm(
            **self._end(),
            initial=len(done),
            disable=None,  # shown on a terminal only
            smoothing=0.02,
            bar_format="{percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}, {desc}{remaining} left{postfix}]",
        )

    def on_step_end(self, epoch: int, step: int) -> None:
        if self._bar is not None:
            self._bar.update(1 / self._trainer.steps_per_epoch)

    def on_epoch_end(self, result: EpochResult) -> None:
        if self._bar is None:
            return
        value = f"  {MONITOR} {result.valid[MONITOR]:.4f}{' *' if result.improved else '  '}" if result.valid else ""
        best, end = self._best(), self._end()
        if not self._bar.disable:
            vars(self._bar).update(end, n=result.epoch)
            self._bar.set_postfix_str(f"loss {result.loss:.4f}{value.rstrip(' *').replace('  ', ', ')}{best}")
            return
        seconds, epochs, last = result.seconds, self._trainer.config.epochs, end["total"]
        left = f"{tqdm.format_interval((last - result.epoch) * seconds)} left"
        ending = left if last == epochs else f"stops after epoch {last} unless better"
        click.echo(f"epoch {result.epoch:4d}/{epochs}  loss {result.loss:.4f}{value}  {seconds:.1f} s{best}, {ending}")

    def _best(self) -> str:
        return "" if self._trainer.task is None else f", best epoch {self._trainer.result.best_epoch}"

    def _end(self) -> dict[str, Any]:
        """Return the epoch after which the training ends if no later one is better, as attributes of the bar."""
        config, best = self._trainer.config, self._trainer.result.best_epoch
        last = config.epochs if self._trainer.task is None else min(config.epochs, max(best, 1) + config.patience)
        return {"total": last, "desc": "at least " if last < config.epochs else ""}


def with_progress(frames: Iterable[pl.DataFrame], work: str, column: str, total: int | None = None) -> Iterator[Any]:
    """Yield frames, and show on a terminal how many users or items, by the values of a column, they have held."""
    with tqdm(desc=work, unit=f" {column}s", total=total, disable=None) as bar:
        for frame in frames:
            yield frame
            bar.update(frame[column].n_unique())
