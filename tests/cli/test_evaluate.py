import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from commands import assert_refused, lirdrec
from runs import change_settings, change_versions, cut, reseal

from lirdrec_pyg import PopularityConfig, fit
from lirdrec_pyg.data import ItemCatalog
from lirdrec_pyg.datasets import synthetic_data


def test_metrics_are_reproduced(shop_run: Path) -> None:
    saved = json.loads((shop_run / "metrics.json").read_text())
    result = lirdrec("evaluate", shop_run, "--split", "both", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {name: saved[name] for name in ("valid", "test", "beyond_accuracy")}
    assert json.loads(lirdrec("evaluate", shop_run, "--json").output).keys() == {"test", "beyond_accuracy"}
    shown = lirdrec("evaluate", shop_run).output
    assert "same as in metrics.json, to the last digit" in shown
    assert "held-out" not in shown
    lists = saved["beyond_accuracy"]["test"]
    assert f"novelty {lists['novelty@10']:.4f} {lists['novelty@20']:.4f}" in " ".join(shown.split())


def test_diversity_is_measured_by_a_column_of_the_catalog(shop_run: Path, tmp_path: Path) -> None:
    data = synthetic_data(num_users=40, num_items=60)
    ids = data.items.ids
    columns = {"same": ["a"] * 60, "own": [*range(60)], "none": [None, *["a"] * 59], "unknown": [None] * 60}
    catalog = ItemCatalog.of(pl.DataFrame({"item_id": ids, **columns}).reverse())
    fit(replace(data, catalog=catalog), PopularityConfig(), out=tmp_path / "run")
    found = {}
    for column in columns:
        result = lirdrec("evaluate", tmp_path / "run", "--json", "--category", column)
        assert result.exit_code == 0, result.output
        found[column] = json.loads(result.output)["beyond_accuracy"]["test"]["diversity@10"]
    assert (found["same"], found["own"], found["unknown"]) == (0, 1, 1)
    # In a list of ten, the item without a category differs in 2 * 9 of 90 pairs, or it is not in the list.
    assert 0 <= found["none"] <= 0.2
    assert_refused(lirdrec("evaluate", tmp_path / "run", "--category", "x"), "--category has 'x'", "'same', 'own'")
    assert_refused(lirdrec("evaluate", shop_run, "--category", "same"), "--category needs an item catalog")


def test_metrics_of_held_out_items_are_reproduced(cold_run: Path) -> None:
    saved = json.loads((cold_run / "metrics.json").read_text())
    result = lirdrec("evaluate", cold_run, "--split", "both", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {
        name: saved[name] for name in ("valid", "test", "beyond_accuracy", "cold_start")
    }
    shown = lirdrec("evaluate", cold_run).output
    assert "test, held-out items:" in shown
    assert "cold among all" in shown
    assert "to the last digit" in shown
    assert "valid" not in shown


def test_damaged_run_is_one_error(own: Path) -> None:
    for damage, culprit in (
        (lambda: cut(own / "model.safetensors"), "model.safetensors"),
        (lambda: change_settings(own, lr=0.0002), "config.yaml was changed"),
        (lambda: (change_settings(own, embedding_dim="8"), reseal(own)), "embedding_dim"),
        (lambda: change_versions(own, format=99), "format 99"),
    ):
        before = {path: path.read_bytes() for path in own.iterdir()}
        damage()
        assert_refused(lirdrec("evaluate", own), culprit)
        for path, content in before.items():
            path.write_bytes(content)


def test_run_interrupted_before_its_end_is_evaluated(own: Path) -> None:
    metrics = json.loads((own / "metrics.json").read_text())
    for content in ("{}", '{"test": {"recall@20": 1.0}}'):
        (own / "metrics.json").write_text(content)
        assert "interrupted" in lirdrec("evaluate", own).output
    metrics["test"]["recall@20"] += 0.25
    (own / "metrics.json").write_text(json.dumps(metrics))
    assert "differs from metrics.json by up to 2.50e-01" in lirdrec("evaluate", own).output
    (own / "metrics.json").unlink()
    assert "interrupted" in lirdrec("evaluate", own).output
    (own / "SHA256SUMS").unlink()
    result = lirdrec("evaluate", own)
    assert result.exit_code == 0, result.output
    assert "Warning: The training of" in result.output


def test_buckets_are_shown_on_request(shop_run: Path) -> None:
    found = json.loads(lirdrec("evaluate", shop_run, "--json", "--buckets", "--split", "both").output)
    assert found.keys() == {"valid", "test", "beyond_accuracy", "buckets"}
    for split, parts in found["buckets"].items():
        users = [part for part in parts if part["kind"] == "user activity"]
        assert sum(part["num_pairs"] for part in users) == 40
        mean = sum(part["num_users"] * part["metrics"]["recall@20"] for part in users) / 40
        assert mean == pytest.approx(found[split]["recall@20"], rel=1e-5)
    shown = lirdrec("evaluate", shop_run, "--buckets").output
    assert "test, by training interactions:" in shown
    assert "valid" not in shown
    for part in found["buckets"]["test"]:
        row = f"{part['kind']} {part['interactions']} {part['num_users']} {part['num_pairs']}"
        assert row in " ".join(shown.split())
