import time
from types import TracebackType
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from lirdrec_pyg.training import EpochResult, Trainer


class Progress:
    """A bar on a terminal, else a line an epoch."""

    def __init__(self) -> None:
        self._epochs = 0
        self._steps = 1
        self._best = 0.0
        self._bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, trainer: "Trainer") -> None:
        from lirdrec_pyg.training import MONITOR

        self._epochs = trainer.config.epochs
        self._steps = trainer.steps_per_epoch
        done = trainer.result.history
        if self._bar is not None:  # of a training before
            self._bar.close()
        self._best = 0.0
        if done:
            self._best = max(result.valid[MONITOR] for result in done)
            click.echo(f"going on after epoch {len(done)}, best {MONITOR} {self._best:.4f}")
        parameters = sum(p.numel() for p in trainer.model.parameters())
        click.echo(
            f"training: {parameters:,} parameters on {trainer.fabric.device}, "
            f"{len(trainer.sampler):,} triples in {self._steps} steps an epoch"
        )
        self._bar = tqdm(
            total=self._epochs,
            initial=len(done),
            disable=None,  # a bar on a terminal only
            smoothing=0.02,
            bar_format="{percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs "
            "[{elapsed}, at most {remaining} left{postfix}]",
        )

    def step(self, _epoch: int, _step: int) -> None:
        if self._bar is not None:
            self._bar.update(1 / self._steps)

    def epoch(self, result: "EpochResult") -> None:
        from lirdrec_pyg.training import MONITOR

        value = result.valid[MONITOR]
        self._best = max(self._best, value)
        if self._bar is not None and not self._bar.disable:
            self._bar.n = result.epoch
            self._bar.set_postfix_str(f"loss {result.loss:.4f}, {MONITOR} {value:.4f}, best {self._best:.4f}")
            return
        seconds = result.train_seconds + result.eval_seconds
        left = tqdm.format_interval((self._epochs - result.epoch) * seconds)
        click.echo(
            f"epoch {result.epoch:4d}/{self._epochs}  loss {result.loss:.4f}  {MONITOR} {value:.4f}"
            f"{' *' if result.improved else '  '}  {seconds:.1f} s, at most {left} left"
        )


class RowProgress:
    """A bar for each modality on a terminal, else a line from time to time, with the rate and the time left."""

    _SECONDS = 10.0

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._name, self._total, self._done, self._before = "", 0, 0, 0
        self._begun = self._shown = 0.0

    def __enter__(self) -> "RowProgress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def start(self, name: str, total: int, done: int, delay: float = 0.0) -> None:
        """Begins a new bar in place of one before; it is shown if it isn't at its end after ``delay`` seconds."""
        self.end()
        if 0 < done < total:
            click.echo(f"{name}: going on after {done:,} of {total:,} items")
        self._name, self._total, self._done, self._before = name, total, done, done
        self._begun = self._shown = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc=name, unit=" items", disable=None, delay=delay)

    def rows(self, count: int) -> None:
        self._done += count
        if self._bar is not None and not self._bar.disable:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._shown < self._SECONDS or self._done == self._total:
            return
        self._shown, rate = now, (self._done - self._before) / (now - self._begun)
        left = tqdm.format_interval((self._total - self._done) / rate)
        click.echo(f"{self._name}: {self._done:,} of {self._total:,} items, {rate:.1f} a second, {left} left")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
