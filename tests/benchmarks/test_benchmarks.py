"""Benchmarks run, say what they measured, and compare commits; what they measure is not looked at here."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from generated import generated_graph
from growth import MEASURES, Point, exponents, measure, plot
from harness import alternate, table
from torch.utils.flop_counter import FlopCounterMode
from training import flops, prepared_trainer

from lirdrec_pyg.config import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import INTERACTS, check_graph, held_out_edges
from lirdrec_pyg.models import LIRDRec

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHARED = {"__main__", "harness", "generated"}
SCRIPTS = {"models": "compare"}  # the others have the name of their command
SMALL = {
    "training": ["--data", "synthetic", "--steps", "2"],
    "recommend": ["--users", "50", "--items", "300", "--width", "8", "--repeats", "1"],
    "sparse_products": ["--users", "40", "--items", "30", "--edges", "200", "--width", "8", "--repeats", "1"],
    "neighbours": ["--items", "3000", "--width", "16"],
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_script_is_listed() -> None:
    done = run("list")
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {SCRIPTS.get(name, name) for name in listed} == {path.stem for path in FOLDER.glob("*.py")} - SHARED
    assert all(len(line.split()) > 3 for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_prints_a_table_and_writes_its_rows(name: str, tmp_path: Path) -> None:
    done = run(name, *SMALL[name], "--json", str(tmp_path / "rows.json"))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["benchmark"] == name
    assert content["command"][-2:] == ["--json", str(tmp_path / "rows.json")]
    assert content["machine"]["torch"] == torch.__version__
    assert len(content["rows"]) >= 2
    for row in content["rows"]:
        measured = [value for value in row.values() if isinstance(value, float)]
        assert all(math.isfinite(value) and value > 0 for value in measured)
        assert all(str(value) in done.stdout for value in row.values() if isinstance(value, str))
    assert any("seconds" in row or "ms" in row for row in content["rows"])


def test_two_commits_take_turns(tmp_path: Path) -> None:
    if not (FOLDER.parent / ".git").exists():
        pytest.skip("needs the history")
    done = run(
        *("compare", "HEAD", "sparse_products", "--rounds", "2", "--json", str(tmp_path / "rows.json")),
        *("--", *SMALL["sparse_products"]),
    )
    assert done.returncode == 0, done.stderr
    turns = [line.rpartition(" ")[2] for line in done.stderr.splitlines() if line.startswith("round")]
    assert turns == ["old", "new", "old", "new"]
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {row["figure"] for row in rows} == {"ms", "ratio"}
    assert all(row["ratio"] == pytest.approx(row["new"] / row["old"]) for row in rows)


def test_a_commit_that_is_not_there_is_named() -> None:
    done = run("compare", "no-such-commit", "sparse_products")
    assert done.returncode == 2
    assert "no-such-commit" in done.stderr
    assert "Traceback" not in done.stderr


def test_variants_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    variants = {name: lambda name=name: order.append(name) for name in "ab"}
    times = alternate(variants, 2, before=lambda: order.append("-"))
    assert order == list("-a-b") * 3
    assert times.keys() == {"a", "b"}


def test_a_table_has_a_column_for_each_name_and_a_dash_where_nothing_is() -> None:
    lines = table([{"way": "one", "seconds": 0.123456}, {"way": "three", "GiB": 12345.6, "users": 1000}]).splitlines()
    assert [line.split() for line in lines] == [
        ["way", "seconds", "GiB", "users"],
        ["one", "0.123", "-", "-"],
        ["three", "-", "12,346", "1,000"],
    ]


def test_generated_graphs_are_sound_and_of_the_size_asked_for() -> None:
    graph = generated_graph(300, 80, 3000, {"image": 12, "text": 5})
    check_graph(graph)
    assert (graph["user"].num_nodes, graph["item"].num_nodes) == (300, 80)
    assert 2000 <= graph[INTERACTS].num_edges <= 3000
    assert graph[INTERACTS].edge_index[0].unique().numel() == 300
    assert graph[INTERACTS].edge_index[1].unique().numel() == 80
    assert held_out_edges(graph, "val").size(1) == 300
    again = generated_graph(300, 80, 3000, {"image": 12, "text": 5})
    assert torch.equal(graph["item"].x_image, again["item"].x_image)


def test_the_flops_of_a_step_are_those_that_torch_counts() -> None:
    graph = LIRDRec.graph_transform(LIRDRecConfig())(generated_graph(50, 40, 300, {"image": 24, "text": 16}))
    # Without layers: sparse products would be counted as if they were dense.
    config = LIRDRecConfig(embedding_dim=8, num_layers=0, num_item_layers=0)
    trainer = prepared_trainer(graph, config, TrainingConfig())
    with FlopCounterMode(display=False) as counter:
        trainer.model.loss(trainer.data, trainer.sampler.sample_epoch()).backward()
    assert flops(trainer.model.module, 40) == counter.get_total_flops()


def test_growth_measures_a_point_and_fits_its_exponents(tmp_path: Path) -> None:
    points = [Point(n, 60, 8) for n in (400, 800, 1600)]
    rows = [measure(point, "cpu", 1) for point in points]
    assert all(isinstance(row[name], float) and row[name] > 0 for row in rows for name in MEASURES)
    assert [row["interactions"] for row in rows] == [400, 800, 1600]
    plot({"interactions": rows}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_exponents_are_the_slopes_in_logarithmic_scales() -> None:
    rows = [{"items": n, **{name: 3.0 * n**power for power, name in enumerate(MEASURES)}} for n in (1, 10, 100, 1000)]
    assert exponents("items", rows) == pytest.approx(
        {"grows with": "items", **{name: float(power) for power, name in enumerate(MEASURES)}}
    )
