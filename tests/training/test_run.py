"""The run folder: what is in it, what notices that it was damaged, and what is made of it."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import (
    NEW_ITEM,
    RecommendationData,
    Vocabulary,
    build_graph,
    has_new_items,
    item_features,
    new_item_edges,
    read_data,
    set_new_items,
)
from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import ConfigError, DataError, LIRDRecError, RunError
from lirdrec_pyg.models import LIRDRec, Neighbourhood, Vectors, model_vectors
from lirdrec_pyg.training import Run, RunEvaluator, Trainer, fit
from lirdrec_pyg.training.checksums import read_checksums

MODEL = LIRDRecConfig(embedding_dim=8, knn_k=4)
TRAINING = TrainingConfig(epochs=2, batch_size=64, lr=0.01, device="cpu", seed=1)

SEALED = {
    *("config.yaml", "versions.json", "graph.safetensors", "users.parquet", "items.parquet"),
    *("model.safetensors", "vectors.safetensors", "neighbourhood.safetensors"),
}
NEW_FILES = {"new_items.safetensors", "new_items.parquet", "new_vectors.safetensors"}
BESIDE = {"checkpoint.safetensors", "history.csv", "metrics.json", "SHA256SUMS"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps are so small that threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_shop(folder: Path, seed: int = 0) -> DataConfig:
    """50 users, 30 items; the texts of some items are missing."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    pairs = [(u, f"sku-{i}") for u in range(50) for i in rng.choice(30, size=9, replace=False)]
    pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row").write_csv(folder / "clicks.csv")
    for modality, width, count in (("image", 12, 30), ("text", 7, 26)):
        ids = np.array([f"sku-{i}" for i in range(count)])
        np.savez(folder / f"{modality}_feat.npz", features=rng.standard_normal((count, width)), ids=ids)
    return DataConfig(data=str(folder), split="cold-items", cold_fraction=0.3)


def fit_run(out: Path, data: RecommendationData, config: DataConfig, **options: Any) -> dict[str, Any]:
    model = LIRDRecConfig(**{**vars(MODEL), **options.pop("model", {})})
    training = TrainingConfig(**{**vars(TRAINING), **options.pop("training", {})})
    return fit(data, out, config, model, training, **options)


@pytest.fixture(scope="module")
def cold_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with held-out items; never to be changed."""
    folder = tmp_path_factory.mktemp("cold")
    config = write_shop(folder / "shop")
    fit_run(folder / "run", read_data(config), config)
    return folder / "run"


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without held-out items; never to be changed."""
    out = tmp_path_factory.mktemp("plain") / "run"
    fit_run(out, synthetic_data(num_users=50, num_items=40), DataConfig(data="synthetic"))
    return out


