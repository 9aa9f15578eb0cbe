"""Compare LIRDRec, its ablations and its peers on one data set, all tuned with the same budget.

    python benchmarks/compare.py --data DATA --models all --seeds 5 --budget 6 --out comparison/

Each model is tuned over a small grid: the same number of configurations (--budget) is trained with the first seed,
starting with its defaults, and the one with the best validation Recall@20 is trained with all seeds. Nothing is chosen
by the test split. A model in closed form has one run, since it does not depend on the seed. The split is the same for
all runs.

Each run is a file in the folder --out. To resume an interrupted comparison, start it with the same options. table.md
and table.csv hold the table.
"""

import csv
import hashlib
import itertools
import json
import math
import random
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click
import torch
from harness import device_option, machine
from scipy.stats import ttest_rel
from torch import Tensor
from tqdm import tqdm

from lirdrec_pyg import Dataset, TrainingConfig, fit
from lirdrec_pyg.data import modalities
from lirdrec_pyg.errors import LIRDRecError
from lirdrec_pyg.evaluation import RankingTask
from lirdrec_pyg.files import whole_file
from lirdrec_pyg.models import MODEL_CONFIGS
from lirdrec_pyg.nn import Ranker
from lirdrec_pyg.recommender import Evaluator
from lirdrec_pyg.training import MONITOR, PRESETS
from lirdrec_pyg.training.config import Preset

Settings = Mapping[str, Any]
Run = Mapping[str, Any]

SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
BEYOND_ACCURACY = tuple(
    f"{metric}@20" for metric in ("average_popularity", "novelty", "diversity", "personalization", "gini", "coverage")
)


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Attributes:
        model: name of the model, as for ``fit --model``.
        grid: values to try, by setting of the model or of its training.
        settings: settings that differ from the model's defaults.
        is_peer: ``True`` unless it is LIRDRec or one of its ablations.
    """

    model: str
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        return self.model != "lirdrec"


# Grids of the papers, or of MMRec if a paper has none.
_LIRDREC = {"num_layers": (2, 3, 4), "network_weight": (0.9, 0.95, 0.99), "reg_weight": (1e-4, 1e-3, 1e-2)}
_WITHOUT_PWC = {name: values for name, values in _LIRDREC.items() if name != "network_weight"}
PEERS = {
    "popularity": Entry("popularity"),
    "content-knn": Entry("content-knn", {"knn_k": (5, 10, 20, 50, 100, 200)}),
    "item-knn": Entry(
        "item-knn", {"num_neighbors": (20, 100), "user_power": (0.5, 1.0), "item_power": (0.0, 0.25, 0.5)}
    ),
    "ease": Entry("ease", {"l2": (1.0, 5.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)}),
    "bpr-mf": Entry("bpr-mf", {"reg_weight": (0.0, 1e-4, 1e-3, 1e-2, 1e-1)}),
    "lightgcn": Entry("lightgcn", {"num_layers": (1, 2, 3, 4), "reg_weight": (1e-5, 1e-4, 1e-3, 1e-2)}),
    "vbpr": Entry("vbpr", {"reg_weight": (0.0, 1e-4, 1e-3, 1e-2, 1e-1), "projection_reg_weight": (0.0, 1e-3)}),
    "bm3": Entry("bm3", {"num_layers": (1, 2), "dropout": (0.3, 0.5), "reg_weight": (0.1, 0.01)}),
    "freedom": Entry("freedom", {"modality_weight": (0.0, 1e-5, 1e-4, 1e-3), "edge_dropout": (0.8, 0.9)}),
    "mgcn": Entry("mgcn", {"contrast_weight": (1e-3, 1e-2, 1e-1), "knn_k": (5, 10, 20)}),
}
ABLATIONS = {
    "lirdrec-no-transformation": Entry("lirdrec", _LIRDREC, {"dct": "none"}),
    "lirdrec-2d": Entry("lirdrec", _LIRDREC, {"dct": "2d"}),
    "lirdrec-mean-fusion": Entry("lirdrec", _WITHOUT_PWC, {"fusion": "mean"}),
    "lirdrec-static-fusion": Entry("lirdrec", _WITHOUT_PWC, {"fusion": "static"}),
    "lirdrec-attention-fusion": Entry("lirdrec", _WITHOUT_PWC, {"fusion": "attention"}),
    "lirdrec-no-item-graph": Entry("lirdrec", _LIRDREC, {"item_graph": False}),
    "lirdrec-id-branch": Entry("lirdrec", _LIRDREC, {"id_branch": True}),
}


def entries(names: str, by_modality: Sequence[str]) -> dict[str, Entry]:
    """Return the lines that ``names`` lists, separated by commas: names, ``peers``, ``ablations`` or ``all``."""
    single = {f"lirdrec-{m}-only": Entry("lirdrec", _LIRDREC, {"only_modality": m}) for m in by_modality}
    ablations = ABLATIONS | (single if len(by_modality) > 1 else {})
    lirdrec = {"lirdrec": Entry("lirdrec", _LIRDREC)}
    groups = {"all": PEERS | lirdrec | ablations, "peers": PEERS, "ablations": lirdrec | ablations}
    found: dict[str, Entry] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name in groups:
            found |= groups[name]
        elif name in groups["all"]:
            found[name] = groups["all"][name]
        else:
            known = ", ".join([*groups, *groups["all"]])
            raise click.UsageError(f"Unknown model {name!r} in --models. Choose from {known}.")
    if not found:
        raise click.UsageError("--models is empty. Pass 'all' for all models.")
    return found


def configurations(entry: Entry, budget: int) -> list[Settings]:
    """Return up to ``budget`` points of the grid: the defaults, then random others, always the same."""
    defaults = {**{f.name: f.default for f in fields(TrainingConfig)}, **MODEL_CONFIGS[entry.model].training_defaults}
    defaults |= {f.name: f.default for f in fields(MODEL_CONFIGS[entry.model])}
    points = [dict(zip(entry.grid, values, strict=True)) for values in itertools.product(*entry.grid.values())]
    start = {name: defaults[name] for name in entry.grid}
    others = [point for point in points if point != start]
    random.Random(0).shuffle(others)
    return [start, *others][:budget]


@dataclass(frozen=True)
class Protocol:
    """Settings that all runs share.

    Attributes:
        data: data, as for ``fit --data``.
        split_seed: seed of a random split.
        epochs: maximum number of epochs.
        patience: epochs without a better validation Recall@20 before a training stops.
        device: device to train on.
        preset: training preset of LIRDRec and its ablations, see ``fit --preset``.
    """

    data: str
    split_seed: int
    epochs: int
    patience: int
    device: str
    preset: Preset = "paper"


def train(dataset: Dataset, entry: Entry, settings: Settings, seed: int, protocol: Protocol) -> dict[str, Any]:
    """Train one configuration, and return everything that the table needs."""
    model_config, training_config = configs(entry, settings, seed, protocol)
    start = time.perf_counter()
    recommender = fit(dataset, model_config, training_config)
    seconds = time.perf_counter() - start
    evaluator = Evaluator(recommender, training_config.device)
    by_user = recall_by_user(evaluator.ranker, RankingTask.from_graph(evaluator.data, "test"), 20)
    metrics = recommender.metrics or {}
    return {
        "seconds": seconds,
        **{name: metrics[name] for name in ("epochs", "best_epoch", "valid", "test", "beyond_accuracy")},
        "test_recall@20_by_user": [round(value, 6) for value in by_user.tolist()],
    }


def configs(entry: Entry, settings: Settings, seed: int, protocol: Protocol) -> tuple[Any, TrainingConfig]:
    """Return the configurations of the model and of its training."""
    kind = MODEL_CONFIGS[entry.model]
    of_model = {f.name for f in fields(kind)}
    given = {**entry.settings, **settings}
    training = {
        **kind.training_defaults,
        **({} if entry.is_peer else PRESETS[protocol.preset]),
        **{name: value for name, value in given.items() if name not in of_model},
        "seed": seed,
        "epochs": protocol.epochs,
        "patience": protocol.patience,
        "device": protocol.device,
    }
    return kind(**{name: value for name, value in given.items() if name in of_model}), TrainingConfig(**training)


def recall_by_user(ranker: Ranker, task: RankingTask, k: int) -> Tensor:
    """Return Recall@k per user of ``task``, shape ``(N,)``."""
    row, item = task.label_index
    wanted = row * task.num_items + item
    hits = []
    for block in ranker.top_k(task.user_index, k, task.seen):
        rows = torch.arange(block.rows.start, block.rows.stop, device=row.device).unsqueeze(1)
        # Seen items, which come last, are never held out.
        hits.append(torch.isin(rows * task.num_items + block.item, wanted).sum(dim=1))
    return torch.cat(hits) / row.bincount(minlength=len(task.user_index))


class Comparison:
    """The runs of a comparison, one file each.

    Args:
        out: folder of the runs and the table.
        protocol: settings that all runs share.
        dataset: data to train on.
        lines: lines of the table, by name.
        budget: configurations per line.
        num_seeds: runs of the best configuration.
        deadline: value of ``time.monotonic`` after which no run is started.
    """

    def __init__(
        self,
        out: Path,
        protocol: Protocol,
        dataset: Dataset,
        lines: Mapping[str, Entry],
        budget: int,
        num_seeds: int,
        deadline: float = math.inf,
    ) -> None:
        self.out = out
        self.protocol = protocol
        self.dataset = dataset
        self.lines = lines
        self.budget = budget
        self.num_seeds = num_seeds
        self.deadline = deadline

    def _seeds(self, entry: Entry) -> range:
        return range(1, 2 if MODEL_CONFIGS[entry.model].is_closed_form else self.num_seeds + 1)

    def run(self) -> None:
        """Train all missing runs, until the time is up."""
        tuned = {name: len(configurations(entry, self.budget)) for name, entry in self.lines.items()}
        total = sum(tuned[name] + len(self._seeds(entry)) - 1 for name, entry in self.lines.items())
        with tqdm(total=total, desc="runs", disable=None) as bar:
            for name, entry in self.lines.items():
                for settings in configurations(entry, self.budget):
                    self._train(name, settings, 1, bar)
            for name, entry in self.lines.items():
                if (best := self.best(name)) is not None:
                    for seed in self._seeds(entry)[1:]:
                        self._train(name, best["settings"], seed, bar)

    def _train(self, name: str, settings: Settings, seed: int, bar: tqdm) -> None:
        if self.saved(name, settings, seed) is None and time.monotonic() < self.deadline:
            found = train(self.dataset, self.lines[name], settings, seed, self.protocol)
            content = {"name": name, "settings": settings, "seed": seed, "protocol": vars(self.protocol), **found}
            path = self._path(name, settings, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as unfinished:
                unfinished.write_text(json.dumps({**content, "machine": machine()}) + "\n", encoding="utf-8")
            tqdm.write(
                f"{name:40s} {_text(settings):50s} seed {seed}  valid {found['valid'][MONITOR]:.4f}  "
                f"{found['epochs']:4d} epochs  {found['seconds']:7.1f} s"
            )
        bar.update()

    def _path(self, name: str, settings: Settings, seed: int) -> Path:
        # Runs of another protocol are other runs.
        key = json.dumps([name, dict(self.lines[name].settings), dict(settings), seed, vars(self.protocol)])
        plain = "".join(c if c.isalnum() else "-" for c in name)
        return self.out / "runs" / f"{plain}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"

    def saved(self, name: str, settings: Settings, seed: int) -> Run | None:
        """Return a run, or ``None`` if it is missing."""
        path = self._path(name, settings, seed)
        if not path.is_file():
            return None
        try:
            content: Run = json.loads(path.read_text(encoding="utf-8"))
            return content
        except ValueError as error:
            raise click.ClickException(f"{path} is damaged ({error}). Delete it to train this run again.") from error

    def best(self, name: str) -> Run | None:
        """Return the run of the best configuration by validation, or ``None`` if some are missing."""
        found = [self.saved(name, settings, 1) for settings in configurations(self.lines[name], self.budget)]
        runs = [run for run in found if run is not None]
        return max(runs, key=lambda run: run["valid"][MONITOR]) if len(runs) == len(found) else None

    def finished(self) -> dict[str, list[Run]]:
        """Return the runs of the best configuration of each tuned line."""
        found = {}
        for name, entry in self.lines.items():
            if (best := self.best(name)) is not None:
                runs = (self.saved(name, best["settings"], seed) for seed in self._seeds(entry))
                found[name] = [run for run in runs if run is not None]
        return found

    def missing(self) -> Iterator[str]:
        """Describe the missing runs."""
        finished = self.finished()
        for name, entry in self.lines.items():
            if name not in finished:
                yield f"{name} (not tuned)"
            elif (seeds := len(self._seeds(entry)) - len(finished[name])) > 0:
                yield f"{name} ({seeds} seeds)"


def best_peer(runs: Mapping[str, Sequence[Run]], lines: Mapping[str, Entry]) -> str | None:
    """Return the peer with the best mean validation Recall@20."""
    peers = [name for name in runs if lines[name].is_peer]
    return max(peers, key=lambda name: _mean(runs[name], "valid", MONITOR), default=None)


def reference(runs: Mapping[str, Sequence[Run]], lines: Mapping[str, Entry]) -> str | None:
    """Return the line that the others are tested against: the best peer, or LIRDRec without peers."""
    return best_peer(runs, lines) or ("lirdrec" if "lirdrec" in runs else None)


def rows(runs: Mapping[str, Sequence[Run]], lines: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Return one row per line, as in the CSV file."""
    against = reference(runs, lines)
    found = []
    for name, of_line in runs.items():
        row: dict[str, Any] = {
            "model": name,
            "settings": _text(of_line[0]["settings"]),
            "runs": len(of_line),
            f"valid {MONITOR} mean": _mean(of_line, "valid", MONITOR),
        }
        for metric in SHOWN:
            row[f"test {metric} mean"] = _mean(of_line, "test", metric)
            values = [run["test"][metric] for run in of_line]
            row[f"test {metric} sd"] = statistics.stdev(values) if len(values) > 1 else None
        for metric in BEYOND_ACCURACY:
            values = [{**run["test"], **run.get("beyond_accuracy", {}).get("test", {})}.get(metric) for run in of_line]
            row[f"test {metric} mean"] = None if None in values else statistics.fmean(values)
        row["p against"], row["p"] = None, None
        if against is not None and against != name:
            row["p against"], row["p"] = against, p_value(of_line, runs[against])
        row["epochs"] = statistics.fmean(run["epochs"] for run in of_line)
        row["seconds"] = statistics.fmean(run["seconds"] for run in of_line)
        found.append(row)
    return found


