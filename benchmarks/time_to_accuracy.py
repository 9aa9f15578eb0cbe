"""Compare how long presets of the training take to reach a validation Recall@20, and their best values.

    python benchmarks/time_to_accuracy.py --data DATA --target 0.098 [--presets paper,fast] [--seeds 3]

Everything is measured on the validation split; the test split is not used. To try other settings, pass them by name:
--set lr=5e-4 --set batch_size=8192 adds a preset named "custom". The preset "best" also changes the model: see
compare.py.
"""

import copy
import statistics
import time
from dataclasses import fields
from pathlib import Path

import click
from compat import PRESETS, Callback, LIRDRecConfig, TrainingConfig, load_graph
from compat import train as train_to_the_end
from harness import Row, json_option, report
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training import MONITOR, EpochResult, Trainer


def train(graph: HeteroData, config: TrainingConfig, target: float) -> tuple[float, float | None, float]:
    """Return the best validation Recall@20, the seconds to the target (``None`` if missed), and the total seconds."""
    seed_everything(config.seed, verbose=False)
    data = LIRDRec.input_transform(LIRDRecConfig())(copy.copy(graph))
    trainer = Trainer(LIRDRec.from_config(LIRDRecConfig(), data), data, config)
    start = time.perf_counter()
    reached: list[float] = []

    class Stopwatch(Callback):
        def on_epoch_end(self, result: EpochResult) -> None:
            if result.valid[MONITOR] >= target:
                reached.append(time.perf_counter() - start)

    history = train_to_the_end(trainer, Stopwatch()).history
    return max(r.valid[MONITOR] for r in history), reached[0] if reached else None, time.perf_counter() - start


@click.command()
@click.option("--data", default="synthetic", show_default=True, help="Data, as for `fit`.")
@click.option("--target", required=True, type=float, help="Validation Recall@20 to reach.")
@click.option("--presets", default="paper,fast", show_default=True, help="Presets that only change the training.")
@click.option("--seeds", default=3, show_default=True, help="Number of seeds, starting at 1.")
@click.option("--set", "custom", multiple=True, help="NAME=VALUE of a training setting; repeatable.")
@json_option
def main(data: str, target: float, presets: str, seeds: int, custom: tuple[str, ...], json_file: Path | None) -> None:
    """Time that training presets take to reach a validation Recall@20, and their best values."""
    types = {field.name: float if isinstance(field.default, float) else int for field in fields(TrainingConfig)}
    known = {name: values for name, values in PRESETS.items() if types.keys() >= values.keys()}
    if unknown := [name for name in presets.split(",") if name and name not in known]:
        raise click.UsageError(f"Unknown preset {unknown[0]!r} in --presets. Choose from {', '.join(known)}.")
    settings = {name: known[name] for name in presets.split(",") if name}  # type: ignore[index]
    if custom:
        pairs = (pair.split("=", 1) for pair in custom)
        settings["custom"] = {name: types[name](value) for name, value in pairs}
    graph = LIRDRec.graph_transform(LIRDRecConfig())(load_graph(data))
    found: dict[str, list[tuple[float, float | None, float]]] = {name: [] for name in settings}
    # Presets take turns, since machines are noisy.
    for seed in range(1, seeds + 1):
        for name, values in settings.items():
            found[name].append(train(graph, TrainingConfig(seed=seed, **values), target))
            best, reached, total = found[name][-1]
            when = "missed" if reached is None else f"{reached:.1f} s"
            click.echo(f"{name:8s} seed {seed}: best {best:.4f}, {target:g} after {when}, {total:.1f} s in total")
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
        "seconds in total": statistics.fmean(total),
    }


if __name__ == "__main__":
    main()