@pytest.fixture
def run(cold_run: Path, tmp_path: Path) -> Path:
    """A copy of the run with held-out items."""
    shutil.copytree(cold_run, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def refused(*texts: object) -> Any:
    return pytest.raises(RunError, match=".*".join(map(str, texts)))


# --- What a run holds ------------------------------------------------------------------------------------------------


def test_a_run_holds_all_that_is_promised(cold_run: Path, plain_run: Path) -> None:
    assert contents(plain_run).keys() == SEALED | BESIDE
    assert contents(cold_run).keys() == SEALED | BESIDE | NEW_FILES
    assert read_checksums(plain_run).keys() == SEALED
    assert read_checksums(cold_run).keys() == SEALED | NEW_FILES
    assert Run.open(plain_run).verify()
    assert Run.open(cold_run).verify()


def test_the_graph_of_a_run_comes_back_with_its_new_items(cold_run: Path, tmp_path: Path) -> None:
    expected = read_data(write_shop(tmp_path / "shop"))
    run = Run.open(cold_run)
    graph = run.graph()
    assert has_new_items(graph)
    assert graph[NEW_ITEM].num_nodes == expected.graph[NEW_ITEM].num_nodes == 9
    for key, value in expected.graph[NEW_ITEM].items():
        assert torch.equal(graph[NEW_ITEM][key], value) if isinstance(value, Tensor) else graph[NEW_ITEM][key] == value
    assert expected.new_items is not None
    assert run.new_items().ids.equals(expected.new_items.ids)
    assert run.items().ids.equals(expected.items.ids)
    assert run.users().ids.equals(expected.users.ids)


def test_a_run_without_new_items_knows_none(plain_run: Path) -> None:
    run = Run.open(plain_run)
    assert run.new_items() is None
    assert not has_new_items(run.graph())
    vectors = run.vectors()
    assert vectors is not None
    assert vectors.item.shape[0] == vectors.item_layers.shape[1] == len(run.items()) == 40
    assert "cold_start" not in run.metrics()


@pytest.mark.parametrize("name", ["cold_run", "plain_run"])
def test_saved_vectors_are_those_of_the_best_model(name: str, request: pytest.FixtureRequest) -> None:
    run = Run.open(request.getfixturevalue(name))
    evaluator = RunEvaluator(run, "cpu")
    saved, computed = run.vectors(), model_vectors(evaluator.model, evaluator.data, MODEL.knn_k)
    assert saved is not None
    assert len(saved.item) == len(run.items()) + len(run.new_items() or [])
    torch.testing.assert_close(vars(saved), vars(computed), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cold_run", "plain_run"])
def test_a_saved_neighbourhood_is_that_of_the_best_model(name: str, request: pytest.FixtureRequest) -> None:
    evaluator = RunEvaluator(request.getfixturevalue(name), "cpu")
    saved, vectors = evaluator.run.neighbourhood(), evaluator.model.vectors(evaluator.data)
    assert saved is not None
    torch.testing.assert_close(vars(saved), vars(Neighbourhood.of(evaluator.model, evaluator.data, vectors)))


def test_a_model_that_takes_no_new_items_has_no_neighbourhood(tmp_path: Path) -> None:
    data = synthetic_data(num_users=50, num_items=40)
    fit_run(tmp_path / "run", data, DataConfig(data="synthetic"), model={"dct": "2d"})
    run = Run.open(tmp_path / "run")
    assert run.neighbourhood() is None
    assert run.verify()
    assert contents(run.path).keys() == SEALED - {"neighbourhood.safetensors"} | BESIDE


# --- Cold start ------------------------------------------------------------------------------------------------------


def test_metrics_tell_of_held_out_items_and_are_reproduced(cold_run: Path) -> None:
    evaluator = RunEvaluator(cold_run, "cpu")
    saved = evaluator.run.metrics()["cold_start"]
    assert saved.keys() == {"valid", "test"}
    assert set(saved["test"]) == {"warm", "cold", "all", "cold among all", "cold, random", "cold, content"}
    assert evaluator.cold_start("val") == saved["valid"]
    assert evaluator.cold_start("test") == saved["test"]
    assert evaluator.metrics("test") == evaluator.run.metrics()["test"] == saved["test"]["warm"]


def test_buckets_of_a_run_make_its_figures(cold_run: Path) -> None:
    evaluator = RunEvaluator(cold_run, "cpu")
    users = [b for b in evaluator.buckets("test") if b.kind == "user activity"]
    total = sum(b.num_users for b in users)
    mean = sum(b.num_users * b.metrics["recall@20"] for b in users) / total
    assert mean == pytest.approx(evaluator.metrics("test")["recall@20"], rel=1e-5)


def test_a_run_without_held_out_items_has_no_such_figures(plain_run: Path) -> None:
    with pytest.raises(DataError, match="train with --split cold-items"):
        RunEvaluator(plain_run, "cpu").cold_start("test")


@pytest.mark.parametrize(
    "training", [{"precision": "bf16-mixed"}, {"precision": "64-true"}, {"edge_dropout": 0.3}, {"epochs": 1}]
)
def test_every_way_of_training_takes_held_out_items(training: dict[str, Any], tmp_path: Path) -> None:
    config = write_shop(tmp_path / "shop")
    metrics = fit_run(tmp_path / "run", read_data(config), config, training=training)
    assert RunEvaluator(tmp_path / "run", "cpu").cold_start("test")["cold"]["recall@5"] == pytest.approx(
        metrics["cold_start"]["test"]["cold"]["recall@5"], abs=0.02
    )


def test_a_transform_over_all_items_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = write_shop(tmp_path / "shop")
    with pytest.raises(ConfigError, match="--dct feature"):
        fit_run(tmp_path / "run", read_data(config), config, model={"dct": "2d"})
    assert not (tmp_path / "run").exists()


def test_held_out_items_of_nobody_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """All that can be checked is checked before the training, and not hours later."""
    config = write_shop(tmp_path / "shop")
    data = read_data(config)
    data.graph[NEW_ITEM].test_edge_label_index = torch.empty(2, 0, dtype=torch.long)
    with pytest.raises(DataError, match="No user of the test split"):
        fit_run(tmp_path / "run", data, config)
    assert not (tmp_path / "run").exists()


def test_the_best_epoch_decides_and_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recalls = iter([0.3, 0.1, 0.2, 0.0, 0.0])
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: {"recall@20": next(recalls)})
    config = write_shop(tmp_path / "shop")
    fit_run(tmp_path / "run", read_data(config), config, training={"epochs": 3})
    run = Run.open(tmp_path / "run")
    assert run.metrics()["best_epoch"] == 1
    vectors, evaluator = run.vectors(), RunEvaluator(run, "cpu")
    assert vectors is not None
    assert torch.equal(evaluator.model.vectors(evaluator.data).user, vectors.user)
    checkpoint = run.checkpoint()
    assert torch.equal(checkpoint.best["user"], evaluator.model.user)
    assert not torch.equal(checkpoint.model["user"], evaluator.model.user)


# --- Damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [flip, truncate, empty, extend, Path.unlink])
@pytest.mark.parametrize("name", sorted(SEALED | NEW_FILES))
def test_every_damaged_file_is_named(name: str, damage: Callable[[Path], None], run: Path) -> None:
    damage(run / name)
    with pytest.raises(RunError) as caught:
        Run.open(run).verify()
    text = str(caught.value)
    assert name in text
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize("width", [10**9, 10**12])
def test_a_width_that_the_weights_have_not_is_refused_before_it_takes_memory(width: int, run: Path) -> None:
    path = run / "config.yaml"
    text = path.read_text()
    assert "embedding_dim: 8\n" in text
    path.write_text(text.replace("embedding_dim: 8\n", f"embedding_dim: {width}\n"))
    opened = Run.open(run)
    with pytest.raises(RunError, match="does not hold the weights"):
        opened.model(opened.graph())


@pytest.mark.parametrize("name", ["history.csv", "metrics.json", "checkpoint.safetensors"])
def test_an_account_of_the_training_may_be_edited(name: str, run: Path) -> None:
    (run / name).unlink()
    assert Run.open(run).verify()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\n", b"no checksum\n", b"0" * 64 + b"  ../elsewhere\n", b"0" * 63 + b"  config.yaml\n"]
)
def test_a_damaged_list_of_checksums_is_named(content: bytes, run: Path) -> None:
    (run / "SHA256SUMS").write_bytes((run / "SHA256SUMS").read_bytes() + content)
    with refused("SHA256SUMS"):
        Run.open(run).verify()


