"""Benchmarks run, report what they measured, and compare commits. Measured values are not checked."""

import importlib.util
import io
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import contention
import pytest
import torch
from click.testing import CliRunner, Result
from generated import generated_graph
from growth import MEASURES, Point, exponents, measure, plot
from harness import alternate, table
from knn_search import measure as measure_search
from stopping import ended
from torch.utils.flop_counter import FlopCounterMode
from training import flops, prepared_trainer

from lirdrec_pyg import LIRDRec, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import INTERACTS, check_graph, held_out_edges

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHARED = {"__main__", "harness", "generated", "compat", "compare_lines", "compare_table"}
SCRIPTS = {"models": "compare"}  # the others have the name of their command
SMALL = {
    "training": ["--data", "synthetic", "--steps", "1"],
    "recommend": ["--users", "50", "--items", "300", "--width", "8", "--repeats", "1"],
    "sparse_products": ["--users", "40", "--items", "30", "--edges", "200", "--width", "8", "--repeats", "1"],
}


@pytest.fixture(scope="module")
def command() -> ModuleType:
    """The module that ``python benchmarks`` runs."""
    spec = importlib.util.spec_from_file_location("benchmarks_command", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(command: ModuleType, *arguments: str) -> Result:
    return CliRunner().invoke(command.main, arguments)


def test_every_script_is_listed(command: ModuleType) -> None:
    done = run(command, "list")
    assert done.exit_code == 0, done.output
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {SCRIPTS.get(name, name) for name in listed} == {path.stem for path in FOLDER.glob("*.py")} - SHARED
    assert all(len(line.split()) > 3 for line in done.stdout.splitlines())


@pytest.mark.usefixtures("small_synthetic")
def test_benchmarks_print_a_table_and_write_its_rows(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, options in SMALL.items():
        arguments = [name, *options, "--json", str(tmp_path / f"{name}.json")]
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        done = run(command, *arguments)
        assert done.exit_code == 0, done.output
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert content["benchmark"] == name
        assert content["command"] == arguments
        assert content["machine"]["torch"] == torch.__version__
        assert len(content["rows"]) >= 2
        for row in content["rows"]:
            measured = [value for value in row.values() if isinstance(value, float)]
            assert all(math.isfinite(value) and value > 0 for value in measured)
            assert all(value in done.stdout for value in row.values() if isinstance(value, str))
        assert any("seconds" in row or "ms" in row for row in content["rows"])


@pytest.mark.usefixtures("small_synthetic")
def test_rules_for_ending_a_training_are_applied_to_the_same_training(command: ModuleType, tmp_path: Path) -> None:
    assert [ended([0.1, 0.3, 0.2, 0.2, 0.4, 0.4], patience) for patience in (1, 2, 3)] == [(2, 3), (2, 4), (5, 6)]
    options = ["--seeds", "1", "--epochs", "3", "--patience", "1", "--out", str(tmp_path)]
    for _ in range(2):  # the second time from the file
        done = run(command, "stopping", *options, "--json", str(tmp_path / "rows.json"))
        assert done.exit_code == 0, done.output
        rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
        assert [(row["validated"], row["patience"]) for row in rows] == [
            (name, patience) for name in ("weights", "average") for patience in (1, 3)
        ]
        assert all(0 < row["test Recall@20"] < 1 and row["epochs"] <= 3 for row in rows)
        assert [row["change in %"] for row in rows if row["patience"] == 3] == [0, 0]


def test_neighbor_search_is_measured() -> None:
    row = measure_search(300, 8, 5, "exact")
    assert row["items"] == 300
    assert row["seconds"] > 0


def test_epochs_are_measured_alone_and_beside_busy_loops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In place of epochs, the processes measure whether the settings of their variant apply."""
    (tmp_path / "contention.py").write_text(
        "import os, sys\n"
        "def serve_epochs(data, batch_size):\n"
        "    print('ready', flush=True)\n"
        "    for _ in sys.stdin: print(len(os.environ.get('GOMP_SPINCOUNT', '')) + 1.0, flush=True)\n"
    )
    monkeypatch.setattr(contention, "FOLDER", tmp_path)
    rows = tmp_path / "rows.json"
    done = CliRunner().invoke(contention.main, ["--loops", "1", "--rounds", "1", "--json", str(rows)])
    assert done.exit_code == 0, done.output
    found = {row["variant"]: row["seconds"] for row in json.loads(rows.read_text())["rows"]}
    assert found == {"defaults of torch": 1.0, "command line": 6.0, "one thread": 1.0}


@pytest.mark.usefixtures("small_synthetic")
def test_epochs_are_served(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("0\n0.01\n"))
    contention.serve_epochs("synthetic", 64)
    ready, *seconds = capsys.readouterr().out.split()
    assert ready == "ready"
    assert len(seconds) == 2
    assert all(float(value) > 0 for value in seconds)


def test_contention_reports_medians_and_the_slowest_round() -> None:
    row = contention.summary("x", 2, [(1.0, 5.0), (3.0, 9.0), (2.0, 2.0)])
    assert (row["seconds"], row["seconds contended"], row["slowest contended"], row["ratio"]) == (2.0, 5.0, 9.0, 2.5)


def test_two_commits_take_turns(command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (FOLDER.parent / ".git").exists():
        pytest.skip("needs the history")
    places: list[Path] = []

    def measured(name: str, options: list[str], place: Path, json_file: Path) -> list[dict[str, object]]:
        assert (place / "lirdrec_pyg/__init__.py").is_file()
        places.append(place)
        return [{"variant": "x", "ms": float(len(places))}]

    monkeypatch.setattr(command, "_measured", measured)
    done = run(command, "compare", "HEAD", "sparse_products", "--json", str(tmp_path / "rows.json"))
    assert done.exit_code == 0, done.output
    assert [place.name for place in places[::2]] == ["old"] * 3
    assert places[1::2] == [FOLDER.parent] * 3
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows == [{"variant": "x", "measure": "ms", "old": 3.0, "new": 4.0, "ratio": 4 / 3}]


def test_a_commit_is_measured_with_its_own_package(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old/lirdrec_pyg").mkdir(parents=True)
    (tmp_path / "old/lirdrec_pyg/__init__.py").write_text("MS = 0.5\n")
    (tmp_path / "quick.py").write_text(
        "import json, pathlib, sys, lirdrec_pyg\n"
        "rows = [{'variant': sys.argv[1], 'ms': lirdrec_pyg.MS}]\n"
        "pathlib.Path(sys.argv[3]).write_text(json.dumps({'rows': rows}))\n"
    )
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    rows = command._measured("quick", ["x"], tmp_path / "old", tmp_path / "rows.json")
    assert rows == [{"variant": "x", "ms": 0.5}]


def test_an_unknown_commit_is_named(command: ModuleType) -> None:
    done = run(command, "compare", "no-such-commit", "sparse_products")
    assert done.exit_code == 2
    assert "no-such-commit" in done.output


def test_variants_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    variants = {name: lambda name=name: order.append(name) for name in "ab"}
    times = alternate(variants, 2, before=lambda: order.append("-"))
    assert order == list("-a-b") * 3
    assert times.keys() == {"a", "b"}


def test_a_table_has_one_column_per_name_and_dashes_for_missing_values() -> None:
    lines = table([{"way": "one", "seconds": 0.123456}, {"way": "three", "GiB": 12345.6, "users": 1000}]).splitlines()
    assert [line.split() for line in lines] == [
        ["way", "seconds", "GiB", "users"],
        ["one", "0.123", "-", "-"],
        ["three", "-", "12,346", "1,000"],
    ]


def test_generated_graphs_are_valid_and_of_the_requested_size() -> None:
    graph = generated_graph(300, 80, 3000, {"image": 12, "text": 5})
    check_graph(graph)
    assert (graph["user"].num_nodes, graph["item"].num_nodes) == (300, 80)
    assert 2000 <= graph[INTERACTS].num_edges <= 3000
    assert graph[INTERACTS].edge_index[0].unique().numel() == 300
    assert graph[INTERACTS].edge_index[1].unique().numel() == 80
    assert held_out_edges(graph, "valid").size(1) == 300
    again = generated_graph(300, 80, 3000, {"image": 12, "text": 5})
    assert torch.equal(graph["item"].x_image, again["item"].x_image)


def test_the_flops_of_a_step_are_those_that_torch_counts() -> None:
    graph = LIRDRec.graph_transform(LIRDRecConfig())(generated_graph(50, 40, 300, {"image": 24, "text": 16}))
    # Without layers, since torch counts sparse products as dense ones.
    config = LIRDRecConfig(embedding_dim=8, num_layers=0, num_item_layers=0)
    trainer = prepared_trainer(graph, config, TrainingConfig())
    with FlopCounterMode(display=False) as counter:
        trainer.model.loss(trainer.data, trainer.sampler.sample_epoch()).backward()
    assert flops(trainer.model.module, 40) == counter.get_total_flops()


def test_growth_measures_points_and_plots_them(tmp_path: Path) -> None:
    rows = [measure(Point(n, 60, 8), "cpu", 1) for n in (400, 800, 1600)]
    assert all(isinstance(row[name], float) and row[name] > 0 for row in rows for name in MEASURES)
    assert [row["interactions"] for row in rows] == [400, 800, 1600]
    plot({"interactions": rows}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_exponents_are_slopes_on_logarithmic_scales() -> None:
    rows = [{"items": n, **{name: 3.0 * n**power for power, name in enumerate(MEASURES)}} for n in (1, 10, 100, 1000)]
    assert exponents("items", rows) == pytest.approx(
        {"grows with": "items", **{name: float(power) for power, name in enumerate(MEASURES)}}
    )
