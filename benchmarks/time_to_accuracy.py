"""Compares how long presets of the training take to a validation Recall@20, and how far they get.

    python benchmarks/time_to_accuracy.py --data DATA --target 0.098 [--presets paper,fast] [--seeds 3]

Everything is measured on the validation split; the test split is not looked at. Other settings can be
tried by name: --set lr=5e-4 --set batch_size=8192 makes a preset "custom" of them.
"""

import copy
import statistics
import time
from dataclasses import fields
from pathlib import Path

import click
from harness import Row, json_option, report
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import PRESETS, DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.datasets import load_data
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training import MONITOR, EpochResult, Trainer


def train(graph: HeteroData, config: TrainingConfig, target: float) -> tuple[float, float | None, float]:
    """Best validation figure, seconds to the target (``None`` if it was missed), and seconds in all."""
    seed_everything(config.seed, verbose=False)
    data = LIRDRec.input_transform(LIRDRecConfig())(copy.copy(graph))
    trainer = Trainer(LIRDRec.from_config(LIRDRecConfig(), data), data, config)
    start = time.perf_counter()
    reached: list[float] = []

    def on_epoch(result: EpochResult) -> None:
        if result.valid[MONITOR] >= target:
            reached.append(time.perf_counter() - start)

    history = trainer.fit(on_epoch=on_epoch).history
    return max(r.valid[MONITOR] for r in history), reached[0] if reached else None, time.perf_counter() - start


@click.command()
@click.option("--data", default="synthetic", show_default=True, help="As fit takes it.")
@click.option("--target", required=True, type=float, help="Validation Recall@20 to reach.")
@click.option("--presets", default=",".join(PRESETS), show_default=True)
@click.option("--seeds", default=3, show_default=True, help="Number of seeds, from 1 on.")
@click.option("--set", "custom", multiple=True, help="NAME=VALUE of a setting of the training.")
@json_option
def main(data: str, target: float, presets: str, seeds: int, custom: tuple[str, ...], json_file: Path | None) -> None:
    """How long presets of the training take to a validation figure, and how far they get."""
    types = {field.name: float if isinstance(field.default, float) else int for field in fields(TrainingConfig)}
    settings = {name: PRESETS[name] for name in presets.split(",") if name}  # type: ignore[index]
    if custom:
        pairs = (pair.split("=", 1) for pair in custom)
        settings["custom"] = {name: types[name](value) for name, value in pairs}
    graph = LIRDRec.graph_transform(LIRDRecConfig())(load_data(DataConfig(data=data), 1).graph)
    found: dict[str, list[tuple[float, float | None, float]]] = {name: [] for name in settings}
    # The presets take turns, since machines are noisy.
    for seed in range(1, seeds + 1):
        for name, values in settings.items():
            found[name].append(train(graph, TrainingConfig(seed=seed, **values), target))
            best, reached, total = found[name][-1]
            when = "missed" if reached is None else f"{reached:.1f} s"
            click.echo(f"{name:8s} seed {seed}: best {best:.4f}, {target:g} after {when}, {total:.1f} s in all")
    click.echo()
    report("time_to_accuracy", [summary(name, runs) for name, runs in found.items()], json_file)


def summary(preset: str, runs: list[tuple[float, float | None, float]]) -> Row:
    best, reached, total = zip(*runs, strict=True)
    times = [seconds for seconds in reached if seconds is not None]
    return {
        "preset": preset,
        "seeds": len(runs),
        "reached": len(times),
        f"best {MONITOR}": statistics.fmean(best),
        "seconds to the target": statistics.fmean(times) if times else None,
        "seconds in all": statistics.fmean(total),
    }


if __name__ == "__main__":
    main()