@pytest.mark.parametrize("num_lines", [0, 1, 5, -1])
def test_a_list_of_checksums_that_was_cut_short_vouches_for_nothing(num_lines: int, run: Path) -> None:
    lines = (run / "SHA256SUMS").read_text().splitlines(keepends=True)
    (run / "SHA256SUMS").write_text("".join(lines[:num_lines]))
    with refused("SHA256SUMS"):
        Run.open(run).verify()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_list_of_checksums_is_one_that_sha256sum_reads(run: Path) -> None:
    def check() -> subprocess.CompletedProcess[str]:
        command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
        return subprocess.run(command, cwd=run, capture_output=True, text=True, check=False)

    result = check()
    assert result.returncode == 0, result.stderr
    assert {line.removesuffix(": OK") for line in result.stdout.splitlines()} == SEALED | NEW_FILES
    flip(run / "items.parquet")
    assert check().returncode == 1
    with refused("items.parquet"):
        Run.open(run).verify()


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1])
def test_a_checksum_is_that_of_the_whole_file(size: int, tmp_path: Path) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert checksum(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_newer_format_is_refused(run: Path) -> None:
    versions = json.loads((run / "versions.json").read_text())
    (run / "versions.json").write_text(json.dumps(versions | {"format": versions["format"] + 1}))
    with refused("format 2"):
        Run.open(run)


@pytest.mark.parametrize("name", ["vectors.safetensors", "new_vectors.safetensors"])
@pytest.mark.parametrize("damage", [truncate, empty])
def test_damaged_vectors_are_named(name: str, damage: Callable[[Path], None], run: Path) -> None:
    damage(run / name)
    with refused(run / name, "can't be read"):
        Run.open(run).vectors()


def test_vectors_of_new_items_that_are_gone_are_named(run: Path) -> None:
    (run / "new_vectors.safetensors").unlink()
    with refused("new_vectors.safetensors"):
        Run.open(run).vectors()


def test_a_run_that_was_cut_off_has_neither_vectors_nor_checksums(run: Path) -> None:
    for name in ("SHA256SUMS", "vectors.safetensors", "new_vectors.safetensors", "metrics.json"):
        (run / name).unlink()
    opened = Run.open(run)
    assert opened.verify() is False
    assert opened.vectors() is None
    assert opened.metrics() is None
    # All that is needed to make them is there.
    assert set(RunEvaluator(opened, "cpu").cold_start("test")) >= {"cold", "all"}


def test_a_training_that_fails_leaves_a_run_that_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LIRDRec, "vectors", killed)
    config = write_shop(tmp_path / "shop")
    with pytest.raises(KeyboardInterrupt):
        fit_run(tmp_path / "run", read_data(config), config)
    run = Run.open(tmp_path / "run")
    assert run.verify() is False
    assert run.vectors() is None


