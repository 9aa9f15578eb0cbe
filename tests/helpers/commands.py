"""The command line in tests: in this process, in a forked one, and what every mistake of a user must lead to."""

import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result

import lirdrec_pyg
from lirdrec_pyg.cli import main

# Forked from a process that has imported everything and computed nothing: starting one takes no time.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["commands", "lirdrec_pyg.cli.fit", "lirdrec_pyg.features", "openai", "PIL.Image"])


def lirdrec(command: str, *args: object) -> Result:
    """Run a command, on the CPU if it has a choice; ``fit`` has the settings of the paper unless others are given."""
    found = main.get_command(click.Context(main), command)
    assert found is not None
    has_choice = any(param.name == "device" for param in found.params)
    texts = [*map(str, args)]
    has_settings = any(text.startswith(("--preset", "--model", "--config", "--resume")) for text in texts)
    preset = [] if command != "fit" or has_settings else ["--preset", "paper"]
    return CliRunner().invoke(main, [command, *preset, *texts, *(["--device", "cpu"] if has_choice else [])])


def assert_refused(result: Result, *named: str) -> None:
    """Check that the command ended with one line that names everything in ``named``."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    (message,) = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert result.output.rstrip().endswith(message)
    for name in named:
        assert name in message, message


def help_of(*command: str) -> str:
    """Return the help of a command in one line."""
    return re.sub(r"\s+", " ", CliRunner().invoke(main, [*command, "--help"]).output)


def started(work: Callable[..., object], *arguments: Any, daemon: bool = True) -> Any:
    """Start ``work`` in a process of its own, which ends with this one unless it starts further ones."""
    process = CONTEXT.Process(target=work, args=arguments, daemon=daemon)
    process.start()
    return process


def wait_until(condition: Callable[[], object], process: Any) -> None:
    """Wait until a condition holds, or a process has ended."""
    deadline = time.monotonic() + 100
    while not condition() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)


def run_program(output: Path, environment: Mapping[str, str], *args: object) -> None:
    """Do what ``lirdrec-pyg`` does, writing everything that it prints into the file ``output``."""
    os.environ.update(environment)
    sys.stdout = sys.stderr = output.open("w", buffering=1)
    main([str(arg) for arg in args])


def run_by_torchrun(output: Path, *args: object) -> None:
    """Do what ``torchrun --nproc-per-node 2 -m lirdrec_pyg`` does, with forks in place of new interpreters."""
    from torch.distributed.run import main as torchrun

    sys.stdout = sys.stderr = output.open("w", buffering=1)
    program = str(Path(lirdrec_pyg.__file__).with_name("__main__.py"))
    torchrun(["--standalone", "--nproc-per-node=2", "--run-path", "--start-method=fork", program, *map(str, args)])
