import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from lirdrec_pyg.cli import main
from lirdrec_pyg.config import PRESETS, TrainingConfig

SMALL = ["--embedding-dim", "8", "--epochs", "3", "--lr", "0.01", "--batch-size", "64", "--device", "cpu"]


def lirdrec(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def fit(data: object, out: Path, *more: object) -> Result:
    return lirdrec("fit", "--data", data, "--out", out, *SMALL, *more)


@pytest.fixture
def run(shop: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    result = fit(shop, out)
    assert result.exit_code == 0, result.output
    return out


def test_run_holds_all_that_is_promised(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        "SHA256SUMS",
        "config.yaml",
        "graph.safetensors",
        "history.csv",
        "items.parquet",
        "checkpoint.safetensors",
        "metrics.json",
        "model.safetensors",
        "neighbourhood.safetensors",
        "users.parquet",
        "vectors.safetensors",
        "versions.json",
    }
    metrics = json.loads((run / "metrics.json").read_text())
    assert 1 <= metrics["best_epoch"] <= metrics["epochs"] == 3
    assert set(metrics["seconds_per_epoch"]) == {"training", "evaluation"}
    assert metrics["peak_memory_mib"] > 50
    names = {"recall", "ndcg", "precision", "map", "mrr", "hit_rate", "coverage"}
    for split in ("valid", "test"):
        assert set(metrics[split]) == {f"{name}@{k}" for name in names for k in (5, 10, 20, 50)}

    history = list(csv.DictReader((run / "history.csv").open()))
    assert [int(row["epoch"]) for row in history] == [1, 2, 3]
    best = max(history, key=lambda row: float(row["valid_recall@20"]))
    assert int(best["epoch"]) == metrics["best_epoch"]
    assert float(best["valid_recall@20"]) == metrics["valid"]["recall@20"]

    assert pl.read_parquet(run / "users.parquet")["id"].to_list() == list(range(40))
    assert json.loads((run / "versions.json").read_text())["torch"].startswith("2.")
    assert load_file(run / "model.safetensors")["user"].shape == (40, 3, 8)


def test_same_seed_same_run_and_other_seed_another(shop: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert fit(shop, tmp_path / name, "--seed", seed).exit_code == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_config_of_a_run_repeats_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = lirdrec("fit", "--config", run / "config.yaml", "--out", "again")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "config.yaml").read_text() == (run / "config.yaml").read_text()


def test_option_wins_over_config(shop: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"epochs": 9, "num-layers": 3, "graph_weights": {"image": 0.3}}))
    assert fit(shop, tmp_path / "run", "--config", config, "--epochs", 1).exit_code == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (saved["epochs"], saved["num_layers"], saved["graph_weights"]) == (1, 3, {"image": 0.3})


def test_evaluate_reproduces_the_figures_without_the_data(run: Path, shop: Path) -> None:
    for file in shop.iterdir():
        file.unlink()
    saved = json.loads((run / "metrics.json").read_text())
    result = lirdrec("evaluate", run, "--split", "both", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {"valid": saved["valid"], "test": saved["test"]}
    assert "to the last digit" in lirdrec("evaluate", run, "--device", "cpu").output


def test_held_out_items_are_told_apart(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = fit(shop, out, "--split", "cold-items", "--cold-fraction", 0.3)
    assert result.exit_code == 0, result.output
    assert "items held out: 9" in result.output
    lines = result.output.split("Test, items held out:\n")[1].splitlines()
    assert lines[0].split() == ["recall@20", "ndcg@20", "recall@50", "ndcg@50"]
    saved = json.loads((out / "metrics.json").read_text())["cold_start"]["test"]
    for line, (name, metrics) in zip(lines[1:7], saved.items(), strict=True):
        assert line.startswith(name)
        assert line.split()[-4:] == [f"{metrics[m]:.4f}" for m in ("recall@20", "ndcg@20", "recall@50", "ndcg@50")]
    assert {"new_items.safetensors", "new_items.parquet", "new_vectors.safetensors"} <= {p.name for p in out.iterdir()}
    assert len(pl.read_parquet(out / "items.parquet")) == 21
    assert yaml.safe_load((out / "config.yaml").read_text())["cold_fraction"] == 0.3
    assert lirdrec("fit", "--config", out / "config.yaml", "--out", tmp_path / "again").exit_code == 0
    for name in ("new_items.parquet", "new_vectors.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--cold-fraction", 0.01], "--cold-fraction 0.01 of 30 items is 0"),
        (["--cold-fraction", 0], "--cold-fraction"),
        (["--cold-fraction", 0.95], "--cold-fraction"),
        (["--dct", "2d"], "--dct feature"),
    ],
)
def test_items_that_cannot_be_held_out_are_an_error(
    options: list[object], culprit: str, shop: Path, tmp_path: Path
) -> None:
    result = fit(shop, tmp_path / "run", "--split", "cold-items", *options)
    assert result.exit_code == 2, result.output
    assert culprit in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backend", ["torch", "torch-sparse"])
