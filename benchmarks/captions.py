"""Compare two sets of features by training on each, such as images and their captions.

    python benchmarks/captions.py DATA_A DATA_B [--seeds 5] [--out runs/captions] [-- OPTIONS OF fit]
    python benchmarks/captions.py clicks.csv clicks.csv --features-a features --features-b captioned -- --preset fast

Both data sets have the same interactions and different features. A model is trained on each with each seed, so that a
seed gives a pair with the same split and initialization; the metrics are those of the test split at the epoch that is
best by validation, with --split cold-items also those of the held-out items. The test is Student's paired t-test over
the seeds, two-sided: whether the mean change differs from zero. If all seeds have one split, it tells nothing about
other users.

The trainings are kept in --out: an interrupted call is resumed, and one with more seeds adds them.
"""

import contextlib
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from harness import Row, json_option, report
from scipy.stats import ttest_rel

from lirdrec_pyg.cli import main as lirdrec
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.recommender import Recommender

SETTINGS = "settings.json"
# Options of ``fit`` that the benchmark sets.
_OWN = ("--data", "--features", "--out", "--seed", "--resume", "--overwrite", "--config")


@click.command()
@click.argument("data_a")
@click.argument("data_b")
@click.argument("fit_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--features-a", multiple=True, help="Features of DATA_A, as fit --features.")
@click.option("--features-b", multiple=True, help="Features of DATA_B, as fit --features.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=2), help="Number of seeds.")
@click.option(
    "--out",
    default="runs/captions",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run folders.",
)
@json_option
def main(
    data_a: str,
    data_b: str,
    fit_options: tuple[str, ...],
    features_a: tuple[str, ...],
    features_b: tuple[str, ...],
    seeds: int,
    out: Path,
    json_file: Path | None,
) -> None:
    """Compare the metrics with the features of DATA_A and DATA_B, with a paired test.

    FIT_OPTIONS follow after --, such as: -- --preset fast --epochs 200
    """
    if own := [option for option in fit_options if option.partition("=")[0] in _OWN]:
        raise click.UsageError(f"{own[0]} cannot be passed to fit here. See the options of this benchmark.")
    sides = {
        side: _given(data, features) for side, data, features in zip("ab", (data_a, data_b), (features_a, features_b))
    }
    _check_settings(out, {**sides, "fit": list(fit_options)})
    pairs: list[tuple[dict[str, float], dict[str, float]]] = []
    for seed in range(1, seeds + 1):
        runs = {
            side: trained(out / f"{side}-seed{seed}", [*given, *fit_options], seed) for side, given in sides.items()
        }
        check_same_interactions(runs["a"], runs["b"])
        first, second = (metrics_of(runs[side]) for side in "ab")
        pairs.append((first, second))
        changes = ", ".join(f"{name} {first[name]:.4f} -> {second[name]:.4f}" for name in ("recall@20", "ndcg@20"))
        click.echo(f"seed {seed}: {changes}", err=True)
    report("captions", changes_of(pairs), json_file, markdown)


def _given(data: str, features: Sequence[str]) -> list[str]:
    return ["--data", data, *(part for entry in features for part in ("--features", entry))]


def _check_settings(out: Path, settings: dict[str, list[str]]) -> None:
    """Write what is compared; refuse a folder of another comparison."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / SETTINGS
    if not path.exists():
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    elif (before := json.loads(path.read_text(encoding="utf-8"))) != settings:
        raise click.UsageError(f"{out} has trainings of another comparison ({before}). Pass another --out.")


def trained(path: Path, options: Sequence[str], seed: int) -> Recommender:
    """Return the recommender in ``path``, after training or resuming it if necessary."""
    finished = path / "metrics.json"
    if not finished.exists():
        click.echo(f"training {path}", err=True)
        if (path / "checkpoint.safetensors").exists():
            arguments = ["fit", "--resume", str(path)]
        else:
            arguments = ["fit", *options, "--out", str(path), "--seed", str(seed)]
            arguments += ["--overwrite"] if path.exists() else []
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the table
            code = lirdrec.main(arguments, prog_name="lirdrec-pyg", standalone_mode=False)
        if code or not finished.exists():
            raise click.ClickException(f"The training in {path} has not finished.")
    return Recommender.load(path)


def check_same_interactions(a: Recommender, b: Recommender) -> None:
    """Raise :class:`click.ClickException` if two trainings differ in more than their features."""
    first, second = (one.dataset.graph[INTERACTS].to_dict() for one in (a, b))
    same = first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    ids = [(one.dataset.users.ids, one.dataset.items.ids) for one in (a, b)]
    if not (same and all(x.equals(y) for x, y in zip(*ids, strict=True))):
        raise click.ClickException(
            f"{a.path} and {b.path} were trained on different interactions or splits. Both data sets need the same "
            "users, items and interactions in the same order. If only items without clicks differ, drop them with: "
            "-- --k-core 1"
        )


def metrics_of(recommender: Recommender) -> dict[str, float]:
    """Return the test metrics, and those of held-out items among each other and among all."""
    assert recommender.metrics is not None
    cold = recommender.metrics.get("cold_start", {}).get("test", {})
    test = recommender.metrics["test"]
    return test | {f"{name}, {key}": cold[name][key] for name in ("cold", "cold among all") if cold for key in test}


def changes_of(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> list[Row]:
    """Return a row per metric: means of A and B, the change, and its significance.

    Standard deviations are those of the change over the seeds, percentages are relative to the mean of A. Without
    spread there is no test.
    """
    rows: list[Row] = []
    for name in pairs[0][0]:
        a, b = ([float(pair[side][name]) for pair in pairs] for side in (0, 1))
        change = [after - before for before, after in zip(a, b, strict=True)]
        mean, spread = statistics.fmean(change), statistics.stdev(change)
        percent = 100 / statistics.fmean(a) if any(a) else None
        test = ttest_rel(b, a) if spread > 0 else None
        rows.append(
            {
                "metric": name,
                "seeds": len(pairs),
                "A": statistics.fmean(a),
                "B": statistics.fmean(b),
                "change": mean,
                "sd of change": spread,
                "change in %": percent and percent * mean,
                "sd in %": percent and percent * spread,
                "t": _finite(test.statistic) if test else None,
                "p": _finite(test.pvalue) if test else None,
            }
        )
    return rows


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def markdown(rows: Sequence[Row]) -> str:
    """Format the rows as a table in Markdown."""
    lines = ["| test metric | A | B | change | in % | t | p |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        change = f"{row['change']:+.4f} ± {row['sd of change']:.4f}"
        sure = f"{_number(row['t'], '.2f')} | {_number(row['p'], '.3g')}"
        lines.append(f"| {row['metric']} | {row['A']:.4f} | {row['B']:.4f} | {change} | {_percent(row)} | {sure} |")
    seeds = rows[0]["seeds"]
    lines.append(
        f"\nMeans over {seeds} seeds; ± is the standard deviation of the change over the seeds; % is relative to the "
        "mean of A; p by a paired t-test."
    )
    return "\n".join(lines)


def _percent(row: Row) -> str:
    return "-" if row["change in %"] is None else f"{row['change in %']:+.2f} ± {row['sd in %']:.2f}"


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main()
