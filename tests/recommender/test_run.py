"""The run folder: what it holds, what loading it gives, and how damage is noticed."""

import hashlib
import pickle
import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from runs import change_settings, change_versions, contents, cut, flip, reseal, turn_into_format_1

from lirdrec_pyg import (
    DataConfig,
    Dataset,
    ItemCatalog,
    ItemKNNConfig,
    LIRDRecConfig,
    Recommender,
    TrainingConfig,
    fit,
    resume,
)
from lirdrec_pyg.data import INTERACTS, NEW_ITEM, NewItems, has_new_items
from lirdrec_pyg.errors import ConfigError, DataError, LIRDRecError, RunError
from lirdrec_pyg.files import checksum, read_checksums
from lirdrec_pyg.models import ItemRegression, LIRDRec, attach_unclicked, model_vectors
from lirdrec_pyg.recommender import Evaluator, Run

SEALED = {
    *("config.yaml", "versions.json", "graph.safetensors", "users.parquet", "items.parquet"),
    *("model.safetensors", "vectors.safetensors", "regression.safetensors"),
}
NEW_FILES = {"new_items.safetensors", "new_items.parquet", "new_vectors.safetensors"}
BESIDE = {"checkpoint.safetensors", "history.csv", "metrics.json", "SHA256SUMS"}
OF_THE_END = (
    "SHA256SUMS",
    "metrics.json",
    "vectors.safetensors",
    "new_vectors.safetensors",
    "regression.safetensors",
)


