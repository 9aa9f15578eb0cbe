import csv
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest
import yaml
from click.testing import Result
from commands import assert_refused, help_of, lirdrec
from runs import contents
from safetensors.torch import load_file

from lirdrec_pyg.cli import main
from lirdrec_pyg.recommender import train
from lirdrec_pyg.training import PRESETS
from lirdrec_pyg.training import config as training_config

SMALL = ("--embedding-dim", 8, "--epochs", 3, "--lr", 0.01, "--batch-size", 64)


def fit(data: object, out: Path, *more: object) -> Result:
    return lirdrec("fit", "--data", data, "--out", out, *SMALL, *more)


def settings_of(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_large_graphs_get_larger_batches(shared_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (training_config, train):
        monkeypatch.setattr(module, "DEFAULT_BATCH", 10)
        monkeypatch.setattr(module, "MAX_STEPS", 4)
    for options, text in (
        ((), "steps per epoch, since each passes over all"),
        (("--batch-size", 3), "A larger --batch-size or --sampling neighbors makes it shorter."),
    ):
        result = lirdrec(
            "fit", "--data", shared_shop, "--out", tmp_path / "run", "--epochs", 1, "--overwrite", *options
        )
        assert result.exit_code == 0, result.output
        assert text in result.output


def test_run_holds_all_that_is_promised(shop_run: Path) -> None:
    assert contents(shop_run).keys() == {
        *("SHA256SUMS", "config.yaml", "graph.safetensors", "history.csv", "items.parquet", "checkpoint.safetensors"),
        *("metrics.json", "model.safetensors", "regression.safetensors", "users.parquet", "vectors.safetensors"),
        "versions.json",
    }
    metrics = json.loads((shop_run / "metrics.json").read_text())
    assert 1 <= metrics["best_epoch"] <= metrics["epochs"] == 3
    assert set(metrics["seconds_per_epoch"]) == {"training", "evaluation"}
    assert metrics["peak_memory_mib"] > 50
    names = {"recall", "ndcg", "precision", "map", "mrr", "hit_rate", "coverage"}
    for split in ("valid", "test"):
        assert set(metrics[split]) == {f"{name}@{k}" for name in names for k in (5, 10, 20, 50)}

    history = list(csv.DictReader((shop_run / "history.csv").open()))
    assert [int(row["epoch"]) for row in history] == [1, 2, 3]
    best = max(history, key=lambda row: float(row["valid_recall@20"]))
    assert int(best["epoch"]) == metrics["best_epoch"]
    assert float(best["valid_recall@20"]) == metrics["valid"]["recall@20"]

    assert pl.read_parquet(shop_run / "users.parquet")["id"].to_list() == list(range(40))
    assert json.loads((shop_run / "versions.json").read_text())["torch"].startswith("2.")
    assert load_file(shop_run / "model.safetensors")["user"].shape == (40, 3, 8)


def test_config_of_a_run_repeats_it_and_another_seed_does_not(
    shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = contents(shop_run)
    for out, options, same in (("again", (), True), ("other", ("--seed", 2), False)):
        result = lirdrec("fit", "--config", shop_run / "config.yaml", "--out", out, *options)
        assert result.exit_code == 0, result.output
        found = contents(tmp_path / out)
        assert (found["model.safetensors"] == expected["model.safetensors"]) is same
        assert (found["config.yaml"] == expected["config.yaml"]) is same


def test_options_win_over_the_config_file_and_that_over_a_preset(shared_shop: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("patience: 7\nepochs: 9\nnum-layers: 3\ngraph_weights: {image: 0.3}\n")
    by_preset = tmp_path / "p.yaml"
    by_preset.write_text("preset: fast\n")
    expected = {"patience": 7, "epochs": 1, "lr": 0.5, "num_layers": 3, "graph_weights": {"image": 0.3}}
    # The order of the options does not matter.
    for number, files in enumerate(
        (["--preset", "fast", "--config", config], ["--config", config, "--preset", "fast"])
    ):
        out = tmp_path / f"run{number}"
        options = ("--epochs", 1, "--lr", 0.5, "--embedding-dim", 8)
        assert lirdrec("fit", "--data", shared_shop, "--out", out, *files, *options).exit_code == 0
        saved = settings_of(out)
        assert {name: saved[name] for name in expected} == expected
        assert saved["batch_size"] == PRESETS["fast"]["batch_size"]
    out = tmp_path / "preset"
    given = ("--config", by_preset, "--epochs", 1, "--embedding-dim", 8)
    assert lirdrec("fit", "--data", shared_shop, "--out", out, *given).exit_code == 0
    assert {name: settings_of(out)[name] for name in PRESETS["fast"]} == PRESETS["fast"]


def test_default_preset_is_best_where_it_can_be(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("epochs: 9\n")
    fit = main.get_command(click.Context(main), "fit")
    assert fit is not None
    for options, loss in (
        ([], "softmax"),
        (["--epochs", "3"], "softmax"),
        (["--config", str(config)], "bpr"),
        (["--sampling", "neighbors"], "bpr"),
        (["--config", str(config), "--preset", "best"], "softmax"),
        (["--preset", "best", "--loss", "bpr"], "bpr"),
    ):
        assert fit.make_context("fit", options).params["loss"] == loss, options
    assert help_of("fit") == help_of("fit", "--preset", "best")


def test_preset_best_races_and_says_what_it_chose(
    learnable_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "'best' recommends best, by a softmax" in help_of("fit")
    shown = help_of("fit", "--preset", "best")
    for name, value in PRESETS["best"].items():
        assert f"[default: {name if value is True else value}" in shown

    given = ("--data", learnable_shop, "--preset", "best", "--epochs", 2, "--embedding-dim", 8, "--minutes", 9)
    result = lirdrec("fit", *given, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    race = [line for line in result.output.splitlines() if line.startswith("race")]
    assert race[0] == "race, in at most a third of 9 minutes: as given, with --no-item-graph"
    (given_value, other) = re.findall(r"0\.\d{4}", race[1])
    assert race[1] == f"race: validation recall@20 after 2 epochs: as given {given_value}, with --no-item-graph {other}"
    saved = settings_of(tmp_path / "run")
    chosen = "as given" if saved["item_graph"] else "with --no-item-graph"
    assert race[2].startswith(f"race: the model is trained further {chosen}, for at most ")
    assert (saved["race"], saved["loss"], saved["ema"]) == (False, "softmax", 0.97)
    assert 8 < saved["minutes"] <= 9
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["race"][0]["epochs"] == 2

    result = lirdrec("fit", *given, "--no-item-graph", "--out", tmp_path / "explicit")
    assert result.exit_code == 0, result.output
    assert not [line for line in result.output.splitlines() if line.startswith("race")]
    assert settings_of(tmp_path / "explicit")["item_graph"] is False
    config = tmp_path / "given.yaml"
    for text, options, races in (("item_graph: false", (), False), ("race: true", ("--item-graph",), True)):
        config.write_text(text)
        result = lirdrec("fit", *given, "--config", config, *options, "--out", tmp_path / f"raced-{races}")
        assert result.exit_code == 0, result.output
        assert ("race, in at most" in result.output) is races

    for options, *named in (
        (("--split", "none"), "--race compares by validation", "Pass another --split, or --no-race."),
        (("--model", "vbpr", "--race"), "--race tries variants", "--model vbpr has none. Pass --no-race."),
        (("--minutes", 0), "--minutes"),
    ):
        preset = () if "vbpr" in options else ("--preset", "best")
        refused = lirdrec("fit", "--data", learnable_shop, *preset, *options, "--out", tmp_path / "x")
        assert_refused(refused, *named)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lirdrec_pyg.recommender.race.Trainer.fit", interrupted)
    assert lirdrec("fit", *given, "--out", tmp_path / "x").exit_code == 130
    assert not (tmp_path / "x").exists()


def test_held_out_items_have_metrics_of_their_own(cold_run: Path, tmp_path: Path) -> None:
    output = (cold_run.parent / "output").read_text()
    lines = output.split("Test metrics, held-out items:\n")[1].splitlines()
    assert lines[0].split() == ["recall@20", "ndcg@20", "recall@50", "ndcg@50"]
    saved = json.loads((cold_run / "metrics.json").read_text())["cold_start"]["test"]
    for line, (name, metrics) in zip(lines[1 : 1 + len(saved)], saved.items(), strict=True):
        assert line.startswith(name)
        assert line.split()[-4:] == [f"{metrics[m]:.4f}" for m in ("recall@20", "ndcg@20", "recall@50", "ndcg@50")]
    shares = saved["cold among all"]
    assert lines[1 + len(saved)] == (
        f"New items are {shares['offered@20']:.1%} of the 20 best items of each user, and {shares['interacted']:.1%} "
        "of all interactions."
    )
    assert {"new_items.safetensors", "new_items.parquet", "new_vectors.safetensors"} <= contents(cold_run).keys()
    assert len(pl.read_parquet(cold_run / "items.parquet")) == 21
    assert settings_of(cold_run)["cold_fraction"] == 0.3
    assert lirdrec("fit", "--config", cold_run / "config.yaml", "--out", tmp_path / "again").exit_code == 0
    for name in ("new_items.parquet", "new_vectors.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (cold_run / name).read_bytes()


def test_variants_train_and_evaluate(shared_shop: Path, tmp_path: Path) -> None:
    variants: list[tuple[object, ...]] = [("--dct", "2d", "--precision", "bf16-mixed")]
    try:
        import torch_sparse  # noqa: F401

        variants.append(("--sparse-backend", "torch-sparse", "--edge-dropout", 0.2))
    except ImportError:
        pass
    for number, options in enumerate(variants):
        out = tmp_path / f"run{number}"
        result = fit(shared_shop, out, *options)
        assert result.exit_code == 0, result.output
        saved = json.loads((out / "metrics.json").read_text())
        assert json.loads(lirdrec("evaluate", out, "--json").output)["test"] == saved["test"]


def test_tables_with_text_ids_and_times(tmp_path: Path) -> None:
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


def test_overwrite(own: Path, shared_shop: Path) -> None:
    before = contents(own)
    assert_refused(fit(shared_shop, own, "--epochs", 1), "--overwrite")
    assert contents(own) == before
    # What a killed run left is overwritten as well.
    (own / ".unfinished").mkdir()
    (own / ".unfinished" / ".tmpX").write_bytes(b"half")
    (own / "metrics.json").unlink()
    assert fit(shared_shop, own, "--overwrite", "--epochs", 1).exit_code == 0
    assert not (own / ".unfinished").exists()
    assert json.loads((own / "metrics.json").read_text())["epochs"] == 1


def test_overwrite_leaves_other_folders_alone(shared_shop: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_text("precious")
    for name in ("holiday.jpg", "config.yaml", "versions.json"):
        (photos / name).write_text("precious")
        assert_refused(fit(shared_shop, photos, "--overwrite"), "holiday.jpg")
        assert set(contents(photos).values()) == {b"precious"}


def test_out_may_be_a_link(shared_shop: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert fit(shared_shop, tmp_path / "link", "--epochs", 1).exit_code == 0
    assert fit(shared_shop, tmp_path / "link", "--epochs", 1, "--overwrite").exit_code == 0
    assert (tmp_path / "disk" / "metrics.json").is_file()
    assert not (tmp_path / "disk" / ".earlier").exists()


def test_interrupt_before_the_training_writes_nothing(
    own: Path, shared_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    before = contents(own)
    monkeypatch.setattr("lirdrec_pyg.transforms.item_graph.knn_edges", interrupted)
    # A shell that starts the tests in the background makes them ignore the signal.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for out, options in ((tmp_path / "new", []), (own, ["--overwrite"])):
            result = fit(shared_shop, out, *options)
            assert result.exit_code == 130, result.output
            assert "Traceback" not in result.output
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert not (tmp_path / "new").exists()
    assert contents(own) == before


def test_failed_overwrite_restores_the_earlier_run(
    own: Path, shared_shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    before = contents(own)
    monkeypatch.setattr("lirdrec_pyg.recommender.run.save_graph", full_disk)
    assert_refused(fit(shared_shop, own, "--overwrite"), "No space left")
    assert contents(own) == before
    assert [p.name for p in own.parent.iterdir() if p.name.startswith(".")] == []


def test_modality_names_may_hold_nearly_anything(shop: Path, tmp_path: Path) -> None:
    (shop / "image_feat.npy").rename(shop / "a=b c.日本_feat.npy")
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"graph_weights": {"a=b c.日本": 0.25}}, allow_unicode=True))
    for number, options in enumerate((["--graph-weights", "a=b c.日本=0.25"], ["--config", config])):
        result = fit(shop, tmp_path / f"run{number}", *options, "--epochs", 1)
        assert result.exit_code == 0, result.output
    a, b = ((tmp_path / f"run{number}" / "model.safetensors").read_bytes() for number in (0, 1))
    assert a == b


def test_a_weight_of_zero_may_come_from_a_file(shop: Path, tmp_path: Path) -> None:
    linear = ("--linear-dim", 4, "--linear-content", "image=0", "--linear-content", "text=1", "--linear-l2", 100)
    first = fit(shop, tmp_path / "run", *linear, "--epochs", 1)
    assert first.exit_code == 0, first.output
    again = lirdrec("fit", "--config", tmp_path / "run" / "config.yaml", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "config.yaml").read_text() == (tmp_path / "run" / "config.yaml").read_text()


def test_warning_is_one_line(shop: Path, tmp_path: Path) -> None:
    rows = [line.split("\t") for line in (shop / "shop.inter").read_text().splitlines()[1:]]
    clicks = pl.DataFrame(rows, schema=["user_id", "item_id", "split"], orient="row")
    (shop / "shop.inter").unlink()
    clicks.with_columns(split=pl.lit("north")).write_csv(shop / "clicks.csv")
    result = fit(shop, tmp_path / "run", "--epochs", 1)
    assert result.exit_code == 0, result.output
    (warning,) = [line for line in result.output.splitlines() if "'north'" in line]
    assert warning.startswith("Warning: ")
    assert "split: random\nseed: 999\n" in result.output


def test_training_without_held_out_interactions(shared_shop: Path, tmp_path: Path) -> None:
    result = fit(shared_shop, tmp_path / "run", "--split", "none")
    assert result.exit_code == 0, result.output
    assert "exactly 3 epochs" in result.output
    assert "Last epoch 3 of 3." in result.output
    assert "The model was trained on all 320 interactions." in result.output
    assert_refused(lirdrec("evaluate", tmp_path / "run"), "trained on all interactions, so none are left")
    assert "recall@20" not in (tmp_path / "run" / "history.csv").read_text()
    resumed = lirdrec("fit", "--resume", tmp_path / "run", "--epochs", 4)
    assert resumed.exit_code == 0, resumed.output
    assert "Last epoch 4 of 4." in resumed.output
    assert lirdrec("recommend", tmp_path / "run", "--users", "1").exit_code == 0


def test_refit_says_what_was_trained_on_what(shared_shop: Path, shop_run: Path, tmp_path: Path) -> None:
    run, saved = tmp_path / "run", json.loads((shop_run / "metrics.json").read_text())
    result = fit(shared_shop, run, "--refit")
    assert result.exit_code == 0, result.output
    assert (
        f"from scratch on all 320 interactions, for the {saved['best_epoch']} epochs that validation" in result.output
    )
    assert "in 5 steps each instead of 4" in result.output
    assert "trained on 240 interactions. The model in the run was then trained on all 320 from scratch" in result.output
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: metrics[name] for name in ("valid", "test")} == {name: saved[name] for name in ("valid", "test")}
    assert metrics["refit"]["epochs"] == saved["best_epoch"]
    assert_refused(
        lirdrec("evaluate", run), "trained on all interactions", "metrics.json are those of the training before"
    )
    assert_refused(lirdrec("fit", "--resume", run, "--epochs", 9), "--epochs cannot be changed")
    assert lirdrec("recommend", run, "--users", "1").exit_code == 0
    assert settings_of(run)["refit"] is True
    for options, *named in (
        (("--split", "none"), "--refit finds the number of epochs by validation"),
        (("--split", "cold-items"), "--refit cannot be combined with --split cold-items"),
    ):
        assert_refused(fit(shared_shop, tmp_path / "other", "--refit", *options), *named)
    assert_refused(lirdrec("fit", "--data", shared_shop, "--out", tmp_path / "x", "--split", "none"), "--epochs 1000")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_place(shared_shop: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_refused(fit(shared_shop, tmp_path / "run"), "read-only")


def test_help_shows_options_and_defaults() -> None:
    text = help_of("fit")
    for option in ("--num-layers", "--graph-weights", "--patience", "--precision", "--config", "--zero-features"):
        assert option in text
    assert "[default: 0.0001" in text


def test_data_are_not_needed_afterwards(shop: Path, tmp_path: Path) -> None:
    assert fit(shop, tmp_path / "run", "--epochs", 1).exit_code == 0
    shutil.rmtree(shop)
    assert "to the last digit" in lirdrec("evaluate", tmp_path / "run").output
    assert lirdrec("fit", "--resume", tmp_path / "run", "--epochs", 2).exit_code == 0