@pytest.mark.parametrize("options", [[], ["--edge-dropout", 0.2], ["--precision", "bf16-mixed"], ["--dct", "2d"]])
def test_variants_train_and_evaluate(shop: Path, tmp_path: Path, backend: str, options: list[object]) -> None:
    if backend == "torch-sparse":
        pytest.importorskip("torch_sparse")
    out = tmp_path / "run"
    result = fit(shop, out, "--sparse-backend", backend, *options)
    assert result.exit_code == 0, result.output
    saved = json.loads((out / "metrics.json").read_text())
    assert json.loads(lirdrec("evaluate", out, "--json", "--device", "cpu").output)["test"] == saved["test"]


def test_own_tables_with_text_ids_and_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pairs = [(f"u{u}", f"sku-{i}") for u in range(20) for i in rng.choice(15, 6, replace=False)]
    clicks = pl.DataFrame(pairs, schema=["who", "what"], orient="row").with_columns(when=pl.int_range(pl.len()))
    clicks.write_csv(tmp_path / "clicks.csv")
    names = [f"sku-{i}" for i in range(15)]
    vectors = rng.standard_normal((15, 5)).astype(np.float32)
    pl.DataFrame({"sku": names[:-2], "vector": list(vectors[:-2])}).write_parquet(tmp_path / "look.parquet")
    np.save(tmp_path / "sound.npy", vectors.astype(np.float16))
    (tmp_path / "ids.txt").write_text("\n".join(names))
    result = fit(
        tmp_path / "clicks.csv",
        tmp_path / "run",
        *("--user-column", "who", "--item-column", "what", "--time-column", "when", "--split", "leave-last-out"),
        *("--features", f"look={tmp_path / 'look.parquet'}", "--features", f"sound={tmp_path / 'sound.npy'}"),
        *("--item-ids", tmp_path / "ids.txt"),
    )
    assert result.exit_code == 0, result.output
    assert "items without look: 2" in result.output
    assert set(pl.read_parquet(tmp_path / "run" / "items.parquet")["id"]) == set(names)


def test_overwrite(run: Path, shop: Path, tmp_path: Path) -> None:
    before = (run / "metrics.json").read_text()
    refused = fit(shop, run, "--epochs", 1)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.output
    assert (run / "metrics.json").read_text() == before
    assert fit(shop, run, "--overwrite", "--epochs", 1).exit_code == 0
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 1


