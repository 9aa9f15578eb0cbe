"""Compares LIRDRec, its ablations and its peers on one data set, all tuned alike.

    python benchmarks/compare.py --data DATA --models all --seeds 5 --budget 6 --out comparison/

Each model is tuned over a small grid of its own: the same number of configurations (--budget) is trained
with the first seed, its defaults first, and the one with the best validation Recall@20 is trained with all
seeds. Nothing is chosen by the test split. A model that is computed at once has one run, which no seed
changes. The split is the same for all runs.

Each run is a file in the folder of --out, by which the comparison goes on where it was stopped: start it with
the same options. table.md and table.csv there hold the table.
"""

import copy
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
from lightning_fabric import seed_everything
from scipy.stats import ttest_rel
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm import tqdm

from lirdrec_pyg.config import MODEL_CONFIGS, PRESETS, DataConfig, Preset, TrainingConfig
from lirdrec_pyg.data import REPORTED_SPLITS, modalities
from lirdrec_pyg.datasets import load_data
from lirdrec_pyg.errors import LIRDRecError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import model_class
from lirdrec_pyg.nn import Ranker
from lirdrec_pyg.training import MONITOR, Trainer

Settings = Mapping[str, Any]
Run = Mapping[str, Any]

SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Attributes:
        model: as ``fit --model`` has it.
        grid: values to try of settings of the model or of its training.
        settings: what this one differs in from the model's defaults.
        is_peer: whether it is neither LIRDRec nor one of its ablations.
    """

    model: str
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        return self.model != "lirdrec"


# Of the papers, or of MMRec where a paper names none.
_LIRDREC = {"num_layers": (2, 3, 4), "network_weight": (0.9, 0.95, 0.99), "reg_weight": (1e-4, 1e-3, 1e-2)}
_WITHOUT_PWC = {name: values for name, values in _LIRDREC.items() if name != "network_weight"}
PEERS = {
    "popularity": Entry("popularity"),
    "content-knn": Entry("content-knn", {"knn_k": (5, 10, 20, 50, 100, 200)}),
    "item-knn": Entry(
        "item-knn", {"num_neighbours": (20, 100), "user_power": (0.5, 1.0), "item_power": (0.0, 0.25, 0.5)}
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
    """The lines that ``names`` asks for, with commas between them: names, ``peers``, ``ablations`` or ``all``."""
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
            raise click.UsageError(f"--models names {name!r}, which is none of: {known}.")
    if not found:
        raise click.UsageError("--models names nothing: 'all' takes them all.")
    return found


def configurations(entry: Entry, budget: int) -> list[Settings]:
    """At most ``budget`` points of the grid: the defaults, then others at random, the same each time."""
    defaults = {**{f.name: f.default for f in fields(TrainingConfig)}, **MODEL_CONFIGS[entry.model].training}
    defaults |= {f.name: f.default for f in fields(MODEL_CONFIGS[entry.model])}
    points = [dict(zip(entry.grid, values, strict=True)) for values in itertools.product(*entry.grid.values())]
    start = {name: defaults[name] for name in entry.grid}
    others = [point for point in points if point != start]
    random.Random(0).shuffle(others)
    return [start, *others][:budget]


@dataclass(frozen=True)
class Protocol:
    """What all runs have in common.

    Attributes:
        data: as ``fit --data`` takes it.
        split_seed: of a random split.
        epochs: at most.
        patience: epochs without a better validation Recall@20.
        device: where to train.
        preset: of the training of LIRDRec and its ablations, see ``fit --preset``.
    """

    data: str
    split_seed: int
    epochs: int
    patience: int
    device: str
    preset: Preset = "paper"


def train(graph: HeteroData, entry: Entry, settings: Settings, seed: int, protocol: Protocol) -> dict[str, Any]:
    """Trains one configuration, and says all of it that is ever asked for."""
    model_settings, training = configs(entry, settings, seed, protocol)
    kind = model_class(model_settings)
    seed_everything(seed, verbose=False)
    start = time.perf_counter()
    data = kind.graph_transform(model_settings)(copy.copy(graph).to(training.device))
    data = kind.input_transform(model_settings, training.sparse_backend)(data)
    model = kind.from_config(model_settings, data).to(training.device)
    if model_settings.closed_form:
        model.fit(data)
        epochs = best_epoch = 0
    else:
        trainer = Trainer(model, data, training)
        result = trainer.fit()
        model.load_state_dict(result.best_state)
        data, epochs, best_epoch = trainer.data, len(result.history), result.best_epoch
    seconds = time.perf_counter() - start
    ranker = model.ranker(data)
    tasks = {name: RankingTask.from_graph(data, split) for name, split in REPORTED_SPLITS.items()}
    return {
        "seconds": seconds,
        "epochs": epochs,
        "best_epoch": best_epoch,
        **{name: evaluate_ranker(ranker, task) for name, task in tasks.items()},
        "test_recall@20_by_user": [round(value, 6) for value in recall_by_user(ranker, tasks["test"], 20).tolist()],
    }


def configs(entry: Entry, settings: Settings, seed: int, protocol: Protocol) -> tuple[Any, TrainingConfig]:
    """``settings`` and the entry's own, sorted by what they are settings of."""
    kind = MODEL_CONFIGS[entry.model]
    of_model = {f.name for f in fields(kind)}
    given = {**entry.settings, **settings}
    training = {
        **kind.training,
        **({} if entry.is_peer else PRESETS[protocol.preset]),
        **{name: value for name, value in given.items() if name not in of_model},
        "seed": seed,
        "epochs": protocol.epochs,
        "patience": protocol.patience,
        "device": protocol.device,
    }
    return kind(**{name: value for name, value in given.items() if name in of_model}), TrainingConfig(**training)


