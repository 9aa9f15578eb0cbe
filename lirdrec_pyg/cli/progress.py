import click
from tqdm import tqdm

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.training import MONITOR, EpochResult, Trainer


class Progress(Callback):
    """Shows the progress of a training: a bar on a terminal, else one line per epoch."""

    def __init__(self) -> None:
        self._epochs = 0
        self._steps = 1
        self._best = 0.0
        self._bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_fit_start(self, trainer: Trainer) -> None:
        if not is_first_process():
            return
        self._epochs = trainer.config.epochs
        self._steps = trainer.steps_per_epoch
        done = trainer.result.history
        if self._bar is not None:  # of an earlier training
            self._bar.close()
        self._best = max((result.valid[MONITOR] for result in done if result.valid), default=0.0)
        if done:
            best = f", best {MONITOR} {self._best:.4f}" if done[-1].valid else ""
            click.echo(f"resuming after epoch {len(done)}{best}")
        parameters = sum(p.numel() for p in trainer.model.parameters())
        click.echo(
            f"training: {parameters:,} parameters on {trainer.fabric.device}, "
            f"{len(trainer.sampler):,} triples in {self._steps} steps per epoch"
        )
        self._bar = tqdm(
            total=self._epochs,
            initial=len(done),
            disable=None,  # shown on a terminal only
            smoothing=0.02,
            bar_format="{percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs "
            "[{elapsed}, at most {remaining} left{postfix}]",
        )

    def on_step_end(self, epoch: int, step: int) -> None:
        if self._bar is not None:
            self._bar.update(1 / self._steps)

    def on_epoch_end(self, result: EpochResult) -> None:
        if self._bar is None:
            return
        value = ""
        if result.valid:
            self._best = max(self._best, result.valid[MONITOR])
            value = f"  {MONITOR} {result.valid[MONITOR]:.4f}{' *' if result.improved else '  '}"
        if not self._bar.disable:
            self._bar.n = result.epoch
            best = f", best {self._best:.4f}" if result.valid else ""
            self._bar.set_postfix_str(f"loss {result.loss:.4f}{value.rstrip(' *').replace('  ', ', ')}{best}")
            return
        seconds = result.train_seconds + result.eval_seconds
        left = tqdm.format_interval((self._epochs - result.epoch) * seconds)
        epoch = f"epoch {result.epoch:4d}/{self._epochs}  loss {result.loss:.4f}"
        click.echo(f"{epoch}{value}  {seconds:.1f} s, at most {left} left")
