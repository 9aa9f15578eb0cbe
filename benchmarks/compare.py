"""Compare LIRDRec, its ablations and its peers on several data sets, all tuned with the same budget.

    python benchmarks/compare.py --data tiktok/ --data shop=prepared/clicks.csv --out comparison/

Each model is tuned over a small grid: the same number of configurations (--budget) is trained with the first seed,
starting with its defaults, and the one with the best validation Recall@20 is trained with all seeds. Nothing is chosen
by the test split. A model in closed form has one run, since it does not depend on the seed. The split of a data set is
the same for all runs. Each training ends by its own early stopping.

The defaults of all models on all data sets come first. After that, each data set gets the same share of the time. Each
run is a file in the folder --out. To resume an interrupted comparison, start it with the same options. table.md and
table.csv hold the results so far.
"""

import csv
import hashlib
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from compare_lines import Entry, Settings, configs, configurations, entries
from compare_table import Run, markdown, reference, rows, text
from harness import device_option, machine
from tqdm import tqdm

from lirdrec_pyg import Dataset, fit
from lirdrec_pyg.data import HELD_OUT, INTERACTS, held_out_edges, modalities
from lirdrec_pyg.errors import LIRDRecError
from lirdrec_pyg.evaluation import RankingTask, metrics_by_user
from lirdrec_pyg.files import whole_file
from lirdrec_pyg.recommender import Evaluator
from lirdrec_pyg.training import MONITOR, PRESETS
from lirdrec_pyg.training.config import Preset

Job = tuple[str, Settings, int]


@dataclass(frozen=True)
class Protocol:
    """Settings that all runs share; ``None`` for those of the model or the preset."""

    split_seed: int  # of a random split
    epochs: int | None = None
    patience: int | None = None

    @property
    def training(self) -> Settings:
        """Settings of all trainings."""
        given = {"epochs": self.epochs, "patience": self.patience}
        return {name: value for name, value in given.items() if value is not None}


def train(dataset: Dataset, entry: Entry, settings: Settings, shared: Settings) -> dict[str, Any]:
    """Train one configuration, and return everything that the table needs."""
    model_config, training_config = configs(entry, settings, shared)
    start = time.perf_counter()
    recommender = fit(dataset, model_config, training_config)
    seconds = time.perf_counter() - start
    evaluator = Evaluator(recommender, training_config.device)
    by_user = metrics_by_user(evaluator.ranker, RankingTask.from_graph(evaluator.data, "test"), 20)
    metrics = recommender.metrics or {}
    return {
        "seconds": seconds,
        **{name: metrics[name] for name in ("epochs", "best_epoch", "valid", "test", "beyond_accuracy")},
        "test_by_user": {name: [round(value, 6) for value in values.tolist()] for name, values in by_user.items()},
    }


def fingerprint(dataset: Dataset) -> str:
    """Return a checksum of the interactions and their splits."""
    graph = dataset.graph
    edges = [graph[INTERACTS].edge_index, *(held_out_edges(graph, split) for split in HELD_OUT)]
    return hashlib.sha256(b"".join(pairs.cpu().numpy().tobytes() for pairs in edges)).hexdigest()


