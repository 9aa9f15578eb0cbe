"""Run all benchmarks through one command.

python benchmarks list
python benchmarks training --size baby --json training.json
python benchmarks all --json-folder results/
python benchmarks compare HEAD~1 recommend -- --users 2000
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from harness import Row, json_option, report

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent

# Each is a separate script in this folder with a click command ``main``, and its options in ``all``, which runs those
# that take minutes and need no files.
BENCHMARKS: dict[str, list[str] | None] = {
    "models": None,
    "stopping": None,
    "training": [],
    "gpu": None,
    "recommend": [],
    "serve": ["--requests", "1000"],
    "sparse_products": [],
    "knn_search": [],
    "sampling": ["--users", "100000", "--items", "20000", "--interactions", "500000", "--steps", "20"],
    "sharding": ["--users", "20000", "--items", "2000", "--interactions", "200000", "--steps", "16"],
    "time_to_accuracy": ["--target", "0.34", "--seeds", "1"],
    "growth": ["--quick"],
    "contention": [],
    "parity": None,
    "captions": None,
    "rerank": [],
    "nights": ["--scratch", "10", "--lr", "1e-3"],
}
# Scripts with another name than their command, since "compare" compares commits.
SCRIPTS = {"models": "compare"}


def _script(name: str) -> click.Command:
    return importlib.import_module(SCRIPTS.get(name, name)).main


class _Benchmarks(click.Group):
    """One command per benchmark, whose script is imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*BENCHMARKS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return _script(name) if name in BENCHMARKS else super().get_command(ctx, name)


@click.group(cls=_Benchmarks)
def main() -> None:
    """Run a benchmark. Each prints a small table, and writes it to a file with --json."""


@main.command("list")
def list_benchmarks() -> None:
    """List all benchmarks."""
    for name in BENCHMARKS:
        click.echo(f"{name:18s} {_script(name).get_short_help_str(100)}")


@main.command("all")
@click.option(
    "--json-folder", type=click.Path(file_okay=False, path_type=Path), help="Folder for one file per benchmark."
)
def run_all(json_folder: Path | None) -> None:
    """Run all benchmarks that need no files, with settings that take minutes."""
    if json_folder is not None:
        json_folder.mkdir(parents=True, exist_ok=True)
    for name, options in BENCHMARKS.items():
        if options is None:
            continue
        click.echo(f"\n== {name} {' '.join(options)}")
        saved = [] if json_folder is None else ["--json", str(json_folder / f"{name}.json")]
        subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), *options, *saved], check=True)


@main.command()
@click.argument("old")
@click.argument("name", type=click.Choice([name for name, options in BENCHMARKS.items() if options is not None]))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--new", help="Commit to compare with OLD; by default the working tree.")
@click.option("--rounds", default=3, show_default=True, help="Number of turns per commit.")
@json_option
def compare(
    old: str, name: str, options: tuple[str, ...], new: str | None, rounds: int, json_file: Path | None
) -> None:
    """Compare the package at the commit OLD with another one, by the benchmark NAME.

    Both are measured with the current script and OPTIONS (after --), in processes that take turns. Values are medians;
    a ratio below 1 means that the newer package needs less.
    """
    with tempfile.TemporaryDirectory() as folder:
        places = {"old": _checked_out(old, Path(folder) / "old")}
        places["new"] = ROOT if new is None else _checked_out(new, Path(folder) / "new")
        found: dict[str, list[list[Row]]] = {"old": [], "new": []}
        for turn in range(1, rounds + 1):
            for side, place in places.items():
                click.echo(f"round {turn} of {rounds}: {side}", err=True)
                found[side].append(_measured(name, options, place, Path(folder) / "rows.json"))
    report(name, merged(found["old"], found["new"]), json_file)


def _checked_out(commit: str, place: Path) -> Path:
    """Unpack the package of ``commit`` into a separate folder."""
    place.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "lirdrec_pyg"], capture_output=True, check=False
    )
    if archive.returncode:
        raise click.BadParameter(archive.stderr.decode().strip(), param_hint=commit)
    subprocess.run(["tar", "-x", "-C", str(place)], input=archive.stdout, check=True)
    return place


def _measured(name: str, options: Sequence[str], place: Path, json_file: Path) -> list[Row]:
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options, "--json", str(json_file)]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise click.ClickException(f"{name} failed with the package in {place}:\n{done.stderr.strip()}")
    return json.loads(json_file.read_text(encoding="utf-8"))["rows"]


def merged(old: list[list[Row]], new: list[list[Row]]) -> list[Row]:
    """Return one row per measure: the medians over the rounds, and their ratio."""
    before, after = _medians(old), _medians(new)
    rows: list[Row] = []
    for (labels, measure), value in before.items():
        other = after.get((labels, measure))
        ratio = other / value if other is not None and value else None
        rows.append({**dict(labels), "measure": measure, "old": value, "new": other, "ratio": ratio})
    return rows


def _medians(rounds: list[list[Row]]) -> dict[tuple[tuple[tuple[str, Any], ...], str], float]:
    values: dict[tuple[tuple[tuple[str, Any], ...], str], list[float]] = {}
    for rows in rounds:
        for row in rows:
            labels = tuple((key, value) for key, value in row.items() if isinstance(value, (str, int)))
            for measure, value in row.items():
                if isinstance(value, float):
                    values.setdefault((labels, measure), []).append(value)
    return {key: statistics.median(found) for key, found in values.items()}


if __name__ == "__main__":
    main()
