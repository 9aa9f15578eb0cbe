"""Measure how time and memory grow with interactions, items and feature width.

    python benchmarks/growth.py [--axes interactions,items,width] [--quick] [--plot growth.png]

Each point is a random graph in a separate process. The time of an epoch is that of sampling its triples, plus the
number of steps times the median step. The exponent is the slope of a line that is fitted to the upper half of the
points on logarithmic scales, since fixed costs hide the growth in the lower half.
"""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from compat import LIRDRecConfig, TrainingConfig, resolve_device
from generated import generated_graph
from harness import Row, device_option, in_own_process, json_option, peak_gib, peak_gpu_gib, report, seconds, table
from training import prepared_trainer, step_seconds

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.models import LIRDRec

MEASURES = ("item graph s", "step s", "epoch s", "evaluation s", "peak GiB")
_INTERACTIONS_PER_USER = 20


@dataclass(frozen=True)
class Point:
    """A graph of ``interactions / 20`` users with two modalities of ``width / 2`` each."""

    interactions: int
    items: int
    width: int


AXES = {
    "interactions": [Point(n, 20_000, 128) for n in (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)],
    "items": [Point(1_000_000, n, 128) for n in (10_000, 30_000, 100_000, 300_000, 1_000_000)],
    "width": [Point(1_000_000, 20_000, n) for n in (128, 256, 512, 1024, 2048, 4096)],
}


def measure(point: Point, device: str, steps: int) -> Row:
    keep_freed_memory()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lirdrec_pyg").setLevel(logging.INFO)
    widths = {"image": point.width // 2, "text": point.width // 2}
    graph = generated_graph(point.interactions // _INTERACTIONS_PER_USER, point.items, point.interactions, widths)
    graph = graph.to(resolve_device(device))
    found = []
    item_graph = seconds(lambda: found.append(LIRDRec.graph_transform(LIRDRecConfig())(graph)))
    trainer = prepared_trainer(found[0], LIRDRecConfig(), TrainingConfig(device=device))  # type: ignore[arg-type]
    step = step_seconds(trainer, steps)
    sampling = seconds(trainer.sampler.sample_epoch)
    evaluation = statistics.median(seconds(lambda: trainer.evaluate(trainer.task)) for _ in range(3))
    return {
        **vars(point),
        "item graph s": item_graph,
        "step s": step,
        "epoch s": sampling + trainer.steps_per_epoch * step,
        "evaluation s": evaluation,
        "peak GiB": peak_gib(),
        "peak GPU GiB": peak_gpu_gib(),
    }


def exponents(axis: str, rows: Sequence[Row]) -> Row:
    """Return the slopes of the measures along ``axis`` on logarithmic scales."""
    upper = rows[(len(rows) - 1) // 2 :]
    x = np.log([float(row[axis]) for row in upper])  # type: ignore[arg-type]
    slopes = {
        name: float(np.polyfit(x, np.log([float(row[name]) for row in upper]), 1)[0])  # type: ignore[arg-type]
        for name in MEASURES
    }
    return {"grows with": axis, **slopes}


def plot(found: dict[str, list[Row]], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(4 * len(found), 4), layout="constrained")
    for axes, (axis, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        slopes = exponents(axis, rows)
        for name in MEASURES:
            x, y = ([row[key] for row in rows] for key in (axis, name))
            axes.loglog(x, y, marker="o", label=f"{name}, exponent {slopes[name]:.2f}")
        axes.set_xlabel(axis)
        axes.set_ylabel("seconds, GiB")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--axes", default=",".join(AXES), show_default=True)
@click.option("--quick", is_flag=True, help="Leave out the two largest points of each axis.")
@click.option("--steps", default=5, show_default=True, help="Number of measured steps per point.")
@click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Image file to plot the curves to."
)
@device_option
@json_option
def main(axes: str, quick: bool, steps: int, plot_file: Path | None, device: str, json_file: Path | None) -> None:
    """Growth of time and memory with interactions, items and feature width."""
    if unknown := set(axes.split(",")) - AXES.keys():
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(AXES)}.", param_hint="--axes")
    found: dict[str, list[Row]] = {}
    for axis in axes.split(","):
        found[axis] = []
        for point in AXES[axis][: -2 if quick else None]:
            found[axis].append({"axis": axis, **in_own_process(measure, point, device, steps)})
            click.echo(table(found[axis][-1:]) + "\n")
    if plot_file is not None:
        plot(found, plot_file)
    report("growth", [row for rows in found.values() for row in rows], json_file)
    click.echo("\nexponents\n" + table([exponents(axis, rows) for axis, rows in found.items()]))


if __name__ == "__main__":
    main()
