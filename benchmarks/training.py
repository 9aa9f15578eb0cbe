"""Compare a step, an epoch and an evaluation with the minimum work that the machine has to do.

    python benchmarks/training.py [--size tiktok|baby] [--device cuda] [--profile]

On a GPU it also checks that the training loop never waits for the device.
"""

import copy
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import torch
from compat import Device, LIRDRecConfig, Precision, TrainingConfig, load_graph, resolve_device
from generated import SIZES, generated_graph
from harness import device_option, json_option, peak_gib, peak_gpu_gib, report, seconds
from lightning_fabric import seed_everything
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.data import INTERACTS, SIMILAR, item_features, modalities
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training import Trainer
from lirdrec_pyg.training.step import training_step

_PRODUCT_SIZE = (8192, 256, 256)
_COPY_FLOATS = 2**25
_WARM_UP = 3


def prepared_trainer(graph: HeteroData, model_config: LIRDRecConfig, config: TrainingConfig) -> Trainer:
    """Return a trainer on ``graph``, which already has its item graph."""
    seed_everything(config.seed, verbose=False)
    data = LIRDRec.input_transform(model_config, config.sparse_backend)(copy.copy(graph))
    trainer = Trainer(LIRDRec.from_config(model_config, data), data, config)
    trainer.model.train()
    trainer.model.start_epoch()
    return trainer


def batches(trainer: Trainer) -> Iterator[Tensor]:
    """Yield the triples of one step after another, endlessly."""
    while True:
        found = trainer.sampler.sample_epoch().split(getattr(trainer, "batch_size", trainer.config.batch_size), dim=1)
        # The last batch of an epoch is smaller, so it is not measured.
        yield from found[:-1] or found


def step(trainer: Trainer, triples: Tensor) -> Tensor:
    return training_step(
        trainer.model, trainer.data, triples, trainer.optimizers, trainer.fabric.backward, trainer.fabric.autocast
    )


def step_seconds(trainer: Trainer, steps: int) -> float:
    """Return the median time of a step."""
    source = batches(trainer)
    for _ in range(_WARM_UP):
        step(trainer, next(source))
    return statistics.median(seconds(lambda: step(trainer, next(source))) for _ in range(steps))


def flops(model: LIRDRec, num_items: int) -> float:
    """Return the FLOPs of the dense products of a step, forward and backward; the features need no gradient."""
    d = model.embedding_dim
    encoders = sum(
        2 * num_items * (2 * encoder.in_channels * encoder.hidden_channels + 3 * encoder.hidden_channels * d)
        for encoder in model.encoders
    )
    hidden = max(1, d // 4)
    fusion = 3 * 2 * model.num_users * len(model.branches) * (d * hidden + hidden)
    return float(encoders + fusion)


def traffic(model: LIRDRec, data: HeteroData) -> float:
    """Return the bytes that a step has to read and write if only the operands of a single product stay in a cache.

    These are a dozen passes over the representations, the gathers of the sparse products, features and weights.
    """
    width = 4 * len(model.branches) * model.embedding_dim
    rows = model.num_users + data["item"].num_nodes
    edges = 2 * data[INTERACTS].num_edges * model.bipartite_conv.num_layers
    edges += data[SIMILAR].num_edges * model.item_conv.num_layers
    features = 2 * sum(
        x.numel() * x.element_size() for x in [data["item"].dct, *(item_features(data, m) for m in modalities(data))]
    )
    hidden = 4 * 4 * data["item"].num_nodes * sum(encoder.hidden_channels for encoder in model.encoders)
    weights = 7 * 4 * sum(p.numel() for p in model.parameters())
    return float(12 * rows * width + 2 * edges * (width + 8) + features + hidden + weights)


def machine_rates(device: torch.device) -> tuple[float, float]:
    """Return the FLOPs per second of a float32 product and the bytes per second of a copy."""
    rows, inner, columns = _PRODUCT_SIZE
    a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
    c = torch.empty(rows, columns, device=device)
    source = torch.ones(_COPY_FLOATS, device=device)
    target = torch.empty_like(source)
    product = min(seconds(lambda: torch.mm(a, b, out=c)) for _ in range(20))
    copying = min(seconds(lambda: target.copy_(source)) for _ in range(20))
    return 2 * rows * inner * columns / product, 2 * 4 * _COPY_FLOATS / copying


def waits_for_the_device(trainer: Trainer) -> str:
    """Describe whether a step makes the host wait for the GPU."""
    if trainer.fabric.device.type != "cuda":
        return "not applicable on a CPU"
    source = batches(trainer)
    step(trainer, next(source))
    triples = next(source)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(trainer, triples)
    except RuntimeError as error:
        return f"YES: {error}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def profile(trainer: Trainer, rows: int = 20) -> str:
    """Return the time per operation of a step, as a table."""
    source = batches(trainer)
    step(trainer, next(source))
    with torch.profiler.profile() as found:
        for _ in range(5):
            step(trainer, next(source))
    key = "self_device_time_total" if trainer.fabric.device.type == "cuda" else "self_cpu_time_total"
    return found.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=50)


