"""Measure everything that runs on a GPU, compared with the CPU and with the minimum that the machine has to do.

    python benchmarks/gpu.py [--device cuda] [--quick] [--json gpu.json]

``benchmarks/gpu.sh`` also runs the tests that need a GPU, and bounds the time. On a CPU, the script only shows that it
works.
"""

import statistics
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import click
import torch
import training
from generated import SIZES, clustered_features, generated_graph
from harness import Row, alternate, device_option, json_option, peak_gpu_gib, report, seconds
from recommend import variants
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg import Dataset, LIRDRecConfig, TrainingConfig, fit
from lirdrec_pyg.devices import Device, resolve_device
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.nn import SeenItems
from lirdrec_pyg.training import Trainer
from lirdrec_pyg.transforms import knn_edges

Step = Callable[[Tensor], Tensor]


def eager(trainer: Trainer) -> Step:
    """Return a step whose kernels are launched one by one."""
    return lambda triples: training.step(trainer, triples)


def compiled(trainer: Trainer) -> Step:
    """Return a step whose loss is compiled."""
    trainer.model = SimpleNamespace(loss=torch.compile(trainer.model.module.loss))
    return lambda triples: training.step(trainer, triples)


def captured(trainer: Trainer) -> Step:
    """Return the step of the training, which replays a CUDA graph."""
    return lambda triples: trainer._training_step(trainer.data, triples, 1.0)