def test_a_preset_gives_way_to_a_config_file_and_that_to_an_option(shop: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("patience: 7\nepochs: 9\n")
    # Whichever is named first.
    for number, files in enumerate(
        (["--preset", "fast", "--config", config], ["--config", config, "--preset", "fast"])
    ):
        out = tmp_path / f"run{number}"
        options = ["--epochs", 1, "--lr", 0.5, "--embedding-dim", 8]
        assert lirdrec("fit", "--data", shop, "--out", out, *files, *options).exit_code == 0
        saved = yaml.safe_load((out / "config.yaml").read_text())
        expected = {"batch_size": PRESETS["fast"]["batch_size"], "patience": 7, "epochs": 1, "lr": 0.5}
        assert {name: saved[name] for name in expected} == expected


def test_a_config_file_may_name_the_preset(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("preset: fast\nepochs: 1\n")
    out = tmp_path / "run"
    assert lirdrec("fit", "--data", shop, "--out", out, "--config", tmp_path / "c.yaml").exit_code == 0
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert {name: saved[name] for name in PRESETS["fast"]} == PRESETS["fast"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings_of_the_training(name: str) -> None:
    TrainingConfig(**PRESETS[name])  # type: ignore[index]


@pytest.mark.parametrize("beside", [[], ["config.yaml"], ["config.yaml", "versions.json"]])
def test_overwrite_leaves_folders_alone_that_are_no_runs(shop: Path, tmp_path: Path, beside: list[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ["holiday.jpg", *beside]:
        (photos / name).write_text("precious")
    result = fit(shop, photos, "--overwrite")
    assert result.exit_code == 2
    assert "holiday.jpg" in result.output
    assert {p.name: p.read_text() for p in photos.iterdir()} == dict.fromkeys(["holiday.jpg", *beside], "precious")


def test_what_a_killed_run_left_is_overwritten(run: Path, shop: Path) -> None:
    (run / ".unfinished").mkdir()
    (run / ".unfinished" / ".tmpX").write_bytes(b"half")
    (run / "metrics.json").unlink()
    assert fit(shop, run, "--overwrite").exit_code == 0
    assert not (run / ".unfinished").exists()
    assert (run / "metrics.json").is_file()


def test_out_may_be_a_link(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert fit(shop, tmp_path / "link", "--epochs", 1).exit_code == 0
    assert fit(shop, tmp_path / "link", "--epochs", 1, "--overwrite").exit_code == 0
    assert (tmp_path / "disk" / "metrics.json").is_file()
    assert not (tmp_path / "disk" / ".earlier").exists()


def test_interrupt_before_the_training_writes_nothing(
    run: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    before = {file.name: file.read_bytes() for file in run.iterdir()}
    monkeypatch.setattr("lirdrec_pyg.transforms.item_knn.knn_edges", interrupted)
    # A shell that starts the tests in the background has them ignore the signal.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for out, options in ((tmp_path / "new", []), (run, ["--overwrite"])):
            result = fit(shop, out, *options)
            assert result.exit_code == 130, result.output
            assert "Traceback" not in result.output
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert not (tmp_path / "new").exists()
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_modality_names_may_hold_nearly_anything(shop: Path, tmp_path: Path) -> None:
    (shop / "image_feat.npy").rename(shop / "a=b c.日本_feat.npy")
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"graph_weights": {"a=b c.日本": 0.25}}, allow_unicode=True))
    for number, options in enumerate((["--graph-weights", "a=b c.日本=0.25"], ["--config", config])):
        result = fit(shop, tmp_path / f"run{number}", *options)
        assert result.exit_code == 0, result.output
    a, b = ((tmp_path / f"run{number}" / "model.safetensors").read_bytes() for number in (0, 1))
    assert a == b


def test_what_no_data_can_mend_is_refused_before_reading_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for options, culprit in (
        (["--out", tmp_path / "file" / "run"], "is a file"),
        (["--device", "cuda"], "--device cuda"),
    ):
        if "cuda" in options and torch.cuda.is_available():
            continue
        result = lirdrec("fit", "--data", "nowhere", "--out", tmp_path / "run", *options)
        assert result.exit_code == 2
        assert culprit in result.output


@pytest.mark.parametrize("options", [["--k-core", 5], ["--features", "x=y.npy"], ["--split", "labels"]])
def test_generated_data_take_no_data_options(tmp_path: Path, options: list[object]) -> None:
    result = fit("synthetic", tmp_path / "run", *options)
    assert result.exit_code == 2
    assert str(options[0]) in result.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_keeps_what_was_learned(shop: Path, tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "lirdrec_pyg", "fit", "--data", shop, "--out", out]
    command += ["--embedding-dim", "8", "--patience", "100000", "--epochs", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + 120
        while not (out / "history.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert "Traceback" not in output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["stopped"] == "interrupted"
    assert lirdrec("evaluate", out, "--device", "cpu").exit_code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_place(shop: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = fit(shop, tmp_path / "run")
    assert result.exit_code == 2
    assert "read-only" in result.output


def test_help_names_every_option_and_its_default() -> None:
    text = re.sub(r"\s+", " ", lirdrec("fit", "--help").output)
    for option in ("--num-layers", "--graph-weights", "--patience", "--precision", "--config", "--zero-features"):
        assert option in text
    assert "[default: 0.0001" in text


def test_a_failed_overwrite_gives_the_earlier_run_back(run: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}

    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lirdrec_pyg.training.run.save_graph", full_disk)
    result = fit(shop, run, "--overwrite")
    assert result.exit_code == 2
    assert "No space left" in result.output
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    assert [p.name for p in run.parent.iterdir() if p.name.startswith(".")] == []


def test_a_warning_is_one_line(tmp_path: Path, shop: Path) -> None:
    rows = [line.split("\t") for line in (shop / "shop.inter").read_text().splitlines()[1:]]
    clicks = pl.DataFrame(rows, schema=["user_id", "item_id", "split"], orient="row")
    (shop / "shop.inter").unlink()
    clicks.with_columns(split=pl.lit("north")).write_csv(shop / "clicks.csv")
    result = fit(shop, tmp_path / "run", "--epochs", 1)
    assert result.exit_code == 0, result.output
    (warning,) = [line for line in result.output.splitlines() if "'north'" in line]
    assert warning.startswith("Warning: ")
    assert "split: random, seed 999" in result.output
