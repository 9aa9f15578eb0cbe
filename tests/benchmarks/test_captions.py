"""The comparison of two sets of features, on data where one is better by design."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from captions import changes_of, main, markdown, metrics_of
from click.testing import CliRunner, Result
from scipy.stats import ttest_1samp

OPTIONS = ("--", "--preset", "paper", "--epochs", "1", "--device", "cpu", "--embedding-dim", "8")


@pytest.fixture
def shops(make_shop: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The same interactions twice, with images in one, and captions in the other."""
    first = make_shop(tmp_path / "images")
    second = tmp_path / "captions"
    shutil.copytree(first, second)
    (second / "image_feat.npy").unlink()
    np.save(second / "caption_feat.npy", np.random.default_rng(5).standard_normal((30, 9)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return str(first), str(second)


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_each_metric_is_compared_over_the_seeds(shops: tuple[str, str], tmp_path: Path) -> None:
    result = compare(*shops, "--seeds", "2", "--json", "rows.json", *OPTIONS)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "runs/captions").iterdir()) == [
        *("a-seed1", "a-seed2", "b-seed1", "b-seed2", "settings.json"),
    ]
    content = json.loads((tmp_path / "rows.json").read_text())
    rows = {row["metric"]: row for row in content["rows"]}
    assert {f"{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10, 20, 50)} <= rows.keys()
    metrics = {
        side: [
            json.loads((tmp_path / f"runs/captions/{side}-seed{seed}/metrics.json").read_text())["test"]["ndcg@10"]
            for seed in (1, 2)
        ]
        for side in "ab"
    }
    row = rows["ndcg@10"]
    changes = np.subtract(metrics["b"], metrics["a"])
    assert row["A"] == pytest.approx(np.mean(metrics["a"]))
    assert row["B"] == pytest.approx(np.mean(metrics["b"]))
    assert row["change"] == pytest.approx(changes.mean())
    assert row["sd of change"] == pytest.approx(changes.std(ddof=1))
    assert row["change in %"] == pytest.approx(100 * changes.mean() / np.mean(metrics["a"]))
    assert row["sd in %"] == pytest.approx(100 * changes.std(ddof=1) / np.mean(metrics["a"]))
    assert row["p"] == pytest.approx(ttest_1samp(changes, 0).pvalue)
    assert f"| ndcg@10 | {row['A']:.4f} | {row['B']:.4f} |" in result.stdout
    assert result.stdout.startswith("| test metric |")
    assert all(f"\n| {metric} |" in result.stdout for metric in rows)

    # Finished trainings are not repeated, and unfinished ones are.
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/captions/*/metrics.json")}
    cut_off = tmp_path / "runs/captions/b-seed2/metrics.json"
    cut_off.unlink()
    again = compare(*shops, "--seeds", "2", "--json", "again.json", *OPTIONS)
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "again.json").read_text())["rows"] == content["rows"]
    assert {path for path in times if path.stat().st_mtime_ns != times[path]} == {cut_off}

    other = compare(*shops, "--seeds", "2", "--", "--epochs", "3")
    assert other.exit_code == 2
    assert "another comparison" in other.output


def test_different_interactions_are_refused(shops: tuple[str, str]) -> None:
    table = Path(shops[1]) / "shop.inter"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-3]) + "\n")
    result = compare(*shops, "--seeds", "2", *OPTIONS)
    assert result.exit_code == 1
    assert "different interactions" in result.output


def test_items_without_clicks_can_be_dropped(shops: tuple[str, str]) -> None:
    table, captions = str(Path(shops[0]) / "shop.inter"), Path(shops[1]) / "caption_feat.npy"
    np.save(captions, np.concatenate([np.load(captions), np.ones((1, 9), dtype=np.float32)]))
    features = ("--features-a", f"image={shops[0]}/image_feat.npy", "--features-b", f"caption={captions}")
    result = compare(table, table, *features, "--seeds", "2", *OPTIONS)
    assert result.exit_code == 1
    assert "-- --k-core 1" in result.output
    result = compare(table, table, *features, "--seeds", "2", "--out", "runs/core", *OPTIONS, "--k-core", "1")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("option", ["--seed=3", "--data", "--out", "--overwrite"])
def test_options_of_the_benchmark_are_refused(option: str, shops: tuple[str, str]) -> None:
    result = compare(*shops, "--", option)
    assert result.exit_code == 2
    assert option in result.output


def test_invalid_options_of_fit_are_named(shops: tuple[str, str]) -> None:
    result = compare(*shops, "--", "--no-such-option")
    assert result.exit_code == 2
    assert "--no-such-option" in result.output


def test_metrics_of_held_out_items_are_compared_too() -> None:
    cold = {"warm": {"recall@20": 0.2}, "cold": {"recall@20": 0.3}, "cold among all": {"recall@20": 0.1}}
    run: Any = SimpleNamespace(metrics={"test": {"recall@20": 0.4}, "cold_start": {"test": cold}})
    assert metrics_of(run) == {
        "recall@20": 0.4,
        "cold, recall@20": 0.3,
        "cold among all, recall@20": 0.1,
    }
    run.metrics.pop("cold_start")
    assert metrics_of(run) == {"recall@20": 0.4}


def test_a_change_without_spread_has_no_test() -> None:
    pairs = [({"recall@20": 0.25, "ndcg@20": 0.0}, {"recall@20": 0.5, "ndcg@20": 0.25})] * 3
    recall, ndcg = changes_of(pairs)
    assert (recall["change"], recall["sd of change"], recall["t"], recall["p"]) == (0.25, 0.0, None, None)
    assert recall["change in %"] == 100
    assert ndcg["change in %"] is None
    assert "| ndcg@20 | 0.0000 | 0.2500 | +0.2500 ± 0.0000 | - | - | - |" in markdown([recall, ndcg])


def test_a_clear_change_is_significant() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.001, (5, 2))
    pairs = [({"ndcg@20": 0.04 + x, "map@20": 0.02}, {"ndcg@20": 0.042 + x + y, "map@20": 0.02}) for x, y in noise]
    row = changes_of(pairs)[0]
    assert row["seeds"] == 5
    assert row["change in %"] == pytest.approx(5, abs=3)
    assert math.isfinite(float(row["p"] or math.nan))
    assert "| map@20 | 0.0200 | 0.0200 |" in markdown(changes_of(pairs))