def one_pass(trainer: Trainer, triples: Tensor) -> dict[str, Tensor]:
    """Return vectors, loss and gradients of a pass."""
    model = trainer.model.module
    user, item = model(trainer.data)
    loss = model.loss(trainer.data, triples.to(user.device))
    loss.backward()
    gradients = {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    found = {"user vectors": user, "item vectors": item, "loss": loss, **gradients}
    return {name: x.detach().cpu() for name, x in found.items()}


def parity(graph: HeteroData, device: Device) -> Iterator[Row]:
    """Compare one pass on ``device`` with the same pass on the CPU."""
    on_cpu, other = (
        training.prepared_trainer(graph.to(place), LIRDRecConfig(), TrainingConfig(device=place))
        for place in ("cpu", device)
    )
    other.model.module.load_state_dict(on_cpu.model.module.state_dict())
    triples = next(training.batches(on_cpu))
    expected, found = one_pass(on_cpu, triples), one_pass(other, triples)
    deviation = {name: (found[name] - x).abs().max().item() for name, x in expected.items()}
    yield {"what": "largest deviation of one pass from the CPU", "value": max(deviation.values())}


def steps(size: str, graph: HeteroData, device: Device, repeats: int) -> Iterator[Row]:
    """Measure a step in each precision, as it is, compiled and captured, compared with the minimum."""
    graph, on_gpu = graph.to(device), device == "cuda"
    for precision, way in product(("32-true", "bf16-mixed"), (eager, compiled, captured) if on_gpu else (eager,)):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        config = TrainingConfig(batch_size=2048, device=device, precision=precision)
        trainer = training.prepared_trainer(graph, LIRDRecConfig(), config)
        rates, module = training.machine_rates(trainer.fabric.device), trainer.model.module
        work = training.flops(module, graph["item"].num_nodes), training.traffic(module, trainer.data)
        minimum = sum(amount / rate for amount, rate in zip(work, rates, strict=True))
        waits = training.waits_for_the_device(trainer)
        if way is eager and precision == "32-true":
            click.echo(f"{size}, {precision}\n{training.profile(trainer, rows=10)}")
            yield from epoch(size, trainer)
        try:
            taken = median_seconds(way(trainer), training.batches(trainer), repeats)
        except Exception as error:  # the compiler fails in many ways
            click.echo(f"{size}, {precision}, {way.__name__}: {type(error).__name__}: {error}", err=True)
            continue
        yield {
            "what": f"step, {size}, {precision}, {way.__name__}",
            "ms": 1000 * taken,
            "times the minimum": taken / minimum,
            "GiB": peak_gpu_gib() if on_gpu else None,
            "waits for the device": waits,
        }


def median_seconds(step: Step, batches: Iterator[Tensor], repeats: int) -> float:
    """Return the median time of a step after five others."""
    return statistics.median([seconds(lambda: step(next(batches))) for _ in range(repeats + 5)][5:])


def epoch(size: str, trainer: Trainer) -> Iterator[Row]:
    """Measure what happens once per epoch."""
    for what, run in (
        ("sampling of an epoch", trainer.sampler.sample_epoch),
        ("validation", lambda: trainer.evaluate(trainer.task)),
    ):
        run()
        yield {"what": f"{what}, {size}", "ms": 1000 * statistics.median(seconds(run) for _ in range(5))}


def rankings(num_users: int, num_items: int, device: str) -> Iterator[Row]:
    """Measure the exact top-k compared with the bare matrix products."""
    user, item = torch.randn(num_users, 192, device=device), torch.randn(num_items, 192, device=device)
    pairs = torch.stack([torch.randint(n, (10 * num_users,), device=device) for n in (num_users, num_items)])
    times = alternate(variants(user, item, SeenItems.of(pairs, num_users), 20), 5)
    for name, taken in times.items():
        what = f"{name}, {num_users:,} users, {num_items:,} items"
        yield {"what": what, "ms": 1000 * taken, "times the minimum": taken / times["bare products"]}


def searches(num_items: int, device: str) -> Iterator[Row]:
    """Measure the exact search for the neighbors of items."""
    for count, width in ((num_items, 128), (SIZES["baby"][1], 4096)):
        x = clustered_features(count, width, torch.Generator().manual_seed(0)).to(device)
        knn_edges(x, 10, search="exact")
        taken = seconds(lambda x=x: knn_edges(x, 10, search="exact"))
        yield {"what": f"neighbors of {count:,} items, width {width}", "ms": 1000 * taken}


def accuracy(device: Device, seeds: int) -> Iterator[Row]:
    """Train on generated data with several seeds on both devices."""
    for place in dict.fromkeys(("cpu", device)):
        found = []
        for seed in range(seeds):
            config = TrainingConfig(device=place, seed=seed, epochs=20, lr=1e-3, batch_size=1024)
            recommender = fit(Dataset.from_path("synthetic"), LIRDRecConfig(), config)
            assert recommender.metrics is not None
            found.append(recommender.metrics["test"]["recall@20"])
        yield {
            "what": f"test Recall@20 on generated data, {place}, {seeds} seeds",
            "value": statistics.mean(found),
            "standard deviation": statistics.stdev(found),
        }


@click.command()
@click.option("--quick", is_flag=True, help="Tiny sizes, to try the script.")
@device_option
@json_option
def main(quick: bool, device: Device, json_file: Path | None) -> None:
    """Parity, steps, rankings, neighbor search and accuracy on a GPU."""
    device = resolve_device(device)
    rows: list[Row] = []
    graphs = {
        size: LIRDRec.graph_transform(LIRDRecConfig())(
            generated_graph(*(n // 20 if quick else n for n in counts), widths)
        )
        for size, (*counts, widths) in SIZES.items()
    }
    sections = [
        parity(graphs["tiktok"], device),
        *(steps(size, graph, device, 5 if quick else 50) for size, graph in graphs.items()),
        rankings(*((500, 5_000) if quick else (10_000, 100_000)), device),
        searches(5_000 if quick else 100_000, device),
        accuracy(device, 2 if quick else 3),
    ]
    for section in sections:
        for row in section:
            rows.append(row)
            click.echo(f"{row}", err=True)
            if json_file is not None:  # in case the time runs out
                report("gpu", rows, json_file, shown=lambda _: "")
    report("gpu", rows, json_file)


if __name__ == "__main__":
    main()