def p_value(runs: Sequence[Run], others: Sequence[Run]) -> float:
    """Return the p-value of a two-sided paired t-test over the users' test Recall@20, averaged over the seeds."""
    a, b = (
        [statistics.fmean(values) for values in zip(*(run["test_recall@20_by_user"] for run in side), strict=True)]
        for side in (runs, others)
    )
    # Without any difference, the t-test would divide by zero.
    return 1.0 if a == b else float(ttest_rel(a, b).pvalue)


def markdown(table: Sequence[Mapping[str, Any]], lines: Mapping[str, Entry], peer: str | None) -> str:
    """Format the rows as a Markdown table with the best mean of each column in bold, followed by a verdict."""
    best = {metric: max(row[f"test {metric} mean"] for row in table) for metric in SHOWN}
    head = ["", *(f"test {metric}" for metric in SHOWN), f"validation {MONITOR}", "p", "seconds", "settings"]
    out = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in table:
        cells = [row["model"]]
        for metric in SHOWN:
            mean, sd = row[f"test {metric} mean"], row[f"test {metric} sd"]
            text = f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"
            cells.append(f"**{text}**" if mean == best[metric] else text)
        p = row["p"]
        cells += [f"{row[f'valid {MONITOR} mean']:.4f}", "" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"]
        cells += [f"{row['seconds']:.1f}", row["settings"]]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join([*out, "", *verdict(table, lines, peer), "", *beyond_accuracy(table)])


def beyond_accuracy(table: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table about the recommendations themselves."""
    yield f"| {' | '.join(['', *(f'test {metric}' for metric in BEYOND_ACCURACY)])} |"
    yield f"|{' --- |' * (1 + len(BEYOND_ACCURACY))}"
    for row in table:
        means = [row[f"test {metric} mean"] for metric in BEYOND_ACCURACY]
        yield f"| {' | '.join([row['model'], *('' if mean is None else f'{mean:.4f}' for mean in means)])} |"


def verdict(table: Sequence[Mapping[str, Any]], lines: Mapping[str, Entry], peer: str | None) -> Iterator[str]:
    """Yield sentences that compare LIRDRec with its peers."""
    by_name = {row["model"]: row for row in table}
    key = f"test {MONITOR} mean"
    if peer is not None:
        yield f"Best peer by validation: {peer}, test {MONITOR} {by_name[peer][key]:.4f}."
    if "lirdrec" not in by_name or peer is None:
        return
    own = by_name["lirdrec"][key]
    better = [name for name, row in by_name.items() if lines[name].is_peer and row[key] > own]
    p = by_name["lirdrec"]["p"]
    sign = "above" if own > by_name[peer][key] else "below"
    yield f"LIRDRec is {abs(own - by_name[peer][key]):.4f} {sign} it (p = {p:.2g})."
    yield f"Peers with a better test {MONITOR} than LIRDRec: {', '.join(better) or 'none'}."


def _mean(runs: Sequence[Run], split: str, metric: str) -> float:
    return statistics.fmean(run[split][metric] for run in runs)


def _text(settings: Settings) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def _machine_text(about: Mapping[str, Any]) -> str:
    threads = "1 thread" if about["threads"] == 1 else f"{about['threads']} threads"
    return f"{about['processor']}, {threads}, {about['gpu'] or 'no GPU'}"


def note(comparison: Comparison) -> str:
    """Describe how the table was made."""
    protocol = comparison.protocol
    machines = {_machine_text(run["machine"]) for runs in comparison.finished().values() for run in runs}
    missing = ", ".join(comparison.missing())
    return (
        f"`python benchmarks/compare.py {shlex.join(sys.argv[1:])}`: at most {comparison.budget} configurations "
        f"per model, chosen by validation {MONITOR} with the first seed, and {comparison.num_seeds} seeds of the best "
        f"one; at most {protocol.epochs} epochs, patience {protocol.patience}, --preset {protocol.preset} for LIRDRec. "
        "Means and standard deviations over the seeds; a model in closed form has one run. p: two-sided paired t-test "
        "over the users' test Recall@20, averaged over the seeds, against the best peer by validation (without peers, "
        "against lirdrec), not corrected for the number of models. Seconds: one training with its evaluations, "
        f"{' or '.join(sorted(machines))}." + (f" Not trained yet: {missing}." if missing else "")
    )


@click.command()
@click.option("--data", default="synthetic", show_default=True, help="Data, as for `fit`.")
@click.option(
    "--models",
    default="all",
    show_default=True,
    help="Names, 'peers', 'ablations' or 'all', separated by commas.",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Number of seeds, starting at 1.")
@click.option("--budget", default=6, show_default=True, type=click.IntRange(1), help="Configurations per model.")
@click.option("--epochs", default=1000, show_default=True, type=click.IntRange(1), help="Maximum number of epochs.")
@click.option("--patience", default=20, show_default=True, type=click.IntRange(1), help="As for `fit`.")
@click.option(
    "--minutes",
    type=click.FloatRange(0),
    help="Start no run after this time; the same command resumes.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="paper",
    show_default=True,
    help="Training preset of LIRDRec and its ablations, as for `fit`.",
)
@click.option("--split-seed", default=999, show_default=True, help="Seed of a random split, the same for all runs.")
@click.option("--out", default="comparison", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@device_option
def main(
    data: str,
    models: str,
    seeds: int,
    budget: int,
    epochs: int,
    patience: int,
    minutes: float | None,
    preset: Preset,
    split_seed: int,
    out: Path,
    device: str,
) -> None:
    """LIRDRec, its ablations and its peers on one data set, each tuned with the same budget."""
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        dataset = Dataset.from_path(data, seed=split_seed)
    except LIRDRecError as error:
        raise click.ClickException(str(error)) from error
    lines = entries(models, modalities(dataset.graph))
    protocol = Protocol(data, split_seed, epochs, patience, device, preset)
    comparison = Comparison(out, protocol, dataset, lines, budget, seeds, deadline)
    comparison.run()
    finished = comparison.finished()
    if missing := list(comparison.missing()):
        click.echo(f"Out of time. Missing: {', '.join(missing)}. Start again with the same options to resume.")
    if not finished:
        return
    table = rows(finished, lines)
    text = markdown(table, lines, best_peer(finished, lines))
    (out / "table.md").write_text(f"{text}\n\n{note(comparison)}\n", encoding="utf-8")
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    click.echo(f"\n{text}\n\n{out / 'table.md'} and {out / 'table.csv'}")


if __name__ == "__main__":
    main()
