"""fit --model, and what the other commands make of its runs."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from commands import assert_refused, lirdrec

from lirdrec_pyg.config import MODEL_CONFIGS, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.models import MODELS
from lirdrec_pyg.nn import SeenItems
from lirdrec_pyg.training import Run, RunEvaluator

WITHOUT_VECTORS = ("content-knn", "item-knn", "ease")
TRAINED = [name for name, config in MODEL_CONFIGS.items() if not config.closed_form]


def options(name: str) -> list[Any]:
    """Small settings of the model ``name``."""
    of_model = {field.name for field in dataclasses.fields(MODEL_CONFIGS[name])}
    small = ["--embedding-dim", 8] if "embedding_dim" in of_model else []
    return small if MODEL_CONFIGS[name].closed_form else [*small, "--epochs", 1, "--batch-size", 64]


def fit(name: str, shop: Path, out: Path, *more: Any) -> Any:
    return lirdrec("fit", "--model", name, "--data", shop, "--out", out, *options(name), *more)


def test_every_model_has_a_class_and_a_config() -> None:
    assert MODELS.keys() == MODEL_CONFIGS.keys()
    for config in MODEL_CONFIGS.values():
        TrainingConfig(**config.training)


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_a_model_is_fitted_evaluated_and_used(name: str, shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = fit(name, shop, out)
    assert result.exit_code == 0, result.output
    assert yaml.safe_load((out / "config.yaml").read_text())["model"] == name
    assert type(Run.open(out).model_config()) is MODEL_CONFIGS[name]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["epochs"] == (0 if MODEL_CONFIGS[name].closed_form else 1)

    found = lirdrec("evaluate", out, "--split", "both", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.output) == {"valid": metrics["valid"], "test": metrics["test"]}
    assert lirdrec("evaluate", out, "--buckets").exit_code == 0

    recommended = lirdrec("recommend", out, "--users", "0,1", "-k", 3, "--out", tmp_path / "r.parquet")
    assert recommended.exit_code == 0, recommended.output
    table = pl.read_parquet(tmp_path / "r.parquet")
    assert table["user"].to_list() == [0, 0, 0, 1, 1, 1]
    ranker = RunEvaluator(out, "cpu").ranker
    seen = SeenItems.of(Run.open(out).graph()[INTERACTS].edge_index, 40)
    (best,) = ranker.top_k(torch.tensor([0, 1]), 3, seen)
    assert table["score"].to_list() == pytest.approx(best.score.flatten().tolist())
    assert lirdrec("similar", out, "--item", 1, "--by", "text").exit_code == 0
    assert (out / "vectors.safetensors").exists() == (name not in WITHOUT_VECTORS)
    for answer in (lirdrec("similar", out, "--item", 1), lirdrec("export", out, "--out", tmp_path / "vectors")):
        if name in WITHOUT_VECTORS:
            assert_refused(answer, str(out), f"--model {name}", "only evaluate and recommend")
        else:
            assert answer.exit_code == 0, answer.output
    refused = [
        lirdrec("explain", out, "--user", 0, "--item", 1),
        lirdrec("recommend", out, "--history", "3,4"),
    ]
    for answer in refused:
        if name == "lirdrec":
            assert answer.exit_code == 0, answer.output
        else:
            assert_refused(answer, str(out), f"--model {name}")


@pytest.mark.parametrize("name", ["ease", "vbpr"])
def test_a_run_without_a_place_for_new_items_refuses_them(name: str, shop: Path, tmp_path: Path) -> None:
    assert fit(name, shop, tmp_path / "run").exit_code == 0
    features = [f"image={shop / 'image_feat.npy'}", f"text={shop / 'text_feat.npy'}"]
    given = ["--features", features[0], "--features", features[1], "--out", tmp_path / "more"]
    assert_refused(lirdrec("add-items", tmp_path / "run", *given), "lirdrec")
    assert not (tmp_path / "more").exists()
    assert_refused(fit(name, shop, tmp_path / "cold", "--split", "cold-items"), "--split cold-items", name)
    assert not (tmp_path / "cold").exists()


@pytest.mark.parametrize("name", ["bm3", "mgcn", "item-knn"])
def test_config_of_a_run_repeats_it(name: str, shop: Path, tmp_path: Path) -> None:
    assert fit(name, shop, tmp_path / "run").exit_code == 0
    again = lirdrec("fit", "--config", tmp_path / "run" / "config.yaml", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    one, other = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("run", "again"))
    assert one == other


@pytest.mark.parametrize("name", ["bm3", "freedom", "lightgcn"])
def test_resume_goes_on_to_the_same_weights(name: str, shop: Path, tmp_path: Path) -> None:
    assert fit(name, shop, tmp_path / "long", "--epochs", 3).exit_code == 0
    assert fit(name, shop, tmp_path / "short").exit_code == 0
    result = lirdrec("fit", "--resume", tmp_path / "short", "--epochs", 3)
    assert result.exit_code == 0, result.output
    checkpoints = [Run.open(tmp_path / run).checkpoint() for run in ("long", "short")]
    assert all((value == checkpoints[1].model[key]).all() for key, value in checkpoints[0].model.items())


def test_there_is_nothing_to_go_on_with_in_a_model_that_is_computed_at_once(shop: Path, tmp_path: Path) -> None:
    assert fit("ease", shop, tmp_path / "run").exit_code == 0
    assert_refused(lirdrec("fit", "--resume", tmp_path / "run"), "no training to go on with")
    assert_refused(lirdrec("fit", "--resume", tmp_path / "run", "--model", "ease"), "--model", "--resume")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--model", "svd"], ["--model", "svd", "lightgcn"]),
        (["--model", "vbpr", "--knn-k", 3], ["--knn-k", "vbpr", "lirdrec, content-knn, freedom, mgcn"]),
        (["--l2", 3], ["--l2", "lirdrec", "ease"]),
        (["--model", "vbpr", "--no-item-graph"], ["--no-item-graph", "vbpr", "lirdrec"]),
        (["--model", "ease", "--epochs", 3], ["--epochs", "ease"]),
        (["--model=bpr-mf", "--preset", "fast"], ["--preset", "bpr-mf"]),
        (["--model", "ease", "--l2", 0], ["--l2"]),
        (["--model", "vbpr", "--nonsense"], ["--nonsense"]),
        (["--model", "bpr-mf", "--negatives", 4], ["--negatives 4", "bpr-mf", "lirdrec"]),
    ],
)
def test_options_of_another_model_are_refused(shop: Path, tmp_path: Path, given: list[Any], named: list[str]) -> None:
    assert_refused(lirdrec("fit", "--data", shop, "--out", tmp_path / "run", *given), *named)
    assert not (tmp_path / "run").exists()


def test_a_config_file_may_name_the_model(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: item-knn\nitem_power: 0.5\n")
    result = lirdrec("fit", "--data", shop, "--out", tmp_path / "run", f"--config={tmp_path / 'c.yaml'}")
    assert result.exit_code == 0, result.output
    assert Run.open(tmp_path / "run").model_config() == MODEL_CONFIGS["item-knn"](item_power=0.5)  # type: ignore[call-arg]
    refused = lirdrec(
        "fit", "--model", "ease", "--data", shop, "--out", tmp_path / "b", "--config", tmp_path / "c.yaml"
    )
    assert_refused(refused, "c.yaml", "item_power")


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_help_shows_the_options_and_defaults_of_the_model(name: str) -> None:
    text = re.sub(r"\s+", " ", lirdrec("fit", "--model", name, "--help").output)
    shown = set(re.findall(r"--[a-z0-9-]+", text))
    config = MODEL_CONFIGS[name]
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert ("--epochs INTEGER" in text) == (name in TRAINED)
    assert ("--graph-weights" in shown) == ("graph_weights" in config.__dataclass_fields__)
    if name in TRAINED:
        lr = config.training.get("lr", TrainingConfig().lr)
        assert f"Learning rate of Adam. [default: {lr};" in text


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (["--no-item-graph", "--fusion", "mean"], {"item_graph": False, "fusion": "mean"}),
        (["--id-branch", "--dct", "none"], {"id_branch": True, "dct": "none"}),
        (["--only-modality", "text", "--fusion", "static"], {"only_modality": "text", "fusion": "static"}),
    ],
)
def test_ablations_are_settings(given: list[str], settings: dict[str, Any], shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = fit("lirdrec", shop, out, *given)
    assert result.exit_code == 0, result.output
    config = Run.open(out).lirdrec_config()
    assert {name: getattr(config, name) for name in settings} == settings
    assert "to the last digit" in lirdrec("evaluate", out).output
    explained = json.loads(lirdrec("explain", out, "--user", 0, "--item", 1, "--json").output)
    assert [row["branch"] for row in explained["branches"]] == list(Run.open(out).model(Run.open(out).graph()).branches)
    repeated = lirdrec("fit", "--config", out / "config.yaml", "--out", tmp_path / "again")
    assert repeated.exit_code == 0, repeated.output
    assert Run.open(tmp_path / "again").model_config() == config


def test_an_unknown_modality_is_named_before_anything_is_written(shop: Path, tmp_path: Path) -> None:
    assert_refused(fit("lirdrec", shop, tmp_path / "run", "--only-modality", "sound"), "sound", "image, text")
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_there_were_other_models_is_one_of_lirdrec(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert fit("lirdrec", shop, out).exit_code == 0
    settings = yaml.safe_load((out / "config.yaml").read_text())
    for name in ("model", "fusion", "item_graph", "id_branch", "only_modality"):
        del settings[name]
    (out / "config.yaml").write_text(yaml.safe_dump(settings))
    assert Run.open(out).model_config() == LIRDRecConfig(embedding_dim=8)
