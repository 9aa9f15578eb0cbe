"""Measure training on sampled neighborhoods of a graph that is too large to process as a whole in each step.

    python benchmarks/sampling.py [--users N] [--items N] [--interactions N] [--steps N] [--fanout F,F]

The graph and its item graph are computed in one process and the steps are measured in another, so that their memory is
measured separately. Features are a memory-mapped file.
"""

import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from compat import Callback, LIRDRecConfig, TrainingConfig, input_transform, train
from generated import clustered_features, random_interactions
from harness import Row, in_own_process, json_option, peak_gib, report, resident_gib
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import INTERACTS, SIMILAR, build_graph
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training import Trainer

_MODALITY = "content"
_POINTS = 10  # of the memory curve


def prepare(folder: Path, num_users: int, num_items: int, num_interactions: int, width: int) -> None:
    """Write a graph into ``folder``."""
    generator = torch.Generator().manual_seed(0)
    interactions, val = random_interactions(num_users, num_items, num_interactions, generator)
    x = clustered_features(num_items, width, generator)
    data = build_graph(interactions, {_MODALITY: x}, val=val, test=val, num_users=num_users)
    data = LIRDRec.graph_transform(LIRDRecConfig(), progress=True)(data)
    np.save(folder / "features.npy", x.numpy())
    for name, value in (("train", interactions), ("val", val), *data[SIMILAR].items()):
        np.save(folder / f"{name}.npy", value.numpy())


def load(folder: Path, num_users: int) -> HeteroData:
    interactions, val, *similar = (
        torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("train", "val", "edge_index", "edge_weight")
    )
    x = np.load(folder / "features.npy", mmap_mode="c")
    data = build_graph(interactions, {_MODALITY: x}, val=val, test=val, num_users=num_users)
    data[SIMILAR].edge_index, data[SIMILAR].edge_weight = similar
    return data


def measure(folder: Path, num_users: int, steps: int, fanout: str, batch_size: int, user_gradients: str) -> list[Row]:
    """Return one row per tenth of the steps."""
    config = TrainingConfig(
        sampling="neighbors", fanout=fanout, batch_size=batch_size, user_gradients=user_gradients, device="cpu"
    )
    model_config = LIRDRecConfig(num_layers=len(fanout.split(",")))
    data = load(folder, num_users)
    interactions = data[INTERACTS].edge_index.size(1)
    data = input_transform(model_config, config)(data)
    trainer = Trainer(LIRDRec.from_config(model_config, data), data, config)
    curve = _MemoryCurve(steps, {"interactions": interactions, "batch": batch_size, "fanout": fanout})
    train(trainer, curve)
    return curve.rows


class _MemoryCurve(Callback):
    """Notes speed and memory at each tenth of the steps, and stops after the last."""

    def __init__(self, steps: int, labels: Row) -> None:
        self.rows: list[Row] = []
        self._steps = steps
        self._labels = labels
        self._done = 0
        self._start = time.perf_counter()

    def on_step_end(self, epoch: int, step: int) -> None:
        self._done = step
        if step % max(1, self._steps // _POINTS) == 0:
            speed, gib = step / (time.perf_counter() - self._start), resident_gib()
            self.rows.append({**self._labels, "step": step, "steps/s": speed, "GiB": gib, "peak GiB": peak_gib()})
            click.echo(f"step {step}: {speed:.3g} steps/s, {gib:.2f} GiB", err=True)

    def should_stop(self) -> bool:
        return self._done >= self._steps


@click.command()
@click.option("--users", default=2_000_000, show_default=True)
@click.option("--items", default=500_000, show_default=True)
@click.option("--interactions", default=20_000_000, show_default=True)
@click.option("--width", default=512, show_default=True, help="Width of the features.")
@click.option("--steps", default=200, show_default=True)
@click.option("--fanout", default="20,10", show_default=True)
@click.option("--batch-size", default=2048, show_default=True)
@click.option("--user-gradients", type=click.Choice(["dense", "sparse"]), default="sparse", show_default=True)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder in which the graph is kept, and from which it is read if it exists.",
)
@json_option
def main(
    users: int,
    items: int,
    interactions: int,
    width: int,
    steps: int,
    fanout: str,
    batch_size: int,
    user_gradients: str,
    folder: Path | None,
    json_file: Path | None,
) -> None:
    """Speed and memory of steps on sampled neighborhoods of a graph with millions of nodes."""
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "edge_weight.npy").exists():
            in_own_process(prepare, place, users, items, interactions, width)
        rows = in_own_process(measure, place, users, steps, fanout, batch_size, user_gradients)
    report("sampling", rows, json_file)


if __name__ == "__main__":
    main()