@dataclass
class Comparison:
    """The runs of a comparison, one file each."""

    out: Path  # of the runs and the table
    protocol: Protocol
    datasets: Mapping[str, Dataset]  # by name
    all_lines: Mapping[str, Entry]  # of the table, by name
    budget: int  # configurations per line
    num_seeds: int  # of the best configuration
    device: str = "cpu"
    deadline: float = math.inf  # value of time.monotonic after which no run is started

    def __post_init__(self) -> None:
        self.fingerprints = {name: fingerprint(dataset) for name, dataset in self.datasets.items()}
        self.lines = {
            data: {name: entry for name, entry in self.all_lines.items() if entry.suits(modalities(dataset.graph))}
            for data, dataset in self.datasets.items()
        }

    def _seeds(self, entry: Entry) -> range:
        return range(1, 2 if entry.is_closed_form else self.num_seeds + 1)

    def run(self) -> None:
        """Train all missing runs, until the time is up."""
        total = sum(
            len(configurations(entry, self.budget)) + len(self._seeds(entry)) - 1
            for lines in self.lines.values()
            for entry in lines.values()
        )
        seconds = dict.fromkeys(self.datasets, 0.0)
        with tqdm(total=total, desc="runs", disable=None) as bar:
            for stage in (self._defaults, self._others):
                jobs = {data: stage(data) for data in self.datasets}
                while jobs:
                    data = min(jobs, key=seconds.__getitem__)
                    job = next(jobs[data], None)
                    if job is None:
                        del jobs[data]
                        continue
                    if self.saved(data, *job) is None:
                        if time.monotonic() >= self.deadline:
                            return
                        seconds[data] += self._train(data, *job)
                    bar.update()

    def _defaults(self, data: str) -> Iterator[Job]:
        for name, entry in self.lines[data].items():
            yield name, configurations(entry, 1)[0], 1

    def _others(self, data: str) -> Iterator[Job]:
        for i in range(1, self.budget):
            for name, entry in self.lines[data].items():
                for settings in configurations(entry, self.budget)[i : i + 1]:
                    yield name, settings, 1
        for seed in range(2, self.num_seeds + 1):
            for name, entry in self.lines[data].items():
                if seed in self._seeds(entry):
                    yield name, self.tuned(data, name)[0]["settings"], seed

    def _train(self, data: str, name: str, settings: Settings, seed: int) -> float:
        """Train one run, save it, and return the seconds it took."""
        shared = {**self.protocol.training, "seed": seed, "device": self.device}
        found = train(self.datasets[data], self.lines[data][name], settings, shared)
        about = {"data": data, "name": name, "settings": settings, "seed": seed, "protocol": vars(self.protocol)}
        content = {**about, **found, "device": self.device, "machine": machine()}
        path = self._path(data, name, settings, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(content) + "\n", encoding="utf-8")
        tqdm.write(
            f"{data:16s} {name:26s} {text(settings):50s} seed {seed}  valid {found['valid'][MONITOR]:.4f}  "
            f"{found['epochs']:4d} epochs  {found['seconds']:7.1f} s"
        )
        return found["seconds"]

    def _path(self, data: str, name: str, settings: Settings, seed: int) -> Path:
        # Runs of other data, another protocol or a changed preset are other runs; places and machines do not matter.
        entry = self.lines[data][name]
        preset = entry.preset_settings
        key = [self.fingerprints[data], vars(self.protocol), dict(entry.settings), preset, dict(settings)]
        plain = "-".join("".join(c if c.isalnum() else "-" for c in part) for part in (data, name))
        return self.out / "runs" / f"{plain}-{seed}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}.json"

    def saved(self, data: str, name: str, settings: Settings, seed: int) -> Run | None:
        """Return a run, or ``None`` if it is missing."""
        path = self._path(data, name, settings, seed)
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise click.ClickException(f"{path} is damaged ({error}). Delete it to train this run again.") from error

    def tuned(self, data: str, name: str) -> list[Run]:
        """Return the runs of all configurations with the first seed so far, the best by validation first."""
        found = (self.saved(data, name, s, 1) for s in configurations(self.lines[data][name], self.budget))
        runs = [run for run in found if run is not None]
        return sorted(runs, key=lambda run: -run["valid"][MONITOR])

    def finished(self, data: str) -> dict[str, list[Run]]:
        """Return the runs of each line's best configuration so far."""
        found = {}
        for name, entry in self.lines[data].items():
            if tuned := self.tuned(data, name):
                runs = (self.saved(data, name, tuned[0]["settings"], seed) for seed in self._seeds(entry))
                found[name] = [run for run in runs if run is not None]
        return found

    def missing(self) -> Iterator[str]:
        """Describe the missing runs."""
        for data, lines in self.lines.items():
            finished = self.finished(data)
            for name, entry in lines.items():
                tried, planned = len(self.tuned(data, name)), len(configurations(entry, self.budget))
                if tried < planned:
                    yield f"{data} {name} ({tried} of {planned} configurations)"
                elif (runs := len(finished[name])) < (seeds := len(self._seeds(entry))):
                    yield f"{data} {name} ({runs} of {seeds} seeds)"

    def write_tables(self) -> str | None:
        """Write table.md and table.csv, and return the text of the first; ``None`` if no run is saved."""
        found = {data: runs for data in self.datasets if (runs := self.finished(data))}
        if not found:
            return None
        sections, table = [], []
        for data, runs in found.items():
            against = reference(runs, self.lines[data])
            of_data = rows(data, runs, against)
            sections.append(markdown(of_data, against))
            table += of_data
        content = "\n\n".join(sections)
        with whole_file(self.out / "table.md") as path:
            path.write_text(f"{content}\n\n{self.note()}\n", encoding="utf-8")
        with whole_file(self.out / "table.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
        return content

    def note(self) -> str:
        """Describe how the table was made."""
        machines = {
            _machine_text(run) for data in self.datasets for runs in self.finished(data).values() for run in runs
        }
        missing = ", ".join(self.missing())
        return (
            f"`python benchmarks/compare.py {shlex.join(sys.argv[1:])}`: at most {self.budget} configurations per "
            f"model, chosen by validation {MONITOR} with the first seed, and {self.num_seeds} seeds of the best one. "
            "Means and standard deviations over the seeds; a model in closed form has one run. p: two-sided paired "
            "bootstrap (10,000 resamples) over the users' test Recall@20, averaged over the seeds, against the best "
            "peer by validation (without peers, against lirdrec), by Holm's correction for all lines of a data set. "
            f"Seconds: one training with its evaluations, {' or '.join(sorted(machines))}."
            + (f" Not finished: {missing}." if missing else "")
        )


def _machine_text(run: Run) -> str:
    about = run["machine"]
    if run["device"] != "cpu":
        return str(about["gpu"])
    return f"{about['processor']}, " + ("1 thread" if about["threads"] == 1 else f"{about['threads']} threads")


def named(data: Sequence[str]) -> dict[str, str]:
    """Return the places of the data sets by name, from ``NAME=PLACE`` or ``PLACE``, whose last part is the name."""
    found: dict[str, str] = {}
    for given in data:
        name, equals, place = given.partition("=")
        if not equals:
            name, place = Path(given).stem, given
        if name in found:
            raise click.UsageError(f"Two data sets are named {name!r}. Pass --data NAME={place} with another name.")
        found[name] = place
    return found


@click.command()
@click.option(
    "--data",
    multiple=True,
    default=["synthetic"],
    show_default=True,
    help="Data, as for `fit`, or NAME=DATA; once per data set. By default the name of the folder or file.",
)
@click.option(
    "--models",
    default="all",
    show_default=True,
    help="Names, 'peers', 'ablations' or 'all', separated by commas.",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Number of seeds, starting at 1.")
@click.option("--budget", default=6, show_default=True, type=click.IntRange(1), help="Configurations per model.")
@click.option(
    "--epochs", type=click.IntRange(1), help="Maximum number of epochs. By default that of the model or preset."
)
@click.option("--patience", type=click.IntRange(1), help="As for `fit`. By default that of the model or preset.")
@click.option(
    "--minutes",
    type=click.FloatRange(0),
    help="Start no run after this time; the same command resumes. 0 writes the table without training.",
)
@click.option(
    "--preset",
    type=click.Choice([name for name, settings in PRESETS.items() if not settings.get("race")]),
    default="paper",
    show_default=True,
    help="Training preset of LIRDRec and its ablations, as for `fit`. 'best', which chooses by itself, has the line "
    "lirdrec-best.",
)
@click.option("--split-seed", default=999, show_default=True, help="Seed of a random split, the same for all runs.")
@click.option("--out", default="comparison", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@device_option
def main(
    data: tuple[str, ...],
    models: str,
    seeds: int,
    budget: int,
    epochs: int | None,
    patience: int | None,
    minutes: float | None,
    preset: Preset,
    split_seed: int,
    out: Path,
    device: str,
) -> None:
    """LIRDRec, its ablations and its peers on several data sets, each tuned with the same budget."""
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        datasets = {name: Dataset.from_path(place, seed=split_seed) for name, place in named(data).items()}
    except LIRDRecError as error:
        raise click.ClickException(str(error)) from error
    known = dict.fromkeys(m for dataset in datasets.values() for m in modalities(dataset.graph))
    lines = entries(models, [*known], preset)
    protocol = Protocol(split_seed, epochs, patience)
    comparison = Comparison(out, protocol, datasets, lines, budget, seeds, device, deadline)
    try:
        comparison.run()
    finally:  # also when interrupted
        content = comparison.write_tables()
        if missing := list(comparison.missing()):
            click.echo(f"Not finished: {', '.join(missing)}. Start again with the same options to resume.")
        if content is not None:
            click.echo(f"\n{content}\n\n{out / 'table.md'} and {out / 'table.csv'}")


if __name__ == "__main__":
    main()
