"""Compares two sets of features by what a training makes of them, such as pictures and their captions.

    python benchmarks/captions.py DATA_A DATA_B [--seeds 5] [--out runs/captions] [-- OPTIONS OF fit]
    python benchmarks/captions.py clicks.csv clicks.csv --features-a features --features-b captioned -- --preset fast

Both data sets have the same interactions and other features: A the original ones, B those to be judged. A model is
trained on each with each seed, so that a seed gives a pair with the same split and start; the figures are those of
the test split at the epoch that is best by validation. The test is Student's for pairs, two-sided: it asks whether the
mean of the changes differs from zero, and knows nothing but these seeds on these data.

What was trained stays in --out: a call that was interrupted or killed goes on, and one with more seeds adds them.
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
from lirdrec_pyg.training import Run

SETTINGS = "settings.json"
# What the benchmark itself says to ``fit``.
_OWN = ("--data", "--features", "--out", "--seed", "--resume", "--overwrite", "--config")


@click.command()
@click.argument("data_a")
@click.argument("data_b")
@click.argument("fit_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--features-a", multiple=True, help="Features of DATA_A that are not beside it, as fit --features.")
@click.option("--features-b", multiple=True, help="Features of DATA_B that are not beside it, as fit --features.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=2), help="Number of seeds, from 1 on.")
@click.option(
    "--out",
    default="runs/captions",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A run folder for each training goes there.",
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
    """What other features (DATA_B) change in each figure, with a paired test.

    FIT_OPTIONS follow after --, such as: -- --preset fast --epochs 200
    """
    if own := [option for option in fit_options if option.partition("=")[0] in _OWN]:
        raise click.UsageError(f"{own[0]} can't be given to fit here: see the options of this benchmark.")
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
        first, second = (_figures(runs[side]) for side in "ab")
        pairs.append((first, second))
        changes = ", ".join(f"{name} {first[name]:.4f} -> {second[name]:.4f}" for name in ("recall@20", "ndcg@20"))
        click.echo(f"seed {seed}: {changes}", err=True)
    report("captions", changes_of(pairs), json_file, markdown)


def _given(data: str, features: Sequence[str]) -> list[str]:
    return ["--data", data, *(part for entry in features for part in ("--features", entry))]


def _check_settings(out: Path, settings: dict[str, list[str]]) -> None:
    """Writes down what is compared; refuses a folder where something else was."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / SETTINGS
    if not path.exists():
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    elif (before := json.loads(path.read_text(encoding="utf-8"))) != settings:
        raise click.UsageError(f"{out} has trainings of another comparison ({before}): name another folder with --out.")


def trained(path: Path, options: Sequence[str], seed: int) -> Run:
    """The run in ``path``, which is made, gone on with, or taken as it is, whatever is needed."""
    finished = path / "metrics.json"
    if not finished.exists():
        click.echo(f"training {path}", err=True)
        if (path / "checkpoint.safetensors").exists():
            arguments = ["fit", "--resume", str(path)]
        else:
            arguments = ["fit", *options, "--out", str(path), "--seed", str(seed)]
            arguments += ["--overwrite"] if path.exists() else []
        with contextlib.redirect_stdout(sys.stderr):  # the other has the table, and nothing else
            code = lirdrec.main(arguments, prog_name="lirdrec-pyg", standalone_mode=False)
        if code or not finished.exists():
            raise click.ClickException(f"The training in {path} has not come to its end.")
    return Run.open(path)


def check_same_interactions(a: Run, b: Run) -> None:
    """Raises :class:`click.ClickException` if two runs differ in more than their features."""
    first, second = (run.graph()[INTERACTS].to_dict() for run in (a, b))
    same = first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    if not (same and a.users().ids.equals(b.users().ids) and a.items().ids.equals(b.items().ids)):
        raise click.ClickException(
            f"{a.path} and {b.path} were not trained on the same interactions and split: both data sets need the same "
            "users, items and interactions, in the same order. If only items without clicks differ, such as those of "
            "which one side has no features, leave them out with: -- --k-core 1"
        )


def _figures(run: Run) -> dict[str, float]:
    metrics = run.metrics()
    assert metrics is not None
    figures: dict[str, float] = metrics["test"]
    return figures


def changes_of(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> list[Row]:
    """A row for each figure: its mean on either side, the change, and how sure it is.

    The standard deviations are those of a single seed's change, and per cent are those of the mean of A. Without any
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
                "figure": name,
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
    """The rows as a table in Markdown."""
    lines = ["| test figure | A | B | change | in % | t | p |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        change = f"{row['change']:+.4f} ± {row['sd of change']:.4f}"
        sure = f"{_number(row['t'], '.2f')} | {_number(row['p'], '.3g')}"
        lines.append(f"| {row['figure']} | {row['A']:.4f} | {row['B']:.4f} | {change} | {_percent(row)} | {sure} |")
    seeds = rows[0]["seeds"]
    lines.append(
        f"\nMeans over {seeds} seeds; ± is the standard deviation of a seed's change; % is of the mean of A; "
        "p by a paired t-test."
    )
    return "\n".join(lines)


def _percent(row: Row) -> str:
    return "-" if row["change in %"] is None else f"{row['change in %']:+.2f} ± {row['sd in %']:.2f}"


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main()
