"""The comparison of models: its trainings, their order, its choices and its table."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import compare
import pytest
import torch
from click.testing import CliRunner, Result
from compare import Comparison, Protocol, named
from compare_lines import PEERS, Entry, configs, configurations, entries
from compare_table import BEYOND_ACCURACY, SHOWN, best_peer, markdown, reference, rows

from lirdrec_pyg import Dataset
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.evaluation import holm, paired_bootstrap
from lirdrec_pyg.models import MODEL_CONFIGS
from lirdrec_pyg.training import MONITOR, PRESETS

LINES = entries("popularity,ease,lirdrec,lirdrec-image-only", ("image", "text"))


def run(valid: float, by_user: Sequence[float]) -> dict[str, Any]:
    return {
        "settings": {"l2": 20.0},
        "valid": {MONITOR: valid},
        "test": dict.fromkeys((*SHOWN, *BEYOND_ACCURACY), sum(by_user) / len(by_user)),
        "beyond_accuracy": {"test": {}},
        "test_by_user": {"recall@20": by_user, "ndcg@20": by_user[::-1]},
        "seconds": 1.0,
        "epochs": 3,
    }


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for two data sets: ``large``, and ``small``, which has one modality."""
    small = synthetic_data(num_users=60, num_items=40)
    del small.graph["item"].x_image
    datasets = {"large": synthetic_data(num_users=60, num_items=50), "small": small}
    monkeypatch.setattr(Dataset, "from_path", lambda place, **_: datasets[Path(place).name])
    return ["--data", "large", "--data", f"b={tmp_path / 'small'}"]


def compared(*options: object) -> Result:
    result = CliRunner().invoke(compare.main, ["--epochs", "2", "--device", "cpu", *map(str, options)])
    assert result.exit_code == 0, result.output
    return result


def runs_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (out / "runs").iterdir()]


def test_two_data_sets_make_a_table(tmp_path: Path, places: list[str]) -> None:
    out = tmp_path / "out"
    compared(*places, "--models", "ease,bpr-mf,lirdrec-text-only", "--seeds", 2, "--budget", 2, "--out", out)
    runs = runs_in(out)
    # One model is in closed form, independent of the seed. The others are tuned with the first seed, and an only
    # modality needs no line of its own.
    expected = [("bpr-mf", 1)] * 2 + [("bpr-mf", 2)] + [("ease", 1)] * 2
    assert sorted((run["name"], run["seed"]) for run in runs if run["data"] == "b") == expected
    expected += [("lirdrec-text-only", 1)] * 2 + [("lirdrec-text-only", 2)]
    of_large = [run for run in runs if run["data"] == "large"]
    assert sorted((run["name"], run["seed"]) for run in of_large) == expected
    (chosen,) = (run for run in of_large if run["name"] == "bpr-mf" and run["seed"] == 2)
    tuned = [run for run in of_large if run["name"] == "bpr-mf" and run["seed"] == 1]
    (best,) = (run for run in tuned if run["settings"] == chosen["settings"])
    assert best["valid"]["recall@20"] == max(run["valid"]["recall@20"] for run in tuned)

    with (out / "table.csv").open() as file:
        table = {(row["data"], row["model"]): row for row in csv.DictReader(file)}
    assert [*table] == [
        *(("large", name) for name in ("ease", "bpr-mf", "lirdrec-text-only")),
        *(("b", name) for name in ("ease", "bpr-mf")),
    ]
    row = table["large", "bpr-mf"]
    mean = (chosen["test"]["recall@20"] + best["test"]["recall@20"]) / 2
    assert float(row["test recall@20 mean"]) == pytest.approx(mean)
    for metric in ("recall@20", "ndcg@20"):
        by_user = torch.tensor([run["test_by_user"][metric] for run in (chosen, best)])
        assert float(row[f"test {metric} mean"]) == pytest.approx(float(by_user.mean()), abs=1e-6)
    assert table["large", "ease"]["test recall@20 sd"] == ""
    for metric in BEYOND_ACCURACY:
        found = [{**run["test"], **run["beyond_accuracy"]["test"]}[metric] for run in (chosen, best)]
        assert float(row[f"test {metric} mean"]) == pytest.approx(sum(found) / 2)
    text = (out / "table.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == ["## large", "## b"]
    assert text.count("Best peer by validation") == 2
    assert f"{torch.get_num_threads()} thread" in text
    assert "Not finished" not in text


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any, int]]:
    """Runs in the order of their training, which is replaced: one on ``large`` takes three times as long."""
    order: list[tuple[str, str, Any, int]] = []

    def train(dataset: Dataset, entry: Entry, settings: Any, shared: Any) -> dict[str, Any]:
        is_large = dataset.graph["item"].num_nodes == 50
        order.append(("large" if is_large else "b", entry.model, dict(settings), shared["seed"]))
        found = run(settings.get("reg_weight", 0.0), [0.1 * shared["seed"], 0.5])
        return {**found, "settings": settings, "seconds": 3.0 if is_large else 1.0}

    monkeypatch.setattr(compare, "train", train)
    return order


