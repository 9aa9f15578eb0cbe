"""Commands in child processes that can be killed; the libraries are imported once for all of them."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from commands import CONTEXT, wait_until


def _run(args: tuple[str, ...], output: Path) -> None:
    from lirdrec_pyg.cli import main

    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # which its own child processes open again
    # Without buffers, so that a kill loses no output.
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(args, prog_name="lirdrec-pyg")


def start(args: tuple[object, ...], output: Path) -> ForkServerProcess:
    """Start a command of the package, with its output in a file."""
    process = CONTEXT.Process(target=_run, args=(tuple(map(str, args)), output))
    process.start()
    return process


def end_when(process: ForkServerProcess, condition: Callable[[], bool], number: int = signal.SIGKILL) -> None:
    """Send a signal as soon as a condition holds, and wait for the end."""
    wait_until(condition, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
