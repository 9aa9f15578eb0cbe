"""Measure memory and speed of a training whose users are divided among several processes.

    python benchmarks/sharding.py [--users N] [--items N] [--interactions N] [--processes 1,2,4] [--steps N]

The graph is a file that all processes map. Memory is the proportional set size (PSS) of Linux: pages that several
processes share count in parts. One process has all users, as without --user-table sharded.
"""

import os
import tempfile
import time
from pathlib import Path

import click
import torch
import torch.multiprocessing as mp
from generated import generated_graph
from harness import Row, in_own_process, json_option, report
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from lirdrec_pyg import LIRDRecConfig
from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import load_graph, save_graph
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.recommender.sharded import share_interactions
from lirdrec_pyg.training import Trainer, TrainingConfig, make_fabric, make_trainer
from lirdrec_pyg.training.distributed import leave


def prepare(folder: Path, users: int, items: int, interactions: int, width: int) -> None:
    """Write a graph into ``folder``."""
    data = generated_graph(users, items, interactions, {"content": width})
    save_graph(LIRDRec.graph_transform(LIRDRecConfig(), progress=True)(data), folder / "graph.safetensors")


def measure(rank: int, processes: int, port: int, folder: Path, steps: int, fanout: str, batch_size: int) -> None:
    """Take some steps, and write what they took into ``folder``."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    torch.set_num_threads(1)
    config = TrainingConfig(
        sampling="neighbors",
        fanout=fanout,
        batch_size=batch_size,
        user_gradients="sparse",
        user_table="sharded",
        device="cpu",
    )
    model_config = LIRDRecConfig(num_layers=len(fanout.split(",")))
    fabric = make_fabric(config)
    data = load_graph(folder / "graph.safetensors")
    if processes > 1:
        share_interactions(data, folder, fabric)
    trainer = make_trainer(data, model_config, config, fabric)
    curve = _Curve(steps)
    trainer.fit(curve)
    (folder / f"{processes}-{rank}").write_text(f"{curve.seconds} {curve.memory} {curve.peak}", encoding="ascii")
    del trainer
    leave(fabric)


class _Curve(Callback):
    """Notes memory after each step, and stops after the last."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done = steps, 0
        self.memory = self.peak = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, epoch: int, step: int) -> None:
        self._done = step
        self.seconds = (time.perf_counter() - self._start) / step
        self.memory = pss_gib()
        self.peak = max(self.peak, self.memory)

    def should_stop(self) -> bool:
        return self._done >= self._steps


def pss_gib() -> float:
    """Return the memory of this process in GiB, with its share of the pages that other processes have, too."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**20


@click.command()
@click.option("--users", default=2_000_000, show_default=True)
@click.option("--items", default=100_000, show_default=True)
@click.option("--interactions", default=20_000_000, show_default=True)
@click.option("--width", default=128, show_default=True, help="Width of the features.")
@click.option("--processes", default="1,2,4", show_default=True, help="Numbers of processes, separated by commas.")
@click.option("--steps", default=32, show_default=True, help="Steps, a multiple of 16.")
@click.option("--fanout", default="20,10", show_default=True)
@click.option("--batch-size", default=512, show_default=True, help="Triples per step of all processes together.")
@json_option
def main(
    users: int,
    items: int,
    interactions: int,
    width: int,
    processes: str,
    steps: int,
    fanout: str,
    batch_size: int,
    json_file: Path | None,
) -> None:
    """Memory and speed of a training whose users are divided among several processes."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        in_own_process(prepare, folder, users, items, interactions, width)
        for count in map(int, processes.split(",")):
            mp.spawn(measure, (count, find_free_network_port(), folder, steps, fanout, batch_size), count)
            found = [(folder / f"{count}-{rank}").read_text(encoding="ascii").split() for rank in range(count)]
            seconds, memory, peak = (max(map(float, values)) for values in zip(*found, strict=True))
            of_one = memory / float(rows[0]["GiB per process"] or 0) if rows else 1.0
            labels: Row = {"users": users, "interactions": interactions, "processes": count}
            rows.append(
                {
                    **labels,
                    "s/step": seconds,
                    "GiB per process": memory,
                    "between steps, at most": peak,
                    "of one": of_one,
                }
            )
    report("sharding", rows, json_file)


if __name__ == "__main__":
    main()
