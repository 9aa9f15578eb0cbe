import signal
from types import FrameType
from typing import Any

import click

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.launcher import is_first_process


class Interrupt(Callback):
    """Stops a training gracefully on the first SIGINT or SIGTERM after it has started.

    A second signal, or one before the start, has its usual effect.

    Attributes:
        signal: number of the signal, ``None`` if there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        return self

    def on_fit_start(self, trainer: object) -> None:
        if not self._previous:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def should_stop(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        if is_first_process():
            click.echo("\nStopping and saving the progress so far.", err=True)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_error: object) -> None:
        self._restore()
