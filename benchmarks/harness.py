"""Shared parts of all benchmarks: variants that take turns, peak memory, and the report."""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

import lirdrec_pyg

# Strings and integers identify a row; floating-point numbers are measurements.
Row = Mapping[str, str | int | float | None]
T = TypeVar("T")

json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write rows, command and machine to.",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Device to use."
)


def alternate(
    variants: Mapping[str, Callable[[], object]], repeats: int, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Return the median seconds per variant. Variants take turns, since machines are noisy.

    ``before`` is called before each variant. Its time is not counted, and neither is the first round.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, run in variants.items():
            before()
            times[name].append(seconds(run))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def seconds(run: Callable[[], object]) -> float:
    """Return the seconds that ``run`` takes, including its work on a GPU."""
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_own_process(run: Callable[..., T], *args: object) -> T:
    """Call ``run`` in a new process, so that its peak memory is measured separately."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(run, *args).result()


def peak_gib() -> float:
    """Return the peak memory of the process so far in GiB, including torch."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def resident_gib(process: int | str = "self") -> float:
    """Return the current memory of a process in GiB, including pages of mapped files."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**30


def peak_gpu_gib() -> float | None:
    """Return the peak memory of torch on a GPU so far in GiB, ``None`` without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def report(
    benchmark: str,
    rows: Sequence[Row],
    json_file: Path | None = None,
    shown: Callable[[Sequence[Row]], str] | None = None,
) -> None:
    """Print ``rows`` as a table or as formatted by ``shown``, and write them to ``json_file``."""
    click.echo((shown or table)(rows))
    if json_file is not None:
        content = {"benchmark": benchmark, "command": sys.argv[1:], "machine": machine(), "rows": list(rows)}
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Format ``rows`` as aligned columns, floating-point numbers with three significant digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_text(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [any(isinstance(row.get(name), (int, float)) for row in rows) for name in names]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> dict[str, str | int | None]:
    """Return what measurements depend on besides the program."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "lirdrec_pyg": lirdrec_pyg.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "gpu": gpu,
    }


def _commit() -> str | None:
    """Return the commit of the measured package, with a plus sign if its files have changed since."""
    folder = Path(lirdrec_pyg.__file__).parent
    describe = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    found = subprocess.run(describe, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