def recall_by_user(ranker: Ranker, task: RankingTask, k: int) -> Tensor:
    """Recall@k of each user of ``task``, shape ``(N,)``."""
    row, item = task.label_index
    wanted = row * task.num_items + item
    hits = []
    for block in ranker.top_k(task.user_index, k, task.seen):
        rows = torch.arange(block.rows.start, block.rows.stop, device=row.device).unsqueeze(1)
        # An item that was left out, and comes last, is none of the held-out ones.
        hits.append(torch.isin(rows * task.num_items + block.item, wanted).sum(dim=1))
    return torch.cat(hits) / row.bincount(minlength=len(task.user_index))


class Comparison:
    """The runs of a comparison, each a file.

    Args:
        out: folder of the runs and the table.
        protocol: what all have in common.
        graph: what to train on.
        lines: what to compare.
        budget: configurations of each.
        num_seeds: runs of the best of these.
        deadline: moment of ``time.monotonic`` after which no run is started.
    """

    def __init__(
        self,
        out: Path,
        protocol: Protocol,
        graph: HeteroData,
        lines: Mapping[str, Entry],
        budget: int,
        num_seeds: int,
        deadline: float = math.inf,
    ) -> None:
        self.out = out
        self.protocol = protocol
        self.graph = graph
        self.lines = lines
        self.budget = budget
        self.num_seeds = num_seeds
        self.deadline = deadline

    def _seeds(self, entry: Entry) -> range:
        return range(1, 2 if MODEL_CONFIGS[entry.model].closed_form else self.num_seeds + 1)

    def run(self) -> None:
        """Trains what is not there yet, until the time is up."""
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
            found = train(self.graph, self.lines[name], settings, seed, self.protocol)
            content = {"name": name, "settings": settings, "seed": seed, "protocol": vars(self.protocol), **found}
            path = self._path(name, settings, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps({**content, "machine": machine()}) + "\n", encoding="utf-8")
            unfinished.replace(path)
            tqdm.write(
                f"{name:40s} {_text(settings):50s} seed {seed}  valid {found['valid'][MONITOR]:.4f}  "
                f"{found['epochs']:4d} epochs  {found['seconds']:7.1f} s"
            )
        bar.update()

    def _path(self, name: str, settings: Settings, seed: int) -> Path:
        # Another protocol makes another run.
        key = json.dumps([name, dict(self.lines[name].settings), dict(settings), seed, vars(self.protocol)])
        plain = "".join(c if c.isalnum() else "-" for c in name)
        return self.out / "runs" / f"{plain}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"

    def saved(self, name: str, settings: Settings, seed: int) -> Run | None:
        """A run, ``None`` if it is not there yet."""
        path = self._path(name, settings, seed)
        if not path.is_file():
            return None
        try:
            content: Run = json.loads(path.read_text(encoding="utf-8"))
            return content
        except ValueError as error:
            raise click.ClickException(
                f"{path} can't be read ({error}): remove it, and it is trained again."
            ) from error

    def best(self, name: str) -> Run | None:
        """The run of the best configuration by validation, ``None`` as long as not all of them are there."""
        found = [self.saved(name, settings, 1) for settings in configurations(self.lines[name], self.budget)]
        runs = [run for run in found if run is not None]
        return max(runs, key=lambda run: run["valid"][MONITOR]) if len(runs) == len(found) else None

    def finished(self) -> dict[str, list[Run]]:
        """The runs of the best configuration of each line that was tuned."""
        found = {}
        for name, entry in self.lines.items():
            if (best := self.best(name)) is not None:
                runs = (self.saved(name, best["settings"], seed) for seed in self._seeds(entry))
                found[name] = [run for run in runs if run is not None]
        return found

    def lacking(self) -> Iterator[str]:
        """What was not trained yet."""
        finished = self.finished()
        for name, entry in self.lines.items():
            if name not in finished:
                yield f"{name} (not tuned)"
            elif (missing := len(self._seeds(entry)) - len(finished[name])) > 0:
                yield f"{name} ({missing} seeds)"


