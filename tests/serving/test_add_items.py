"""New items: in memory, in a run folder, in several portions, and what can't be added."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import NewItems, Vocabulary, new_item_edges, read_new_items
from lirdrec_pyg.datasets import load_data
from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.models import attach_items
from lirdrec_pyg.serving import Recommender
from lirdrec_pyg.training import Run, RunEvaluator, fit

MakeNewItems = Callable[..., NewItems]
Snapshot = Callable[[Path], dict[str, bytes]]

WIDTHS = {"image": 12, "text": 7}
NEW = ["n0", "n1", "n2", "n3"]
LACKING = {"image": [1], "text": [2]}


def assert_same(a: Recommender, b: Recommender, tolerance: float = 0.0) -> None:
    assert a.items.ids.to_list() == b.items.ids.to_list()
    for name in ("user", "user_weight", "item", "item_layers"):
        torch.testing.assert_close(getattr(a.vectors, name), getattr(b.vectors, name), rtol=0, atol=tolerance)
    assert a.popularity.equal(b.popularity)
    user = a.users.ids[2]
    for item in a.items.ids.tail(4):
        for by in ("vectors", *WIDTHS):
            assert answer(a, item, by) == answer(b, item, by)
        assert a.explain(user, item).nearest.equals(b.explain(user, item).nearest)


def answer(recommender: Recommender, item: str, by: str) -> list[str] | str:
    try:
        return recommender.similar_items(item, 3, by)["item"].to_list()
    except DataError as error:
        return str(error)


def test_nothing_else_changes(recommender: Recommender, grown: Recommender) -> None:
    assert len(grown.items) == len(recommender.items) + 4
    assert grown.items.ids.head(80).equals(recommender.items.ids)
    np.testing.assert_array_equal(grown.user_vectors(), recommender.user_vectors())
    np.testing.assert_array_equal(grown.item_vectors()[:80], recommender.item_vectors())
    assert np.isfinite(grown.item_vectors()).all()
    with pytest.raises(DataError, match="'n0'"):
        recommender.item_vectors(["n0"])
    known = recommender.items.ids
    assert grown.recommend(["u2"], candidates=known).equals(recommender.recommend(["u2"]))


def test_vectors_are_those_of_the_models_own_attachment(grown: Recommender) -> None:
    vectors = grown.model.vectors(grown.graph)
    expected = attach_items(grown.model, grown.graph, vectors, grown.neighbourhood, grown.run.model_config().knn_k)
    np.testing.assert_allclose(grown.item_vectors(), expected.item.numpy(), atol=1e-6)


def test_saved_and_loaded_it_is_the_same(grown: Recommender, tmp_path: Path) -> None:
    grown.save(tmp_path / "run2")
    assert_same(Recommender.load(tmp_path / "run2"), grown)


def test_two_portions_make_what_one_makes(
    recommender: Recommender, grown: Recommender, new_items: MakeNewItems, tmp_path: Path
) -> None:
    recommender.add_items(new_items("n0", "n1", lacking={"image": [1]})).save(tmp_path / "run2")
    second = new_items("n2", "n3", lacking={"text": [0]})
    Recommender.load(tmp_path / "run2").add_items(second).save(tmp_path / "run3")
    shutil.rmtree(tmp_path / "run2")
    assert_same(Recommender.load(tmp_path / "run3"), grown, tolerance=1e-5)


def test_the_order_of_new_items_makes_no_difference(
    recommender: Recommender, grown: Recommender, new_items: MakeNewItems
) -> None:
    turned = recommender.add_items(new_items("n3", "n2", "n1", "n0", lacking={"image": [2], "text": [1]}))
    np.testing.assert_allclose(turned.item_vectors(NEW), grown.item_vectors(NEW), atol=1e-5)


def test_a_new_item_with_the_features_of_another_is_like_it(recommender: Recommender) -> None:
    x = {modality: recommender.graph["item"][f"x_{modality}"][20:21] for modality in WIDTHS}
    twin = NewItems(Vocabulary(pl.Series(["twin"]), "item"), x, {})
    grown = recommender.add_items(twin)
    for modality in WIDTHS:
        best = grown.similar_items("twin", 1, modality)
        assert best["item"].to_list() == recommender.items.ids.gather([20]).to_list()
        np.testing.assert_allclose(best["cosine"], 1, atol=1e-5)


def test_half_precision_features_can_be_added(
    recommender: Recommender, new_items: MakeNewItems, tmp_path: Path
) -> None:
    half = recommender.add_items(new_items(*NEW, lacking=LACKING, dtype=torch.float16))
    whole = recommender.add_items(new_items(*NEW, lacking=LACKING))
    np.testing.assert_allclose(half.item_vectors(), whole.item_vectors(), atol=0.05)
    half.save(tmp_path / "run2")
    assert_same(Recommender.load(tmp_path / "run2"), half)
    assert_same(half.add_items(new_items("n9")), Recommender.load(tmp_path / "run2").add_items(new_items("n9")))


def test_the_run_stays_as_it_is_whatever_becomes_of_the_second(
    run: Path, text_shop: Path, new_items: MakeNewItems, tmp_path: Path, snapshot: Snapshot
) -> None:
    first, second = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "run2"
    before = snapshot(first)
    Recommender.load(first).add_items(new_items("a", "b")).save(second)
    assert os.path.samefile(first / "model.safetensors", second / "model.safetensors")
    assert snapshot(first) == before
    Recommender.load(first).add_items(new_items("c")).save(second, overwrite=True)
    assert snapshot(first) == before
    assert Recommender.load(second).items.ids.to_list()[80:] == ["c"]
    data = DataConfig(data=str(text_shop))
    training = TrainingConfig(epochs=1, device="cpu")
    fit(load_data(data), second, data, LIRDRecConfig(embedding_dim=4), training, overwrite=True)
    assert snapshot(first) == before
    assert not [name for name in snapshot(second) if name.startswith("new_")]
    shutil.rmtree(second)
    assert snapshot(first) == before


def test_the_second_run_stays_as_it_is_whatever_becomes_of_the_first(
    run: Path, text_shop: Path, new_items: MakeNewItems, tmp_path: Path, snapshot: Snapshot
) -> None:
    first, second = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "run2"
    Recommender.load(first).add_items(new_items("a", "b")).save(second)
    before = snapshot(second)
    data = DataConfig(data=str(text_shop))
    fit(load_data(data), first, data, LIRDRecConfig(), TrainingConfig(epochs=1, device="cpu"), overwrite=True)
    assert snapshot(second) == before
    shutil.rmtree(first)
    assert snapshot(second) == before
    assert Recommender.load(second).items.ids.to_list()[80:] == ["a", "b"]


def test_the_second_run_has_the_figures_of_the_first(run: Path, grown: Recommender, tmp_path: Path) -> None:
    grown.save(tmp_path / "run2")
    saved = json.loads((run / "metrics.json").read_text())
    evaluator = RunEvaluator(tmp_path / "run2", "cpu")
    assert evaluator.run.metrics() == saved
    assert evaluator.metrics("val") == saved["valid"]
    assert evaluator.metrics("test") == saved["test"]
    assert evaluator.buckets("test") == RunEvaluator(run, "cpu").buckets("test")


def test_items_are_added_to_a_run_that_held_items_out(cold_run: Path, new_items: MakeNewItems, tmp_path: Path) -> None:
    before = Recommender.load(cold_run)
    after = before.add_items(new_items("n0", "n1", lacking={"text": [1]}))
    np.testing.assert_array_equal(after.item_vectors(before.items.ids), before.item_vectors())
    after.save(tmp_path / "run2")
    assert_same(Recommender.load(tmp_path / "run2"), after)
    first, second = RunEvaluator(cold_run, "cpu"), RunEvaluator(tmp_path / "run2", "cpu")
    assert second.metrics("test") == first.metrics("test")
    assert new_item_edges(first.data, "test") is not None
    assert new_item_edges(second.data, "test") is None  # not all of its new items were held out


@pytest.mark.parametrize("ids", [["n9", "12"], ["sku/3"]])
def test_items_that_are_known_are_refused(recommender: Recommender, new_items: MakeNewItems, ids: list[str]) -> None:
    with pytest.raises(DataError, match=f"1 of the new items .* '{ids[-1]}'"):
        recommender.add_items(new_items(*ids))


def test_an_item_can_be_added_once_only(grown: Recommender, new_items: MakeNewItems) -> None:
    with pytest.raises(DataError, match="'n2'"):
        grown.add_items(new_items("n7", "n2"))


def test_text_and_integer_ids_can_be_mixed(
    recommender: Recommender, int_recommender: Recommender, new_items: MakeNewItems, tmp_path: Path
) -> None:
    # Integers to texts: 12 is known as "12", 7 and "0007" are not.
    with pytest.raises(DataError, match="12"):
        recommender.add_items(new_items(12))
    recommender.add_items(new_items(7)).add_items(new_items("0007")).save(tmp_path / "text")
    assert Recommender.load(tmp_path / "text").items.ids.to_list()[80:] == ["7", "0007"]
    # Texts to integers: all become texts.
    with pytest.raises(DataError, match="-5"):
        int_recommender.add_items(new_items("x", "-5"))
    integers = int_recommender.add_items(new_items(1000))
    assert integers.items.ids.dtype == pl.Int64
    mixed = integers.add_items(new_items("x", "007"))
    mixed.save(tmp_path / "mixed")
    again = Recommender.load(tmp_path / "mixed")
    assert again.items.ids.to_list()[-4:] == ["294", "1000", "x", "007"]
    assert_same(again, mixed)
    np.testing.assert_array_equal(again.item_vectors([7]), int_recommender.item_vectors([7]))
    np.testing.assert_array_equal(again.item_vectors([1000]), integers.item_vectors(["1000"]))
    assert again.recommend([100], k=3, candidates=["x", "007", "5"])["item"].n_unique() == 3


def test_a_2d_model_says_why_it_takes_no_new_items(
    train_run: Callable[..., Path], text_shop: Path, new_items: MakeNewItems
) -> None:
    with pytest.raises(ConfigError, match=r"--dct 2d.*--dct feature"):
        Recommender.load(train_run(text_shop, dct="2d")).add_items(new_items("a"))


@pytest.mark.parametrize("options", [{"num_layers": 0, "num_item_layers": 2}, {"num_item_layers": 0}, {"knn_k": 1}])
def test_items_are_added_to_models_of_any_depth(
    train_run: Callable[..., Path], text_shop: Path, new_items: MakeNewItems, tmp_path: Path, options: dict[str, int]
) -> None:
    grown = Recommender.load(train_run(text_shop, **options)).add_items(new_items(*NEW, lacking=LACKING))
    vectors = grown.model.vectors(grown.graph)
    expected = attach_items(grown.model, grown.graph, vectors, grown.neighbourhood, grown.run.model_config().knn_k)
    np.testing.assert_allclose(grown.item_vectors(), expected.item.numpy(), atol=1e-5)
    grown.save(tmp_path / "run2")
    assert_same(Recommender.load(tmp_path / "run2"), grown)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda new: new.features.pop("text"), "image, text"),
        (lambda new: new.features.update(smell=new.features["text"]), "smell"),
        (lambda new: new.features.update(image=new.features["image"][:, :5]), "x_image"),
        (lambda new: new.features.update(text=new.features["text"][:1]), "x_text"),
        (lambda new: new.features["text"].fill_(torch.nan), "x_text"),
        (lambda new: new.features["text"][1].fill_(0), "all zeros in row 1"),
        (lambda new: new.features.update(text=new.features["text"].long()), "floating-point"),
    ],
    ids=["missing", "unknown", "width", "rows", "nan", "zeros", "integers"],
)
def test_features_that_do_not_fit_are_refused(
    recommender: Recommender, new_items: MakeNewItems, change: Callable[[NewItems], object], named: str
) -> None:
    new = new_items("a", "b")
    change(new)
    with pytest.raises(DataError, match=named):
        recommender.add_items(new)


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"]])
def test_as_many_ids_as_features_are_needed(recommender: Recommender, new_items: MakeNewItems, ids: list[str]) -> None:
    new = new_items("a", "b")
    with pytest.raises(DataError):
        recommender.add_items(NewItems(Vocabulary(pl.Series(ids), "item"), new.features, new.masks))


def test_a_run_is_not_saved_over_itself(run: Path, new_items: MakeNewItems, tmp_path: Path, snapshot: Snapshot) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    before = snapshot(own)
    (tmp_path / "link").symlink_to(own)
    grown = Recommender.load(own).add_items(new_items("a"))
    for path in (own, tmp_path / "link", own / ".." / "run"):
        for overwrite in (False, True):
            with pytest.raises(RunError):
                grown.save(path, overwrite)
            assert snapshot(own) == before


def test_a_folder_in_use_is_left_alone(grown: Recommender, tmp_path: Path, snapshot: Snapshot) -> None:
    (tmp_path / "holiday.jpg").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(RunError):
            grown.save(tmp_path, overwrite)
    assert snapshot(tmp_path) == {"holiday.jpg": b"precious"}
    with pytest.raises(RunError, match="is a file"):
        grown.save(tmp_path / "holiday.jpg" / "run2")


def test_without_new_items_there_is_nothing_to_save(recommender: Recommender, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no new items"):
        recommender.save(tmp_path / "run2")
    assert not (tmp_path / "run2").exists()


def test_a_save_that_fails_leaves_nothing_or_the_earlier_run(
    grown: Recommender,
    recommender: Recommender,
    new_items: MakeNewItems,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    snapshot: Snapshot,
) -> None:
    recommender.add_items(new_items("a")).save(tmp_path / "run2")
    before = snapshot(tmp_path)

    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lirdrec_pyg.training.run.save_graph", full_disk)
    for path, overwrite in ((tmp_path / "run2", True), (tmp_path / "run3", False)):
        with pytest.raises(RunError, match="No space left"):
            grown.save(path, overwrite)
        assert snapshot(tmp_path) == before
    assert not (tmp_path / "run3").exists()


def test_where_there_are_no_links_files_are_copied(
    grown: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    grown.save(tmp_path / "run2")
    assert (tmp_path / "run2" / "model.safetensors").stat().st_nlink == 1
    assert_same(Recommender.load(tmp_path / "run2"), grown)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_items_are_added_on_a_gpu_as_on_the_cpu(
    run: Path, grown: Recommender, new_items: MakeNewItems, tmp_path: Path
) -> None:
    on_gpu = Recommender.load(run, device="cuda")
    for ids, lacking in ((NEW[:2], {"image": [1]}), (NEW[2:], {"text": [0]})):
        on_gpu = on_gpu.add_items(new_items(*ids, lacking=lacking))
    np.testing.assert_allclose(on_gpu.item_vectors(), grown.item_vectors(), atol=1e-4)
    on_gpu.save(tmp_path / "run2")
    on_gpu = Recommender.load(tmp_path / "run2", device="cuda")
    assert on_gpu.similar_items("n1", 3)["item"].to_list() == grown.similar_items("n1", 3)["item"].to_list()
    assert on_gpu.explain("u3", "n0").nearest["item"].equals(grown.explain("u3", "n0").nearest["item"])
    on_gpu.recommend_for_history({"somebody": ["n0"]})


def write(folder: Path, modality: str, ids: list[str], x: np.ndarray | None = None) -> Path:
    x = np.ones((len(ids), WIDTHS[modality])) if x is None else x
    path = folder / f"new_{modality}.parquet"
    pl.DataFrame({"item_id": ids, "vector": list(x.astype(np.float32))}).write_parquet(path)
    return path


def test_new_items_are_those_that_any_file_has(tmp_path: Path) -> None:
    files = {"image": write(tmp_path, "image", ["a", "b"]), "text": write(tmp_path, "text", ["c", "b"])}
    new = read_new_items(files, WIDTHS)
    assert new.ids.ids.to_list() == ["a", "b", "c"]
    assert new.masks["image"].tolist() == [True, True, False]
    assert new.masks["text"].tolist() == [False, True, True]


def test_listed_ids_are_the_new_items_and_name_the_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.arange(24.0, dtype=np.float32).reshape(2, 12) + 1)
    (tmp_path / "ids.txt").write_text("b\na\n")
    files = {"image": tmp_path / "image.npy", "text": write(tmp_path, "text", ["c", "a"])}
    new = read_new_items(files, WIDTHS, tmp_path / "ids.txt")
    assert new.ids.ids.to_list() == ["b", "a"]
    assert new.features["image"][:, 0].tolist() == [1, 13]
    assert new.masks["text"].tolist() == [False, True]


def test_a_modality_left_out_is_missing_for_all(recommender: Recommender, tmp_path: Path) -> None:
    new = read_new_items({"text": write(tmp_path, "text", ["a", "b"])}, WIDTHS)
    grown = recommender.add_items(new)
    with pytest.raises(DataError, match="'a' has no features in image"):
        grown.similar_items("a", by="image")
    assert grown.recommend(["u2"], candidates=["a", "b"])["item"].sort().to_list() == ["a", "b"]


def test_zero_rows_are_errors_or_missing(tmp_path: Path) -> None:
    x = np.ones((2, 12))
    x[1] = 0
    files = {"image": write(tmp_path, "image", ["a", "b"], x)}
    with pytest.raises(DataError, match="all zeros in row 1"):
        read_new_items(files, WIDTHS)
    with pytest.raises(DataError, match="'b' has no features in any modality"):
        read_new_items(files, WIDTHS, zero_features="missing")
    files["text"] = write(tmp_path, "text", ["a", "b"])
    assert read_new_items(files, WIDTHS, zero_features="missing").masks["image"].tolist() == [True, False]


def test_a_derived_run_is_opened_as_any_other(grown: Recommender, tmp_path: Path) -> None:
    grown.save(tmp_path / "run2")
    opened = Run.open(tmp_path / "run2")
    assert opened.verify()
    assert opened.new_items().ids.to_list() == NEW
    assert len(opened.items()) == 80


def test_items_are_added_to_a_run_that_was_cut_off(
    run: Path, recommender: Recommender, new_items: MakeNewItems, tmp_path: Path
) -> None:
    cut = Path(shutil.copytree(run, tmp_path / "cut"))
    for name in ("SHA256SUMS", "metrics.json", "vectors.safetensors", "neighbourhood.safetensors"):
        (cut / name).unlink()
    with pytest.warns(UserWarning, match="cut off"):
        Recommender.load(cut).add_items(new_items("n0")).save(tmp_path / "run2")
    again, expected = Recommender.load(tmp_path / "run2"), recommender.add_items(new_items("n0"))
    np.testing.assert_allclose(again.item_vectors(), expected.item_vectors(), atol=1e-5)


def test_a_run_of_symbolic_links_can_be_added_to(run: Path, new_items: MakeNewItems, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    shutil.copytree(run, tmp_path / "store")
    linked.mkdir()
    for file in (tmp_path / "store").iterdir():
        (linked / file.name).symlink_to(Path("..") / "store" / file.name)
    Recommender.load(linked).add_items(new_items("n0")).save(tmp_path / "deep" / "er" / "run2")
    assert "n0" in Recommender.load(tmp_path / "deep" / "er" / "run2").items.ids


def test_using_a_run_draws_no_random_numbers(run: Path, new_items: MakeNewItems) -> None:
    state = torch.random.get_rng_state()
    Recommender.load(run).add_items(new_items("n0"))
    assert torch.equal(torch.random.get_rng_state(), state)
