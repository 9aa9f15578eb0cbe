"""``fit --model``, and what the other commands do with its runs."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from commands import assert_refused, help_of, lirdrec

from lirdrec_pyg import Recommender, TrainingConfig
from lirdrec_pyg.models import MODEL_CONFIGS
from lirdrec_pyg.recommender import Evaluator, Run
from lirdrec_pyg.training import PRESETS

TRAINED = [name for name, config in MODEL_CONFIGS.items() if not config.is_closed_form]


def options(name: str) -> list[Any]:
    """Return small settings of the model ``name``."""
    of_model = {field.name for field in dataclasses.fields(MODEL_CONFIGS[name])}
    small = ["--embedding-dim", 8] if "embedding_dim" in of_model else []
    return small if MODEL_CONFIGS[name].is_closed_form else [*small, "--epochs", 1, "--batch-size", 64]


def fit(name: str, shop: Path, out: Path, *more: Any) -> Any:
    preset = ("--preset", "paper") if name == "lirdrec" else ()
    return lirdrec("fit", "--model", name, *preset, "--data", shop, "--out", out, *options(name), *more)


@pytest.fixture(scope="module")
def run_of(shared_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``run_of("ease")`` returns a run of that model, made once; never to be changed."""
    folder = tmp_path_factory.mktemp("models")

    def make(name: str) -> Path:
        if not (folder / name).exists():
            result = fit(name, shared_shop, folder / name)
            assert result.exit_code == 0, result.output
        return folder / name

    return make


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_model_is_fitted_evaluated_and_used(name: str, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    out, config = run_of(name), MODEL_CONFIGS[name]()
    assert yaml.safe_load((out / "config.yaml").read_text())["model"] == name
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["epochs"] == (0 if config.is_closed_form else 1)

    found = lirdrec("evaluate", out, "--split", "both", "--json", "--buckets")
    assert found.exit_code == 0, found.output
    shown = json.loads(found.output)
    assert shown.pop("buckets").keys() == {"valid", "test"}
    assert shown == {name: metrics[name] for name in ("valid", "test", "beyond_accuracy")}

    recommended = lirdrec("recommend", out, "--users", "0,1", "-k", 3, "--out", tmp_path / "r.parquet")
    assert recommended.exit_code == 0, recommended.output
    table = pl.read_parquet(tmp_path / "r.parquet")
    assert table["user"].to_list() == [0, 0, 0, 1, 1, 1]
    recommender = Recommender.load(out)
    assert type(recommender.model_config) is type(config)
    (best,) = Evaluator(recommender).ranker.top_k(torch.tensor([0, 1]), 3, recommender.seen)
    assert table["score"].to_list() == pytest.approx(best.score.flatten().tolist())

    assert lirdrec("similar", out, "--item", 1, "--by", "text").exit_code == 0
    assert (out / "vectors.safetensors").exists() == config.has_vectors
    similar = lirdrec("similar", out, "--item", 1)
    for answer in (similar, lirdrec("export", out, "--out", tmp_path / "vectors")):
        if name == "popularity" and answer is similar:
            assert_refused(answer, "--model popularity gives each item a number, not a vector", "--by: image, text")
        elif config.has_vectors:
            assert answer.exit_code == 0, answer.output
        else:
            assert_refused(answer, f"--model {name}", "no vectors")
    for supported, answer in (
        (config.supports_explanations, lirdrec("explain", out, "--user", 0, "--item", 1)),
        (config.supports_new_users, lirdrec("recommend", out, "--history", "3,4")),
    ):
        if supported:
            assert answer.exit_code == 0, answer.output
        else:
            assert_refused(answer, f"--model {name} does not support", "--model lirdrec")


def test_model_without_new_items_refuses_them(shared_shop: Path, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    features = [f"--features={name}={shared_shop / f'{name}_feat.npy'}" for name in ("image", "text")]
    for name in ("ease", "vbpr"):
        assert_refused(
            lirdrec("add-items", run_of(name), *features, "--out", tmp_path / "more"), "new items", "--model lirdrec"
        )
        assert_refused(
            fit(name, shared_shop, tmp_path / "cold", "--split", "cold-items"), f"--model {name}", "new items"
        )
    assert not list(tmp_path.iterdir())


def test_config_of_a_run_repeats_it(run_of: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("mgcn", "item-knn"):
        again = lirdrec("fit", "--config", run_of(name) / "config.yaml", "--out", tmp_path / name)
        assert again.exit_code == 0, again.output
        one, other = ((run / "model.safetensors").read_bytes() for run in (run_of(name), tmp_path / name))
        assert one == other


def test_resumed_training_reaches_the_same_weights(
    shared_shop: Path, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("bm3", "freedom", "lightgcn"):
        long, short = tmp_path / f"{name}-long", shutil.copytree(run_of(name), tmp_path / f"{name}-short")
        assert fit(name, shared_shop, long, "--epochs", 2).exit_code == 0
        result = lirdrec("fit", "--resume", short, "--epochs", 2)
        assert result.exit_code == 0, result.output
        checkpoints = [Run.open(run).checkpoint() for run in (long, short)]
        assert all((value == checkpoints[1].model[key]).all() for key, value in checkpoints[0].model.items())


def test_model_in_closed_form_has_no_training_to_resume(run_of: Callable[[str], Path]) -> None:
    assert_refused(lirdrec("fit", "--resume", run_of("ease")), "no training to resume")
    assert_refused(lirdrec("fit", "--resume", run_of("ease"), "--model", "ease"), "--model", "--resume")


def test_options_of_another_model_are_refused(shared_shop: Path, tmp_path: Path) -> None:
    for given, named in (
        (["--model", "svd"], ["--model", "svd", "lightgcn"]),
        (["--model", "vbpr", "--knn-k", 3], ["--knn-k", "vbpr", "lirdrec, content-knn, freedom, mgcn"]),
        (["--l2", 3], ["--l2", "lirdrec", "ease"]),
        (["--model", "vbpr", "--no-item-graph"], ["--no-item-graph", "vbpr", "lirdrec"]),
        (["--model", "ease", "--epochs", 3], ["--epochs", "ease"]),
        (["--model=bpr-mf", "--preset", "fast"], ["--preset", "bpr-mf"]),
        (["--model", "ease", "--l2", 0], ["--l2"]),
        (["--model", "ease", "--l2", "inf"], ["--l2 is inf"]),
        (["--model", "vbpr", "--nonsense"], ["--nonsense"]),
        (["--model", "bpr-mf", "--negatives", 4], ["negatives", "bpr-mf", "lirdrec"]),
    ):
        assert_refused(lirdrec("fit", "--data", shared_shop, "--out", tmp_path / "run", *given), *named)
        assert not (tmp_path / "run").exists()


def test_config_file_may_name_the_model(shared_shop: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: item-knn\nitem_power: 0.5\n")
    result = lirdrec("fit", "--data", shared_shop, "--out", tmp_path / "run", f"--config={tmp_path / 'c.yaml'}")
    assert result.exit_code == 0, result.output
    assert Run.open(tmp_path / "run").model_config() == MODEL_CONFIGS["item-knn"](item_power=0.5)  # type: ignore[call-arg]
    assert_refused(
        lirdrec(
            "fit", "--model", "ease", "--data", shared_shop, "--out", tmp_path / "b", "--config", tmp_path / "c.yaml"
        ),
        "c.yaml",
        "item_power",
    )


def test_help_shows_options_and_defaults_of_the_model() -> None:
    for name, config in MODEL_CONFIGS.items():
        text = help_of("fit", "--model", name)
        shown = set(re.findall(r"--[a-z0-9-]+", text))
        groups = lirdrec("fit", "--model", name, "--help").output.partition("Most used:")[2]
        options = re.findall(r"(?<=\n  )(?:-h, )?--[a-z0-9-]+", groups)
        assert len(options) == len(set(options))
        assert options[0] == "--data"
        assert options[-1] == "-h, --help"
        for field in dataclasses.fields(config):
            assert f"--{field.name.replace('_', '-')}" in shown
        assert ("--epochs INTEGER" in text) == (name in TRAINED)
        assert ("--graph-weights" in shown) == ("graph_weights" in config.__dataclass_fields__)
        if name in TRAINED:
            lr = PRESETS["best"]["lr"] if name == "lirdrec" else config.training_defaults.get("lr", TrainingConfig().lr)
            assert f"Learning rate of Adam. [default: {lr};" in text


def test_ablations_are_settings(shared_shop: Path, tmp_path: Path) -> None:
    for number, (given, settings) in enumerate(
        (
            (
                ["--no-item-graph", "--fusion", "mean", "--id-branch", "--dct", "none"],
                {"item_graph": False, "fusion": "mean", "id_branch": True, "dct": "none"},
            ),
            (["--only-modality", "text", "--fusion", "static"], {"only_modality": "text", "fusion": "static"}),
        )
    ):
        out = tmp_path / f"run{number}"
        result = fit("lirdrec", shared_shop, out, *given)
        assert result.exit_code == 0, result.output
        recommender = Recommender.load(out)
        config = recommender.model_config
        assert {name: getattr(config, name) for name in settings} == settings
        assert "to the last digit" in lirdrec("evaluate", out).output
        explained = json.loads(lirdrec("explain", out, "--user", 0, "--item", 1, "--json").output)
        assert [row["branch"] for row in explained["branches"]] == list(recommender.model.branches)
        repeated = lirdrec("fit", "--config", out / "config.yaml", "--out", tmp_path / f"again{number}")
        assert repeated.exit_code == 0, repeated.output
        assert Run.open(tmp_path / f"again{number}").model_config() == config


def test_unknown_modality_is_named_before_anything_is_written(shared_shop: Path, tmp_path: Path) -> None:
    assert_refused(fit("lirdrec", shared_shop, tmp_path / "run", "--only-modality", "sound"), "sound", "image, text")
    assert not (tmp_path / "run").exists()