def best_peer(runs: Mapping[str, Sequence[Run]], lines: Mapping[str, Entry]) -> str | None:
    """The peer with the best mean validation Recall@20."""
    peers = [name for name in runs if lines[name].is_peer]
    return max(peers, key=lambda name: _mean(runs[name], "valid", MONITOR), default=None)


def reference(runs: Mapping[str, Sequence[Run]], lines: Mapping[str, Entry]) -> str | None:
    """What the others are tested against: the best peer, or where there is none, LIRDRec."""
    return best_peer(runs, lines) or ("lirdrec" if "lirdrec" in runs else None)


def rows(runs: Mapping[str, Sequence[Run]], lines: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """A row for each line, as the CSV has them."""
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
        row["p against"], row["p"] = None, None
        if against is not None and against != name:
            row["p against"], row["p"] = against, p_value(of_line, runs[against])
        row["epochs"] = statistics.fmean(run["epochs"] for run in of_line)
        row["seconds"] = statistics.fmean(run["seconds"] for run in of_line)
        found.append(row)
    return found


def p_value(runs: Sequence[Run], others: Sequence[Run]) -> float:
    """Of a two-sided paired t-test over the users: of their test Recall@20, the mean over the seeds."""
    a, b = (
        [statistics.fmean(values) for values in zip(*(run["test_recall@20_by_user"] for run in side), strict=True)]
        for side in (runs, others)
    )
    # Without a difference there is no spread to divide by.
    return 1.0 if a == b else float(ttest_rel(a, b).pvalue)


def markdown(table: Sequence[Mapping[str, Any]], lines: Mapping[str, Entry], peer: str | None) -> str:
    """The rows as a table, the best mean of each column in bold, and what they say."""
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
    return "\n".join([*out, "", *verdict(table, lines, peer)])


def verdict(table: Sequence[Mapping[str, Any]], lines: Mapping[str, Entry], peer: str | None) -> Iterator[str]:
    """What the rows say of LIRDRec and its peers, whichever way they fall."""
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
    if better:
        yield f"LIRDRec is beaten on the test split by {', '.join(better)}."
    else:
        yield "No peer beats LIRDRec on the test split."


def _mean(runs: Sequence[Run], split: str, metric: str) -> float:
    return statistics.fmean(run[split][metric] for run in runs)


def _text(settings: Settings) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def _machine_text(about: Mapping[str, Any]) -> str:
    threads = "1 thread" if about["threads"] == 1 else f"{about['threads']} threads"
    return f"{about['processor']}, {threads}, {about['gpu'] or 'no GPU'}"


def note(comparison: Comparison) -> str:
    """How the table was made."""
    protocol = comparison.protocol
    machines = {_machine_text(run["machine"]) for runs in comparison.finished().values() for run in runs}
    lacking = ", ".join(comparison.lacking())
    return (
        f"`python benchmarks/compare.py {shlex.join(sys.argv[1:])}`: at most {comparison.budget} configurations a "
        f"model, chosen by validation {MONITOR} with the first seed, and {comparison.num_seeds} seeds of the best one; "
        f"at most {protocol.epochs} epochs, patience {protocol.patience}, LIRDRec by --preset {protocol.preset}. Means "
        "and standard deviations over the seeds; a model that is computed at once has one run. p: two-sided paired "
        "t-test over the users, of their test Recall@20 averaged over the seeds, against the best peer by validation "
        "(without peers, against lirdrec), not corrected for the number of models. Seconds: of one training with its "
        f"validations, {' or '.join(sorted(machines))}. All figures were measured here."
        + (f" Not trained yet: {lacking}." if lacking else "")
    )


@click.command()
@click.option("--data", default="synthetic", show_default=True, help="As fit takes it.")
@click.option(
    "--models",
    default="all",
    show_default=True,
    help="Names, 'peers', 'ablations' or 'all', with commas between them.",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Number of seeds, from 1 on.")
@click.option("--budget", default=6, show_default=True, type=click.IntRange(1), help="Configurations a model.")
@click.option("--epochs", default=1000, show_default=True, type=click.IntRange(1), help="At most.")
@click.option("--patience", default=20, show_default=True, type=click.IntRange(1), help="As for fit.")
@click.option("--minutes", type=click.FloatRange(0), help="Start no run after this time; start again to go on.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="paper",
    show_default=True,
    help="Of the training of LIRDRec and its ablations, as for fit.",
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
        loaded = load_data(DataConfig(data=data), split_seed)
    except LIRDRecError as error:
        raise click.ClickException(str(error)) from error
    lines = entries(models, modalities(loaded.graph))
    protocol = Protocol(data, split_seed, epochs, patience, device, preset)
    comparison = Comparison(out, protocol, loaded.graph, lines, budget, seeds, deadline)
    comparison.run()
    finished = comparison.finished()
    if lacking := list(comparison.lacking()):
        click.echo(f"Lacking, since the time was up: {', '.join(lacking)}. Start again with the same options to go on.")
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