# --- Runs made of runs -----------------------------------------------------------------------------------------------


def more_items(run: Run, count: int = 3) -> tuple[HeteroData, Vocabulary, Vectors]:
    """What ``derive`` takes: the graph with other new items, their IDs and vectors."""
    graph = run.graph()
    rng = np.random.default_rng(5)
    features = {
        m: rng.standard_normal((count, item_features(graph, m).size(1))).astype(np.float32) for m in ("image", "text")
    }
    graph = set_new_items(graph, features)
    ids = Vocabulary(pl.Series("id", [f"new-{n}" for n in range(count)]), "item")
    return graph, ids, model_vectors(run.model(graph), graph, MODEL.knn_k)


@pytest.mark.parametrize("name", ["cold_run", "plain_run"])
def test_a_run_with_more_items_links_what_stays_and_leaves_its_source_alone(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(request.getfixturevalue(name), source)
    before = contents(source)
    graph, ids, new = more_items(Run.open(source))
    derived = Run.open(source).derive(tmp_path / "derived", graph, ids, new)
    assert contents(source) == before
    assert Run.open(source).verify()

    assert contents(derived.path).keys() == SEALED | NEW_FILES | {"metrics.json", "SHA256SUMS"}
    for file in SEALED | {"metrics.json"}:
        assert (derived.path / file).samefile(source / file)
    for file in NEW_FILES & before.keys() | {"SHA256SUMS"}:
        assert not (derived.path / file).samefile(source / file)
    opened = Run.open(derived.path)
    assert opened.verify()
    assert opened.new_items().ids.to_list() == ["new-0", "new-1", "new-2"]
    assert opened.items().ids.equals(Run.open(source).items().ids)
    assert torch.equal(opened.graph()[NEW_ITEM].x_image, graph[NEW_ITEM].x_image)
    assert new_item_edges(opened.graph(), "test") is None
    vectors, known = opened.vectors(), Run.open(source).vectors()
    assert vectors is not None
    assert known is not None
    assert torch.equal(vectors.items_from(len(opened.items())).item, new.items_from(len(opened.items())).item)
    assert torch.equal(vectors.items_until(len(opened.items())).item, known.items_until(len(opened.items())).item)
    assert torch.equal(vectors.item_layers[:, -3:], new.item_layers[:, -3:])


def test_writing_to_a_derived_run_changes_nothing_in_its_source(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    derived = Run.open(run).derive(tmp_path / "derived", *more_items(Run.open(run)))
    derived.save_metrics({"test": {}})
    derived.save_weights("model", {"x": torch.zeros(1)})
    derived.seal()
    assert contents(run) == before


def test_files_are_copied_where_none_can_be_linked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(*_: Any) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    derived = Run.open(run).derive(tmp_path / "derived", *more_items(Run.open(run)))
    assert not (derived.path / "graph.safetensors").samefile(run / "graph.safetensors")
    assert (derived.path / "graph.safetensors").read_bytes() == (run / "graph.safetensors").read_bytes()
    assert derived.verify()


@pytest.mark.parametrize("step", ["save_graph", "_link", "format_checksums"])
@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(
    step: str, error: BaseException, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    before, more = contents(run), more_items(Run.open(run))
    monkeypatch.setattr(f"lirdrec_pyg.training.run.{step}", fail)
    expected = RunError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        Run.open(run).derive(tmp_path / "derived", *more)
    assert not (tmp_path / "derived").exists()
    assert contents(run) == before


def test_a_failure_gives_the_run_back_that_was_to_be_replaced(
    run: Path, plain_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(plain_run, tmp_path / "derived")
    more = more_items(Run.open(run))
    with refused("derived is not empty", "--overwrite"):
        Run.open(run).derive(tmp_path / "derived", *more)
    with monkeypatch.context() as patch:
        patch.setattr("lirdrec_pyg.training.run.format_checksums", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Run.open(run).derive(tmp_path / "derived", *more, overwrite=True)
    assert contents(tmp_path / "derived") == contents(plain_run)
    derived = Run.open(run).derive(tmp_path / "derived", *more, overwrite=True)
    assert derived.verify()
    assert not (derived.path / "history.csv").exists()


@pytest.mark.parametrize("place", ["run", "link", "run/../run"])
def test_a_run_does_not_take_its_own_place(place: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    before, more = contents(run), more_items(Run.open(run))
    with pytest.raises(LIRDRecError):
        Run.open(run).derive(tmp_path / place, *more, overwrite=True)
    assert contents(run) == before


def test_a_new_training_in_the_place_of_a_derived_run_leaves_the_source_alone(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    Run.open(run).derive(tmp_path / "derived", *more_items(Run.open(run)))
    fit_run(tmp_path / "derived", synthetic_data(num_users=50, num_items=40), DataConfig(data="x"), overwrite=True)
    assert contents(run) == before
    assert contents(tmp_path / "derived").keys() == SEALED | BESIDE
    assert Run.open(tmp_path / "derived").new_items() is None


def test_a_graph_of_new_items_is_written_apart_and_the_data_are_left_alone(tmp_path: Path) -> None:
    data = read_data(write_shop(tmp_path / "shop"))
    graph = copy.copy(data.graph)
    Run.create(tmp_path / "run", data, (DataConfig(data="x"), MODEL, TRAINING))
    assert has_new_items(data.graph)
    assert data.graph.node_types == graph.node_types
    assert (tmp_path / "run" / "new_items.safetensors").is_file()
    assert b"new_item" not in (tmp_path / "run" / "graph.safetensors").read_bytes()


def test_the_smallest_run_takes_new_items(tmp_path: Path) -> None:
    """One modality, two users, two items."""
    pair = np.array([[0], [1]])
    graph = build_graph(np.array([[0, 1], [0, 1]]), {"m": np.eye(2)}, val=pair, test=pair)
    held_out = {"val": torch.tensor([[0], [0]]), "test": torch.tensor([[0], [1]])}
    graph = set_new_items(graph, {"m": np.eye(2)}, held_out=held_out)
    items, new = (Vocabulary(pl.Series("id", [f"{kind}{n}" for n in range(2)]), "item") for kind in "ab")
    data = RecommendationData(graph, Vocabulary(pl.Series("id", ["u", "v"]), "user"), items, {}, new)
    metrics = fit_run(tmp_path / "run", data, DataConfig(data="x"), model={"knn_k": 2})
    assert metrics["cold_start"]["test"]["cold"]["recall@5"] == 1.0
    assert Run.open(tmp_path / "run").verify()