def test_defaults_come_first_and_then_data_sets_share_the_time(
    tmp_path: Path, places: list[str], trained: list[tuple[str, str, Any, int]]
) -> None:
    models = ("ease", "bpr-mf", "vbpr")
    compared(*places, "--models", ",".join(models), "--seeds", 3, "--budget", 3, "--out", tmp_path)
    defaults = {(data, name): configurations(PEERS[name], 1)[0] for data in ("large", "b") for name in models}
    assert {(data, name): settings for data, name, settings, _ in trained[:6]} == defaults
    # As long as both have runs left, the next run is of the one that has taken less time.
    seconds = {"large": 9.0, "b": 3.0}
    last = max(i for i, (data, *_) in enumerate(trained) if data == "b")
    assert last < len(trained) - 3
    for data, *_ in trained[6 : last + 1]:
        assert seconds[data] == min(seconds.values())
        seconds[data] += 3.0 if data == "large" else 1.0
    of_b = [(name, seed) for data, name, _, seed in trained if data == "b"]
    first, more = [(name, 1) for name in models], [(name, seed) for seed in (2, 3) for name in models[1:]]
    assert of_b == first * 3 + more
    # The best by validation is trained with the other seeds.
    assert {settings["reg_weight"] for _, name, settings, seed in trained if name == "bpr-mf" and seed > 1} == {
        max(s["reg_weight"] for s in configurations(PEERS["bpr-mf"], 3))
    }