@click.command()
@click.option(
    "--size", type=click.Choice(list(SIZES)), default="tiktok", show_default=True, help="Size of a random graph."
)
@click.option("--data", help="Real data instead, as for `fit`.")
@click.option("--batch-size", default=2048, show_default=True)
@click.option("--steps", default=30, show_default=True, help="Number of measured steps.")
@click.option("--precision", type=click.Choice(get_args(Precision)), default="32-true", show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Print the time per operation of a step.")
@device_option
@json_option
def main(
    size: str,
    data: str | None,
    batch_size: int,
    steps: int,
    precision: Precision,
    profiled: bool,
    device: Device,
    json_file: Path | None,
) -> None:
    """Time of a step, an epoch and an evaluation, compared with the minimum."""
    keep_freed_memory()
    graph = load_graph(data) if data else generated_graph(*SIZES[size])
    graph = LIRDRec.graph_transform(LIRDRecConfig())(graph.to(resolve_device(device)))
    config = TrainingConfig(batch_size=batch_size, device=device, precision=precision)
    trainer = prepared_trainer(graph, LIRDRecConfig(), config)
    taken = step_seconds(trainer, steps)
    sampling = statistics.median(seconds(trainer.sampler.sample_epoch) for _ in range(5))
    trainer.evaluate(trainer.task)
    evaluation = statistics.median(seconds(lambda: trainer.evaluate(trainer.task)) for _ in range(7))
    peak, gpu_peak = peak_gib(), peak_gpu_gib()
    product_rate, copy_rate = machine_rates(trainer.fabric.device)
    model = trainer.model.module
    dense, moved = flops(model, graph["item"].num_nodes), traffic(model, trainer.data)
    minimum = dense / product_rate + moved / copy_rate
    click.echo(
        f"{data or size} on {trainer.fabric.device}: {len(trainer.sampler):,} triples, {trainer.steps_per_epoch} steps "
        f"per epoch, {len(trainer.task.user_index):,} users evaluated\n"
        f"minimum per step: {dense / 1e9:.1f} GFLOP at {product_rate / 1e9:,.0f} GFLOP/s "
        f"and {moved / 2**20:,.0f} MiB at {copy_rate / 2**30:,.1f} GiB/s\n"
        f"a step waits for the device: {waits_for_the_device(trainer)}\n"
    )
    rows = [
        {"what": "step", "seconds": taken, "times the minimum": taken / minimum},
        {"what": "sampling per epoch", "seconds": sampling},
        {"what": "epoch", "seconds": sampling + trainer.steps_per_epoch * taken},
        {"what": "evaluation", "seconds": evaluation},
        {"what": "peak memory", "GiB": peak},
        {"what": "peak memory of the GPU", "GiB": gpu_peak},
    ]
    report("training", rows, json_file)
    if profiled:
        click.echo(profile(trainer))


if __name__ == "__main__":
    main()
