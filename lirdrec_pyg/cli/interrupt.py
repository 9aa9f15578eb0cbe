import signal
from types import FrameType, TracebackType
from typing import Any

import click

from lirdrec_pyg.environment import is_first_process


class Interrupt:
    """Turns the first SIGINT or SIGTERM after :meth:`listen` into a wish to stop.

    The second one, and any before, has its usual effect.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        return self

    def listen(self) -> None:
        if self._previous:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        if is_first_process():
            click.echo("\nStopping: saving what was learned so far.", err=True)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
