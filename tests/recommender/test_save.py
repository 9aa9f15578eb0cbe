"""Saving a recommender: round trips, links to the folder it came from, and failures."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from filelock import FileLock
from runs import contents

from lirdrec_pyg import DataConfig, EASEConfig, LIRDRecConfig, Recommender, TrainingConfig, VBPRConfig, fit
from lirdrec_pyg.data import new_item_edges
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.recommender import Evaluator, Run

SMALL = TrainingConfig(epochs=1, lr=0.01, device="cpu")
LINKED = {
    *("config.yaml", "versions.json", "graph.safetensors", "users.parquet", "items.parquet"),
    *("model.safetensors", "vectors.safetensors", "regression.safetensors"),
}
NEW_FILES = {"new_items.safetensors", "new_items.parquet", "new_vectors.safetensors"}


@pytest.fixture(scope="module")
def grown_cold(cold_recommender: Recommender, new_items: Any) -> Recommender:
    """Items added to a run that held items out."""
    return cold_recommender.add_items(new_items("n0", "n1", missing={"text": [1]}))


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(run, tmp_path / "own"))


def test_recommender_made_in_memory_is_saved_and_loaded(tmp_path: Path) -> None:
    dataset = synthetic_data(40, 60)
    for number, config in enumerate((LIRDRecConfig(embedding_dim=8), VBPRConfig(embedding_dim=8), EASEConfig())):
        made = fit(dataset, config, SMALL)
        assert made.path is None
        path = tmp_path / f"run{number}"
        saved = made.save(path)
        loaded = Recommender.load(path)
        assert saved.path == loaded.path == path
        assert loaded.metrics == made.metrics
        assert loaded.evaluate() == made.evaluate() == made.metrics["test"]
        for other in (saved, loaded):
            assert other.recommend(exclude_seen=False).equals(made.recommend(exclude_seen=False))
            assert other.similar_items("item-3", by="image").equals(made.similar_items("item-3", by="image"))
            assert (other.model_config, other.training_config) == (config, SMALL)
        settings = yaml.safe_load((path / "config.yaml").read_text())
        assert "data" not in settings
        assert "synthetic" not in (path / "config.yaml").read_text()
        assert loaded.dataset.config is None
        assert loaded.dataset.facts == dataset.facts


def test_recommender_does_not_need_its_folder(own: Path, new_items: Any) -> None:
    recommender = Recommender.load(own)
    shutil.rmtree(own)
    assert len(recommender.recommend(["u2"], k=3)) == 3
    assert recommender.explain("u2", "sku/20").nearest["modality"].n_unique() == 2
    assert len(recommender.recommend_for_history({"somebody": ["sku/2"]}, k=3)) == 3
    assert len(recommender.similar_items("sku/20", by="image")) == 10
    grown = recommender.add_items(new_items("n0"))
    assert grown.recommend(["u2"], candidates=["n0"])["item"].to_list() == ["n0"]
    assert recommender.evaluate() == recommender.metrics["test"]
    grown.save(own.parent / "again")
    assert Recommender.load(own.parent / "again").items.ids[-1] == "n0"


def test_recommender_is_not_mixed_with_a_run_that_replaced_its_own(own: Path, cold_run: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(own)
    expected = recommender.recommend(["u2"])
    shutil.rmtree(own)
    shutil.copytree(cold_run, own)
    saved = recommender.save(tmp_path / "saved")
    assert Recommender.load(tmp_path / "saved").recommend(["u2"]).equals(expected)
    assert saved.recommend(["u2"]).equals(expected)


def test_unchanged_files_are_linked_and_the_source_is_left_alone(
    recommender: Recommender, cold_recommender: Recommender, grown: Recommender, grown_cold: Recommender, tmp_path: Path
) -> None:
    for name, source, more in (("plain", recommender, grown), ("cold", cold_recommender, grown_cold)):
        assert source.path is not None
        before, out = contents(source.path), tmp_path / name
        more.save(out)
        assert contents(source.path) == before
        assert contents(out).keys() == LINKED | NEW_FILES | {"metrics.json", "SHA256SUMS"}
        for file in before.keys() & contents(out).keys():
            assert (out / file).samefile(source.path / file) == (file in LINKED)
        loaded = Recommender.load(out)
        assert loaded.items.ids.equals(more.items.ids)
        assert torch.equal(loaded.vectors.item, more.vectors.item)
        assert torch.equal(loaded.vectors.item_layers, more.vectors.item_layers)
        assert new_item_edges(loaded.graph, "test") is None  # not all of the new items were held out
        # It has the metrics of the first run.
        assert loaded.metrics == source.metrics
        assert loaded.evaluate("valid") == source.evaluate("valid")
        assert Evaluator(loaded).buckets("test") == Evaluator(source).buckets("test")


def test_neither_run_depends_on_the_other(own: Path, text_shop: Path, new_items: Any, tmp_path: Path) -> None:
    second = tmp_path / "run2"
    data, config = DataConfig(data=str(text_shop)), LIRDRecConfig(embedding_dim=4)
    first = Recommender.load(own)
    before = contents(own)
    first.add_items(new_items("c")).save(second)
    assert os.path.samefile(own / "model.safetensors", second / "model.safetensors")
    first.add_items(new_items("a", "b")).save(second, overwrite=True)
    of_second = contents(second)
    # A new training in the first folder, then in the second.
    fit(data, config, SMALL, own, overwrite=True)
    assert contents(second) == of_second
    assert contents(own) != before
    before = contents(own)
    assert Recommender.load(second).items.ids.to_list()[80:] == ["a", "b"]
    fit(data, config, SMALL, second, overwrite=True)
    assert contents(own) == before
    assert not [name for name in contents(second) if name.startswith("new_")]


def test_files_are_copied_where_links_are_impossible(
    grown: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    grown.save(tmp_path / "run2")
    assert (tmp_path / "run2" / "model.safetensors").stat().st_nlink == 1
    np.testing.assert_array_equal(Recommender.load(tmp_path / "run2").item_vectors(), grown.item_vectors())


def test_run_of_symbolic_links_is_linked_to_its_files(own: Path, new_items: Any, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in own.iterdir():
        (linked / file.name).symlink_to(Path("..") / own.name / file.name)
    Recommender.load(linked).add_items(new_items("n0")).save(tmp_path / "deep" / "er" / "run2")
    assert "n0" in Recommender.load(tmp_path / "deep" / "er" / "run2").items.ids


def test_failed_save_leaves_nothing_or_the_earlier_run(
    grown: Recommender, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run)
    shutil.copytree(run, tmp_path / "earlier")
    for error in (OSError("No space left on device"), KeyboardInterrupt()):
        for step in ("run.save_graph", "run._link", "run.files.format_checksums"):

            def fail(*_: Any, error: BaseException = error) -> None:
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(f"lirdrec_pyg.recommender.{step}", fail)
                for name, overwrite in (("new", False), ("earlier", True)):
                    if step == "run._link" and isinstance(error, OSError):
                        continue  # would be copied
                    with pytest.raises(RunError if isinstance(error, OSError) else KeyboardInterrupt):
                        grown.save(tmp_path / name, overwrite)
            assert not (tmp_path / "new").exists()
            assert contents(tmp_path / "earlier") == before
    assert contents(run) == before
    with pytest.raises(RunError, match=r"earlier is not empty.*overwrite=True"):
        grown.save(tmp_path / "earlier")
    grown.save(tmp_path / "earlier", overwrite=True)
    assert "history.csv" not in contents(tmp_path / "earlier")
    assert Run.open(tmp_path / "earlier").verify()


def test_run_that_another_program_finishes_meanwhile_is_not_replaced(
    grown: Recommender, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = Run.locked

    @contextmanager
    def finished_before(path: Path) -> Iterator[None]:
        shutil.copytree(run, path)
        with locked(path):
            yield

    monkeypatch.setattr(Run, "locked", staticmethod(finished_before))
    with pytest.raises(RunError, match="is not empty"):
        grown.save(tmp_path / "run2")
    assert contents(tmp_path / "run2") == contents(run)


def test_run_is_not_saved_over_itself(own: Path, new_items: Any, tmp_path: Path) -> None:
    before = contents(own)
    (tmp_path / "link").symlink_to(own)
    grown = Recommender.load(own).add_items(new_items("a"))
    for path in (own, tmp_path / "link", own / ".." / own.name):
        for overwrite in (False, True):
            with pytest.raises(RunError):
                grown.save(path, overwrite)
            assert contents(own) == before


def test_run_is_replaced_by_a_recommender_whose_own_folder_is_gone(own: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(own)
    other = Path(shutil.copytree(own, tmp_path / "other"))
    shutil.rmtree(own)
    recommender.save(other, overwrite=True)
    assert Recommender.load(other).recommend().equals(recommender.recommend())


def test_folders_of_other_things_are_left_alone(grown: Recommender, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(RunError):
            grown.save(tmp_path, overwrite)
    with pytest.raises(RunError, match="is a file"):
        grown.save(tmp_path / "holiday.jpg" / "run2")
    assert contents(tmp_path) == {"holiday.jpg": b"precious"}
    (tmp_path / "used").mkdir()
    with FileLock(tmp_path / "used" / ".lock"), pytest.raises(RunError, match="in use"):
        grown.save(tmp_path / "used")


def test_another_catalog_is_saved(tmp_path: Path) -> None:
    fit(synthetic_data(40, 60), EASEConfig(), SMALL, tmp_path / "run")
    today = pl.DataFrame({"item_id": ["item-1"], "title": ["a scarf"]})
    Recommender.load(tmp_path / "run").with_catalog(today).save(tmp_path / "today")
    assert Recommender.load(tmp_path / "today").dataset.catalog.frame["title"].to_list() == ["a scarf"]
    assert len(Recommender.load(tmp_path / "run").dataset.catalog) == 60


def test_objects_show_themselves_in_short(tmp_path: Path) -> None:
    recommender = fit(synthetic_data(40, 60), EASEConfig(), SMALL)
    assert repr(recommender) == "Recommender(ease, 40 users, 60 items)"
    assert repr(recommender.dataset).startswith("Dataset(40 users, 60 items, ")
    run = Run(recommender.save(tmp_path / "<b>").path)
    assert repr(run) == f"Run('{tmp_path}/<b>')"
    metric = f"{recommender.metrics['test']['recall@20']:.4f}"
    for shown in (recommender, recommender.dataset, run):
        html = shown._repr_html_()
        assert html.startswith("<table>")
        assert "<b>" not in html
        assert (metric in html) == (shown is not recommender.dataset)