@pytest.fixture(scope="module")
def grown_run(grown: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with four added items; never to be changed."""
    out = tmp_path_factory.mktemp("grown") / "run"
    grown.save(out)
    return out


@pytest.fixture
def copy(grown_run: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(grown_run, tmp_path / "copy"))


@pytest.fixture
def unfinished(run: Path, tmp_path: Path) -> Path:
    """A copy of a run as if the program had been killed after its last epoch."""
    copied = Path(shutil.copytree(run, tmp_path / "unfinished"))
    for name in OF_THE_END:
        (copied / name).unlink(missing_ok=True)
    return copied


# --- Contents --------------------------------------------------------------------------------------------------------


def test_run_holds_all_that_is_promised(run: Path, cold_run: Path, grown_run: Path) -> None:
    assert contents(run).keys() == SEALED | BESIDE
    assert contents(cold_run).keys() == SEALED | BESIDE | NEW_FILES
    assert contents(grown_run).keys() == SEALED | NEW_FILES | {"metrics.json", "SHA256SUMS"}
    assert read_checksums(run).keys() == SEALED
    assert read_checksums(cold_run).keys() == SEALED | NEW_FILES
    for path in (run, cold_run, grown_run):
        assert Run.open(path).verify()


def test_dataset_of_a_run_is_that_of_the_training(cold_run: Path, text_shop: Path) -> None:
    expected = Dataset.from_path(text_shop, split="cold-items")
    found = Run.open(cold_run).dataset()
    assert found.graph[NEW_ITEM].num_nodes == expected.graph[NEW_ITEM].num_nodes == 15
    for key, value in expected.graph[NEW_ITEM].items():
        assert torch.equal(torch.as_tensor(found.graph[NEW_ITEM][key]), torch.as_tensor(value))
    assert found.new_items is not None
    assert expected.new_items is not None
    assert found.new_items.ids.equals(expected.new_items.ids)
    assert found.items.ids.equals(expected.items.ids)
    assert found.users.ids.equals(expected.users.ids)
    assert found.config == expected.config
    assert found.facts == expected.facts
    assert b"new_item" not in (cold_run / "graph.safetensors").read_bytes()


def test_run_without_new_items_has_none(run: Path) -> None:
    opened = Run.open(run)
    assert opened.dataset().new_items is None
    assert not has_new_items(opened.dataset().graph)
    vectors, metrics = opened.vectors(), opened.metrics()
    assert vectors is not None
    assert vectors.item.shape[0] == vectors.item_layers.shape[1] == 80
    assert metrics is not None
    assert "cold_start" not in metrics


def test_saved_vectors_and_neighborhood_are_those_of_the_best_model(
    recommender: Recommender, cold_recommender: Recommender
) -> None:
    for saved in (recommender, cold_recommender):
        evaluator = Evaluator(saved)
        model, data = evaluator.model, evaluator.data
        regression = ItemRegression.of(model, data, model.vectors(data))
        expected = vars(attach_unclicked(model, data, model_vectors(model, data), regression))
        torch.testing.assert_close(vars(saved.vectors), expected, rtol=0, atol=0)
        assert saved.regression is not None
        torch.testing.assert_close(vars(saved.regression), vars(regression))
        assert evaluator.metrics("test") == saved.evaluate() == saved.metrics["test"]


def test_vectors_and_recommendations_are_those_of_the_model(train_run: Callable[..., Path], text_shop: Path) -> None:
    recommender = Recommender.load(train_run(text_shop, unclicked_items="trained"))
    data = LIRDRec.input_transform(recommender.model_config)(recommender.graph)
    with torch.no_grad():
        user, item = recommender.model(data)
    np.testing.assert_array_equal(recommender.user_vectors(), user.numpy())
    np.testing.assert_array_equal(recommender.item_vectors(), item.numpy())
    score, item = recommender.model.recommend(recommender.graph, [3, 1], k=5)
    frame = recommender.recommend(recommender.users.ids.gather([3, 1]), k=5)
    assert frame["item"].to_list() == recommender.items.ids.gather(item.flatten().numpy()).to_list()
    np.testing.assert_allclose(frame["score"], score.flatten().numpy(), atol=1e-5)


def test_earlier_run_keeps_its_vectors_of_items_without_interactions(
    train_run: Callable[..., Path], text_shop: Path, tmp_path: Path
) -> None:
    path = train_run(text_shop, unclicked_items="trained")
    before = Recommender.load(path).vectors.item
    change_settings(path, unclicked_items=None)  # which it did not have
    reseal(path)
    assert Recommender.load(path).model_config.unclicked_items == "trained"
    assert torch.equal(resume(path).vectors.item, before)


def test_held_out_items_follow_the_others(cold_recommender: Recommender) -> None:
    held_out = cold_recommender.dataset.new_items
    assert held_out is not None
    assert cold_recommender.items.ids.tail(len(held_out)).to_list() == held_out.ids.to_list()
    assert len(cold_recommender.vectors.item) == len(cold_recommender.items) == 80
    assert cold_recommender.popularity[-len(held_out) :].sum() == 0


def test_model_without_layers_or_new_items(train_run: Callable[..., Path], text_shop: Path) -> None:
    run = train_run(text_shop, dct="2d", num_layers=0, num_item_layers=0)
    assert contents(run).keys() == SEALED - {"regression.safetensors"} | BESIDE
    recommender = Recommender.load(run)
    assert recommender.regression is None
    assert recommender.recommend(["u2"], k=3)["rank"].to_list() == [1, 2, 3]
    with pytest.raises(ConfigError, match="num_layers"):
        recommender.recommend_for_history({"somebody": ["sku/2"]})


def test_item_catalog_is_stored(recommender: Recommender, tmp_path: Path) -> None:
    frame = pl.DataFrame({"item_id": recommender.items.ids, "title": ["A title"] * 80, "price": range(80)})
    dataset = replace(recommender.dataset, catalog=ItemCatalog.of(frame))
    replace(recommender, dataset=dataset, path=None, checksums=None).save(tmp_path / "run")
    assert "catalog.parquet" in read_checksums(tmp_path / "run")
    catalog = Recommender.load(tmp_path / "run").dataset.catalog
    assert catalog is not None
    assert catalog.title == "title"
    assert catalog.frame.equals(ItemCatalog.of(frame).frame)


def test_no_file_needs_unpickling(run: Path, grown_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for path in (*grown_run.iterdir(), *run.iterdir()):
        assert not zipfile.is_zipfile(path)
        assert not path.read_bytes().startswith(b"\x80")
    for target in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, target, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    recommender = Recommender.load(grown_run)
    recommender.recommend(["u2"])
    recommender.recommend_for_history({"somebody": ["n0"]})


def test_loading_a_finished_run_does_not_warn(run: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="lirdrec_pyg")
        warnings.filterwarnings("error", message=".*unfinished.*")
        Recommender.load(str(run))


def test_missing_device_is_one_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LIRDRecError, match="device='cuda'"):
        Recommender.load(run, device="cuda")


# --- Damage ----------------------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def test_each_damaged_file_is_named(copy: Path) -> None:
    for name in sorted(SEALED | NEW_FILES):
        whole = (copy / name).read_bytes()
        for damage in (flip, cut, empty, extend, Path.unlink):
            damage(copy / name)
            with pytest.raises(RunError) as caught:
                Recommender.load(copy)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
            (copy / name).write_bytes(whole)
    Recommender.load(copy)


def test_cut_files_are_noticed_without_checksums(copy: Path) -> None:
    for name in sorted(SEALED | NEW_FILES):
        whole = (copy / name).read_bytes()
        cut(copy / name)
        with pytest.raises(LIRDRecError) as caught:
            Recommender.load(copy, verify=False)
        assert "\n" not in str(caught.value)
        (copy / name).write_bytes(whole)


def test_damaged_list_of_checksums_is_refused(copy: Path) -> None:
    path = copy / "SHA256SUMS"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for damaged in (
        *(b"".join(lines[:count]) for count in (0, 1, 5, -1)),
        whole[: len(whole) // 2],
        *(
            whole + more
            for more in (b"\xff\xfe\n", b"x\n", b"0" * 64 + b"  ../elsewhere\n", b"0" * 63 + b"  config.yaml\n")
        ),
    ):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="SHA256SUMS"):
            Recommender.load(copy)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_reads_the_list_of_checksums(copy: Path) -> None:
    def check() -> "subprocess.CompletedProcess[str]":
        command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
        return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)

    result = check()
    assert result.returncode == 0, result.stderr
    assert {line.removesuffix(": OK") for line in result.stdout.splitlines()} == SEALED | NEW_FILES
    flip(copy / "items.parquet")
    assert check().returncode == 1


def test_checksum_is_that_of_the_whole_file(tmp_path: Path) -> None:
    for size in (0, 1, 2**20 - 1, 2**20, 2**20 + 1):
        content = np.random.default_rng(size).bytes(size)
        (tmp_path / "file").write_bytes(content)
        assert checksum(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_width_that_the_weights_do_not_have_is_refused_before_it_takes_memory(copy: Path) -> None:
    for width in (16, 10**9, 10**12):
        change_settings(copy, embedding_dim=width)
        reseal(copy)
        with pytest.raises(RunError, match=r"model\.safetensors does not hold the weights"):
            Recommender.load(copy)


def test_invalid_settings_are_named(copy: Path) -> None:
    for name, value in {"embedding_dim": "8", "sparse_backend": "cuda", "model": "svd"}.items():
        whole = (copy / "config.yaml").read_bytes()
        change_settings(copy, **{name: value})
        reseal(copy)
        with pytest.raises(RunError, match=rf"config\.yaml .*{name}"):
            Recommender.load(copy)
        (copy / "config.yaml").write_bytes(whole)


def test_records_of_the_training_may_be_missing(run: Path, recommender: Recommender, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copy"))
    for name in ("history.csv", "metrics.json", "checkpoint.safetensors"):
        (copied / name).unlink()
    loaded = Recommender.load(copied)
    assert loaded.metrics is None
    assert loaded.recommend(["u2"]).equals(recommender.recommend(["u2"]))


def test_new_items_of_another_run_are_refused(run: Path, grown_run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copy"))
    for name in NEW_FILES:
        shutil.copyfile(grown_run / name, copied / name)
    with pytest.raises(RunError, match="new_"):
        Recommender.load(copied)


def test_other_folders_and_formats_are_refused(copy: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="not a run folder"):
            Recommender.load(path)
    for form, named in ((99, "format 99"), (None, "no format"), ("2", "no format"), (0, "no format")):
        change_versions(copy, format=form)
        with pytest.raises(RunError, match=named):
            Recommender.load(copy)


# --- Unfinished runs -------------------------------------------------------------------------------------------------


def test_unfinished_run_warns_and_recommends_the_same(
    unfinished: Path, copy: Path, recommender: Recommender, grown: Recommender
) -> None:
    for name in OF_THE_END:
        (copy / name).unlink()
    for path, whole in ((unfinished, recommender), (copy, grown)):
        assert Run.open(path).verify() is None
        assert Run.open(path).vectors() is None
        with pytest.warns(UserWarning, match="unfinished"):
            again = Recommender.load(path)
        assert again.metrics is None
        np.testing.assert_allclose(again.user_vectors(), whole.user_vectors(), atol=1e-6)
        np.testing.assert_allclose(again.item_vectors(), whole.item_vectors(), atol=1e-6)
        users = whole.users.ids.head(40)
        columns = ["user", "item", "rank"]
        assert again.recommend(users, k=5).select(columns).equals(whole.recommend(users, k=5).select(columns))
        user, item = users[0], whole.items.ids[-1]
        np.testing.assert_allclose(again.explain(user, item).score, whole.explain(user, item).score, atol=1e-5)
        assert Evaluator(again).metrics("test") == pytest.approx(whole.evaluate("test"), abs=1e-6)


def test_items_are_added_to_an_unfinished_run(
    unfinished: Path, recommender: Recommender, new_items: Callable[..., NewItems], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="unfinished"):
        Recommender.load(unfinished).add_items(new_items("n0")).save(tmp_path / "run2")
    again, expected = Recommender.load(tmp_path / "run2"), recommender.add_items(new_items("n0"))
    np.testing.assert_allclose(again.item_vectors(), expected.item_vectors(), atol=1e-5)


def test_finished_run_without_its_checksums_is_refused(copy: Path) -> None:
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(RunError, match="no SHA256SUMS"):
        Recommender.load(copy)


def test_run_without_a_finished_epoch_is_refused(unfinished: Path) -> None:
    (unfinished / "model.safetensors").unlink()
    with pytest.raises(RunError, match="before the first epoch"):
        Recommender.load(unfinished)


def test_training_that_fails_leaves_an_unfinished_run(
    text_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LIRDRec, "vectors", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(text_shop, LIRDRecConfig(embedding_dim=4), TrainingConfig(epochs=1, device="cpu"), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert not run.is_sealed
    assert run.verify() is None
    assert run.vectors() is None


# --- Earlier formats -------------------------------------------------------------------------------------------------


def test_run_of_format_1_is_read(
    run: Path, recommender: Recommender, new_items: Callable[..., NewItems], tmp_path: Path
) -> None:
    old = Path(shutil.copytree(run, tmp_path / "old"))
    turn_into_format_1(old)
    assert (old / "neighbourhood.safetensors").exists()
    loaded = Recommender.load(old)
    assert loaded.recommend(["u2"]).equals(recommender.recommend(["u2"]))
    assert loaded.regression is None  # computed again
    expected = recommender.add_items(new_items("a"))
    loaded.add_items(new_items("a")).save(tmp_path / "grown")
    np.testing.assert_allclose(Recommender.load(tmp_path / "grown").item_vectors(), expected.item_vectors(), atol=1e-5)
    flip(old / "neighbourhood.safetensors")
    with pytest.raises(RunError, match="neighbourhood"):
        Recommender.load(old)


def test_item_knn_of_format_1_is_read(text_shop: Path, tmp_path: Path) -> None:
    data = DataConfig(data=str(text_shop))
    new = fit(data, ItemKNNConfig(num_neighbors=7), TrainingConfig(device="cpu"), tmp_path / "run")
    turn_into_format_1(tmp_path / "run")
    assert "num_neighbours: 7" in (tmp_path / "run" / "config.yaml").read_text()
    assert b"neighbour" in (tmp_path / "run" / "model.safetensors").read_bytes()
    old = Recommender.load(tmp_path / "run")
    assert old.model_config == ItemKNNConfig(num_neighbors=7)
    assert old.recommend(["u2", "u9"]).equals(new.recommend(["u2", "u9"]))
    assert old.evaluate("valid") == new.metrics["valid"]


def test_settings_of_later_releases_have_defaults(run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(run, tmp_path / "old"))
    later = ("model", "fusion", "item_graph", "id_branch", "only_modality", "sampling", "fanout", "user_gradients")
    change_settings(old, **dict.fromkeys(later))
    assert Run.open(old).model_config() == LIRDRecConfig(embedding_dim=8)
    settings = Run.open(old).training_config()
    assert (settings.sampling, settings.fanout, settings.user_gradients) == ("full", None, "dense")


# --- Cold start ------------------------------------------------------------------------------------------------------


def test_metrics_of_held_out_items_are_reproduced(cold_recommender: Recommender) -> None:
    evaluator = Evaluator(cold_recommender)
    assert cold_recommender.metrics is not None
    saved = cold_recommender.metrics["cold_start"]
    assert saved.keys() == {"valid", "test"}
    assert set(saved["test"]) == {
        "warm",
        "warm among all",
        "cold",
        "all",
        "cold among all",
        "cold, random",
        "cold, content",
    }
    assert evaluator.cold_start("valid") == saved["valid"]
    assert evaluator.cold_start("test") == saved["test"]
    assert cold_recommender.metrics["test"] == saved["test"]["warm"]


def test_buckets_average_to_the_metrics(cold_recommender: Recommender) -> None:
    evaluator = Evaluator(cold_recommender)
    users = [b for b in evaluator.buckets("test") if b.kind == "user activity"]
    total = sum(b.num_users for b in users)
    mean = sum(b.num_users * b.metrics["recall@20"] for b in users) / total
    assert mean == pytest.approx(evaluator.metrics("test")["recall@20"], rel=1e-5)


def test_run_without_held_out_items_has_no_such_metrics(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="split='cold-items'"):
        Evaluator(recommender).cold_start("test")


def test_dataset_is_left_alone_by_a_training(text_shop: Path) -> None:
    data = Dataset.from_path(text_shop, split="cold-items")
    types, edges = data.graph.metadata(), data.graph[INTERACTS].edge_index.clone()
    fit(data, LIRDRecConfig(embedding_dim=4), TrainingConfig(epochs=1, device="cpu"))
    assert has_new_items(data.graph)
    assert data.graph.metadata() == types
    assert torch.equal(data.graph[INTERACTS].edge_index, edges)