def test_a_comparison_is_resumed_and_merged(
    tmp_path: Path, places: list[str], trained: list[tuple[str, str, Any, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = ("--models", "ease,bpr-mf", "--seeds", 2, "--budget", 2, "--out", out)
    result = compared(*places, *options, "--minutes", 0)
    assert "large ease (0 of 2 configurations), large bpr-mf (0 of 2 configurations), b ease" in result.output
    assert not out.exists()

    complete = compare.train

    def interrupted(*given: Any) -> dict[str, Any]:
        if len(trained) == 5:
            raise KeyboardInterrupt
        return complete(*given)

    with monkeypatch.context() as patch:
        patch.setattr(compare, "train", interrupted)
        done = CliRunner().invoke(compare.main, ["--epochs", "2", *places, *map(str, options)])
    assert done.exit_code == 1
    assert len(trained) == 5
    text = (out / "table.md").read_text()
    assert "## large" in text
    assert "large bpr-mf (1 of 2 configurations)" in text

    compared(*places, *options)
    assert len(trained) == 10
    # On another machine, data have the same names in other places, and the device is another.
    (again,) = (out / "runs").glob("b-bpr-mf-2-*")
    shutil.copytree(out / "runs", tmp_path / "other/runs", ignore=lambda *_: [again.name])
    elsewhere = ["--data", "elsewhere/large", "--data", "b=elsewhere/small"]
    moved = (*options[:-1], tmp_path / "other")
    assert "b bpr-mf (1 of 2 seeds)" in compared(*elsewhere, *moved, "--minutes", 0).output
    compared(*elsewhere, *moved, "--device", "cuda")
    assert len(trained) == 11
    assert (tmp_path / "other/runs" / again.name).is_file()
    # Another protocol, other names and other data share no run.
    compared(*elsewhere, *moved, "--patience", 1, "--models", "ease")
    compared("--data", "c=large", *moved, "--models", "ease")
    compared("--data", "b=large", *moved, "--models", "ease")
    assert len(trained) == 11 + 4 + 2 + 2


def test_runs_of_a_preset_that_has_changed_are_trained_again(
    tmp_path: Path, places: list[str], trained: list[tuple[str, str, Any, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--models", "lirdrec-fast,ease", "--seeds", 1, "--budget", 1, "--out", tmp_path / "out")
    compared(*places[:2], *options)
    monkeypatch.setitem(PRESETS, "fast", {**PRESETS["fast"], "lr": 0.01})
    compared(*places[:2], *options)
    assert [name for _, name, *_ in trained] == ["lirdrec", "ease", "lirdrec"]


def test_every_entry_has_valid_settings() -> None:
    lines = entries("all", ("image", "text"), "fast")
    for entry in lines.values():
        for settings in configurations(entry, 100):
            configs(entry, settings, {"seed": 1, "device": "cpu"})
    assert {entry.model for entry in lines.values()} == MODEL_CONFIGS.keys()
    assert {name for name in entries("ablations", ("a", "b")) if name.endswith("-only")} == {
        "lirdrec-a-only",
        "lirdrec-b-only",
    }
    with pytest.raises(click.UsageError, match=r"'svd'.*lightgcn"):
        entries("ease,svd", ())


def test_presets_and_stopping_are_those_of_each_model_unless_given() -> None:
    lines = entries("lirdrec,lirdrec-fast,lightgcn", ())
    fast = {name: PRESETS["fast"][name] for name in ("lr", "batch_size")}
    for name, lr in {"lirdrec-fast": fast["lr"], "lirdrec": 1e-4, "lightgcn": 1e-3}.items():
        _, config = configs(lines[name], {}, Protocol(1).training)
        assert config.lr == lr
        assert config.epochs == 1000
    _, config = configs(entries("lirdrec", (), "fast")["lirdrec"], {}, Protocol(1, 3, 2).training)
    assert {"lr": config.lr, "batch_size": config.batch_size} == fast
    assert (config.epochs, config.patience) == (3, 2)


def test_configurations_are_the_defaults_and_always_the_same_others() -> None:
    entry = PEERS["lightgcn"]
    assert configurations(entry, 1) == [{"num_layers": 3, "reg_weight": 1e-4}]
    assert configurations(entry, 4) == configurations(entry, 9)[:4]
    everything = configurations(entry, 1000)
    assert len(everything) == 16
    assert len({tuple(settings.items()) for settings in everything}) == 16
    assert configurations(PEERS["popularity"], 5) == [{}]
    assert configurations(PEERS["freedom"], 1) == [{"modality_weight": 1e-3, "edge_dropout": 0.8}]
    # Published results have no regularization here.
    assert any(settings["reg_weight"] == 0 for settings in configurations(PEERS["bm3"], 6))


def test_the_table_shows_the_best_line_and_its_significance() -> None:
    a, b = [0.0, 0.5, 1.0, 0.25], [0.5, 0.5, 1.0, 0.75]
    runs = {"popularity": [run(0.3, a)], "ease": [run(0.2, b)], "lirdrec": [run(0.9, a), run(0.7, b)]}
    # The best peer is the best by validation, not by test.
    assert best_peer(runs, LINES) == reference(runs, LINES) == "popularity"
    table = rows("shop", runs, "popularity")
    assert (table[0]["compared with"], table[0]["recall@20 p"]) == (None, None)
    mean = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
    for metric, order in {"recall@20": [0, 1, 2, 3], "ndcg@20": [3, 2, 1, 0]}.items():
        p = paired_bootstrap(torch.tensor([b, mean])[:, order], torch.tensor(a)[order])
        assert [row[f"{metric} p"] for row in table[1:]] == p.tolist()
        assert [row[f"{metric} p by Holm"] for row in table[1:]] == holm(p).tolist()
    assert table[2]["valid recall@20 mean"] == pytest.approx(0.8)
    lines = markdown(table, "popularity").splitlines()
    assert lines[0] == "## shop"
    assert "**0.6875**" in lines[5]
    assert f"| {table[1]['recall@20 p by Holm']:.4f} |" in lines[5]
    assert "**" not in lines[4] + lines[6]
    assert "0.5625 ± 0.1768" in lines[6]
    assert lines[8] == "Best peer by validation: popularity."
    assert lines[9].startswith("lirdrec against popularity: test recall@20 +0.1250 (+28.6%, p = ")


def test_ablations_alone_are_tested_against_the_whole_model() -> None:
    a, b = [0.0, 0.5, 1.0, 0.25], [0.5, 0.5, 1.0, 0.75]
    runs = {"lirdrec": [run(0.3, a)], "lirdrec-image-only": [run(0.9, b)]}
    assert reference(runs, LINES) == "lirdrec"
    whole, part = rows("shop", runs, "lirdrec")
    assert (whole["compared with"], whole["recall@20 p"]) == (None, None)
    assert part["compared with"] == "lirdrec"
    assert part["recall@20 p"] == float(paired_bootstrap(torch.tensor(b), torch.tensor(a)))
    assert "peer" not in markdown([whole, part], "lirdrec")


def test_data_sets_have_distinct_names() -> None:
    assert named(["x/tiktok/", "shop=y/clicks.csv", "z/books.csv"]) == {
        "tiktok": "x/tiktok/",
        "shop": "y/clicks.csv",
        "books": "z/books.csv",
    }
    with pytest.raises(click.UsageError, match="NAME=b/shop"):
        named(["a/shop", "b/shop"])


def test_invalid_options_are_named(tmp_path: Path) -> None:
    for given, message in (
        (["--data", str(tmp_path / "none")], "does not exist"),
        (["--models", ","], "--models is empty"),
    ):
        result = CliRunner().invoke(compare.main, [*given, "--out", str(tmp_path / "out")])
        assert result.exit_code != 0
        assert isinstance(result.exception, SystemExit)
        assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    data = {"shop": synthetic_data(num_users=60, num_items=50)}
    comparison = Comparison(tmp_path, Protocol(1), data, entries("popularity", ()), 1, 1)
    comparison.run()
    (path,) = (tmp_path / "runs").glob("shop-popularity-*")
    path.write_text("{")
    with pytest.raises(click.ClickException, match=path.name):
        comparison.finished("shop")
