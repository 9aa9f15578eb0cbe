"""The comparison of models: its trainings, its choices and its table."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import compare
import pytest
import torch
from click.testing import CliRunner, Result
from compare import Comparison, Entry, Protocol, configurations, entries, markdown, p_value, recall_by_user, rows
from scipy.stats import ttest_rel

from lirdrec_pyg import Dataset, EASEConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import EASE, MODEL_CONFIGS
from lirdrec_pyg.nn import DotProducts

LINES = entries("popularity,ease,lirdrec,lirdrec-image-only", ("image", "text"))


def run(name: str, valid: float, by_user: Sequence[float], seed: int = 1) -> dict[str, Any]:
    metrics = {metric: sum(by_user) / len(by_user) for metric in compare.SHOWN}
    return {
        "name": name,
        "settings": {"l2": 20.0},
        "seed": seed,
        "valid": {compare.MONITOR: valid},
        "test": metrics,
        "test_recall@20_by_user": by_user,
        "seconds": 1.0,
        "epochs": 3,
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic_data(num_users=60, num_items=50)
    monkeypatch.setattr(Dataset, "from_path", lambda *_, **__: data)


def compared(out: Path, *options: object) -> Result:
    given = ["--models", "ease,bpr-mf", "--seeds", 2, "--budget", 2, "--epochs", 2, "--device", "cpu", "--out", out]
    result = CliRunner().invoke(compare.main, [str(part) for part in (*given, *options)])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.usefixtures("small")
def test_two_models_and_two_seeds_make_a_table(tmp_path: Path) -> None:
    compared(tmp_path)
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir()]
    # One model is in closed form, independent of the seed. The other is tuned with the first seed.
    assert (
        sorted((run["name"], run["seed"]) for run in runs) == [("bpr-mf", 1)] * 2 + [("bpr-mf", 2)] + [("ease", 1)] * 2
    )
    chosen = next(run for run in runs if run["name"] == "bpr-mf" and run["seed"] == 2)
    tuned = [run for run in runs if run["name"] == "bpr-mf" and run["seed"] == 1]
    (best,) = (run for run in tuned if run["settings"] == chosen["settings"])
    assert best["valid"]["recall@20"] == max(run["valid"]["recall@20"] for run in tuned)

    with (tmp_path / "table.csv").open() as file:
        table = {row["model"]: row for row in csv.DictReader(file)}
    assert list(table) == ["ease", "bpr-mf"]
    mean = (chosen["test"]["recall@20"] + best["test"]["recall@20"]) / 2
    assert float(table["bpr-mf"]["test recall@20 mean"]) == pytest.approx(mean)
    assert table["ease"]["test recall@20 sd"] == ""
    for metric in compare.BEYOND_ACCURACY:
        found = [{**run["test"], **run["beyond_accuracy"]["test"]}[metric] for run in (chosen, best)]
        assert float(table["bpr-mf"][f"test {metric} mean"]) == pytest.approx(sum(found) / 2)
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("|  | test recall@10 |")
    assert "Best peer by validation" in text
    assert f"{torch.get_num_threads()} thread" in text


@pytest.mark.usefixtures("small")
def test_a_comparison_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = compared(tmp_path, "--minutes", 0)
    assert "ease (not tuned), bpr-mf (not tuned)" in result.output
    assert not (tmp_path / "table.md").exists()
    compared(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    (again,) = [path for path, text in before.items() if json.loads(text)["seed"] == 2]
    again.unlink()
    trained: list[str] = []
    train = compare.train

    def counted(dataset: Any, entry: Entry, *rest: Any) -> dict[str, Any]:
        trained.append(entry.model)
        return train(dataset, entry, *rest)

    monkeypatch.setattr(compare, "train", counted)
    compared(tmp_path)
    assert trained == ["bpr-mf"]
    assert set((tmp_path / "runs").iterdir()) == set(before)
    found = json.loads(again.read_text())
    assert {k: found[k] for k in ("valid", "test")} == {k: json.loads(before[again])[k] for k in ("valid", "test")}
    compared(tmp_path, "--epochs", 1)  # another protocol shares no run
    assert trained == ["bpr-mf", "ease", "ease", "bpr-mf", "bpr-mf", "bpr-mf"]


def test_every_entry_has_valid_settings() -> None:
    for entry in entries("all", ("image", "text")).values():
        for settings in configurations(entry, 100):
            compare.configs(entry, settings, 1, Protocol("synthetic", 1, 3, 2, "cpu"))
    assert {entry.model for entry in entries("all", ()).values()} == MODEL_CONFIGS.keys()
    assert {name for name in entries("ablations", ("a", "b")) if name.endswith("-only")} == {
        "lirdrec-a-only",
        "lirdrec-b-only",
    }
    with pytest.raises(click.UsageError, match=r"'svd'.*lightgcn"):
        entries("ease,svd", ())


def test_configurations_are_the_defaults_and_always_the_same_others() -> None:
    entry = entries("lightgcn", ())["lightgcn"]
    assert configurations(entry, 1) == [{"num_layers": 3, "reg_weight": 1e-4}]
    assert configurations(entry, 4) == configurations(entry, 9)[:4]
    everything = configurations(entry, 1000)
    assert len(everything) == 16
    assert len({tuple(settings.items()) for settings in everything}) == 16
    assert configurations(entries("popularity", ())["popularity"], 5) == [{}]
    assert configurations(entries("freedom", ())["freedom"], 1) == [{"modality_weight": 1e-3, "edge_dropout": 0.8}]


def test_recall_of_each_user_averages_to_the_recall() -> None:
    graph = synthetic_data(num_users=60, num_items=50).graph
    model = EASE.from_config(EASEConfig(), graph)
    model.fit(graph)
    task = RankingTask.from_graph(graph, "test")
    by_user = recall_by_user(model.ranker(graph), task, 20)
    assert by_user.shape == task.user_index.shape
    assert float(by_user.mean()) == pytest.approx(evaluate_ranker(model.ranker(graph), task)["recall@20"])
    perfect = torch.zeros(60, 50)
    perfect[tuple(task.pairs)] = 1
    assert (recall_by_user(DotProducts(perfect, torch.eye(50)), task, 20) == 1).all()


def test_the_table_shows_the_best_line_and_its_significance() -> None:
    a, b = [0.0, 0.5, 1.0, 0.25], [0.5, 0.5, 1.0, 0.75]
    runs = {
        "popularity": [run("popularity", 0.3, a)],
        "ease": [run("ease", 0.2, b)],
        "lirdrec": [run("lirdrec", 0.9, a), run("lirdrec", 0.7, b, 2)],
    }
    table = rows(runs, LINES)
    # The best peer is the best by validation, not by test.
    assert compare.best_peer(runs, LINES) == "popularity"
    assert table[0]["p"] is None
    mean = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
    assert table[2]["p"] == pytest.approx(float(ttest_rel(mean, a).pvalue))
    assert table[2]["valid recall@20 mean"] == pytest.approx(0.8)
    assert p_value(runs["ease"], runs["ease"]) == 1.0
    text = markdown(table, LINES, "popularity")
    lines = text.splitlines()
    assert "**0.6875**" in lines[3]
    assert "**" not in lines[2] + lines[4]
    assert "0.5625 ± 0.1768" in lines[4]
    assert "LIRDRec is 0.1250 above it" in text
    # These runs are of before there were other metrics than accuracy.
    assert lines[-1] == "| lirdrec |  |  |  |  |  |  |"
    assert "better test recall@20 than LIRDRec: ease." in text


def test_ablations_alone_are_tested_against_the_whole_model() -> None:
    a, b = [0.0, 0.5, 1.0, 0.25], [0.5, 0.5, 1.0, 0.75]
    runs = {"lirdrec": [run("lirdrec", 0.3, a)], "lirdrec-image-only": [run("lirdrec-image-only", 0.9, b)]}
    whole, part = rows(runs, LINES)
    assert (whole["p against"], whole["p"]) == (None, None)
    assert part["p against"] == "lirdrec"
    assert part["p"] == pytest.approx(float(ttest_rel(b, a).pvalue))
    assert "peer" not in markdown([whole, part], LINES, None)


def test_invalid_options_are_named(tmp_path: Path) -> None:
    for given, named in (
        (["--data", str(tmp_path / "none")], "does not exist"),
        (["--models", ","], "--models is empty"),
    ):
        result = CliRunner().invoke(compare.main, [*given, "--out", str(tmp_path / "out")])
        assert result.exit_code != 0
        assert isinstance(result.exception, SystemExit)
        assert named in result.output
    assert not (tmp_path / "out").exists()


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    data = synthetic_data(num_users=60, num_items=50)
    comparison = Comparison(tmp_path, Protocol("x", 1, 1, 1, "cpu"), data, entries("ease", ()), 1, 1)
    comparison.run()
    (path,) = (tmp_path / "runs").glob("ease-*")
    path.write_text("{")
    with pytest.raises(click.ClickException, match=path.name):
        comparison.finished()
