"""Compare epochs on a quiet machine with epochs beside busy loops, with and without the command line's settings.

    python benchmarks/contention.py [--data DATA] [--loops 2] [--rounds 3]

Each variant is a separate process, since OpenMP reads its settings when torch is imported. The variants take
turns, each first alone and then beside the loops. Pin everything to two CPUs with: taskset -c 0,1 python ...
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from harness import Row, json_option, report

FOLDER = Path(__file__).resolve().parent
# Statements that run before torch is imported.
VARIANTS = {
    "defaults of torch": "",
    # Earlier commits have no such settings.
    "command line": (
        "import contextlib\n"
        "with contextlib.suppress(ImportError): from lirdrec_pyg.threads import prepare_threads; prepare_threads()"
    ),
    "one thread": "import os; os.environ['OMP_NUM_THREADS'] = '1'",
}
_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_")
# A loop ends with this process, even if this process is killed.
_LOOP = "import os\nwhile os.getppid() == {parent}: sum(range(100_000))"


def serve_epochs(data: str, batch_size: int) -> None:
    """Print the mean seconds per epoch for each number of seconds on standard input. Runs in the variant's process."""
    # Imported here: the main process trains nothing.
    from compat import LIRDRecConfig, TrainingConfig, load_graph
    from training import batches, prepared_trainer, step

    from lirdrec_pyg.models import LIRDRec

    graph = LIRDRec.graph_transform(LIRDRecConfig())(load_graph(data))
    trainer = prepared_trainer(graph, LIRDRecConfig(), TrainingConfig(batch_size=batch_size, device="cpu"))
    source = batches(trainer)
    step(trainer, next(source))
    print("ready", flush=True)
    for line in sys.stdin:
        start, steps = time.perf_counter(), 0
        while steps == 0 or time.perf_counter() - start < float(line):
            step(trainer, next(source))
            steps += 1
        print((time.perf_counter() - start) / steps * trainer.steps_per_epoch, flush=True)


@contextmanager
def trainer_process(prepare: str, data: str, batch_size: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process that runs epochs with the settings of ``prepare``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(FOLDER)]))
    program = f"{prepare}\nimport contention\ncontention.serve_epochs({data!r}, {batch_size})"
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        if not _line(process).startswith("ready"):
            raise click.ClickException("The training did not start; see the error above.")
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Run ``number`` processes that each keep one CPU busy."""
    command = [sys.executable, "-c", _LOOP.format(parent=os.getpid())]
    loops = [subprocess.Popen(command) for _ in range(number)]
    try:
        time.sleep(0.3)  # for their start
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def epoch_seconds(process: subprocess.Popen[str], seconds: float) -> float:
    """Return the mean seconds per epoch over the next ``seconds``."""
    assert process.stdin is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(_line(process))


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@click.command()
@click.option("--data", default="synthetic", show_default=True, help="Data, as for `fit`.")
@click.option("--batch-size", default=2048, show_default=True)
@click.option("--loops", default=2, show_default=True, help="Number of busy loops.")
@click.option("--rounds", default=3, show_default=True, help="Number of turns per variant.")
@click.option("--seconds", default=2.0, show_default=True, help="Length of each measurement, at least one step.")
@json_option
def main(data: str, batch_size: int, loops: int, rounds: int, seconds: float, json_file: Path | None) -> None:
    """Seconds per epoch, alone and beside busy loops."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(trainer_process(prepare, data, batch_size)) for name, prepare in VARIANTS.items()
        }
        for _ in range(rounds):
            for name, process in processes.items():
                quiet = epoch_seconds(process, seconds)
                with busy_loops(loops):
                    found[name].append((quiet, epoch_seconds(process, seconds)))
    report("contention", [summary(name, loops, times) for name, times in found.items()], json_file)


def summary(variant: str, loops: int, times: list[tuple[float, float]]) -> Row:
    """Return the medians over the rounds, and the slowest round."""
    quiet, contended = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "variant": variant,
        "loops": loops,
        "seconds": quiet,
        "seconds contended": contended,
        "slowest contended": max(time for _, time in times),
        "ratio": contended / quiet,
    }


if __name__ == "__main__":
    main()
