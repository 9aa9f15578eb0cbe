"""New items: in memory, in several portions, and what cannot be added."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec_pyg import LIRDRecConfig, Recommender
from lirdrec_pyg.data import NewItems, Vocabulary, read_new_items
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.models import attach_items, attach_unclicked
from lirdrec_pyg.recommender import Evaluator

MakeNewItems = Callable[..., NewItems]

WIDTHS = {"image": 12, "text": 7}
NEW = ["n0", "n1", "n2", "n3"]
MISSING = {"image": [1], "text": [2]}


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


def assert_attached(grown: Recommender) -> None:
    vectors = grown.model.vectors(grown.graph)
    expected = attach_items(grown.model, grown.graph, vectors, grown.regression)
    expected = attach_unclicked(grown.model, grown.graph, expected, grown.regression)
    np.testing.assert_allclose(grown.item_vectors(), expected.item.numpy(), atol=1e-5)


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
    assert_attached(grown)


def test_saved_and_loaded_it_is_the_same(grown: Recommender, tmp_path: Path) -> None:
    grown.save(tmp_path / "run2")
    assert_same(Recommender.load(tmp_path / "run2"), grown)


def test_two_portions_make_what_one_makes(
    recommender: Recommender, grown: Recommender, new_items: MakeNewItems, tmp_path: Path
) -> None:
    recommender.add_items(new_items("n0", "n1", missing={"image": [1]})).save(tmp_path / "run2")
    second = new_items("n2", "n3", missing={"text": [0]})
    Recommender.load(tmp_path / "run2").add_items(second).save(tmp_path / "run3")
    shutil.rmtree(tmp_path / "run2")
    assert_same(Recommender.load(tmp_path / "run3"), grown, tolerance=1e-5)


def test_the_order_of_new_items_makes_no_difference(
    recommender: Recommender, grown: Recommender, new_items: MakeNewItems
) -> None:
    turned = recommender.add_items(new_items("n3", "n2", "n1", "n0", missing={"image": [2], "text": [1]}))
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
    half = recommender.add_items(new_items(*NEW, missing=MISSING, dtype=torch.float16))
    whole = recommender.add_items(new_items(*NEW, missing=MISSING))
    np.testing.assert_allclose(half.item_vectors(), whole.item_vectors(), atol=0.05)
    half.save(tmp_path / "run2")
    assert_same(Recommender.load(tmp_path / "run2"), half)
    assert_same(half.add_items(new_items("n9")), Recommender.load(tmp_path / "run2").add_items(new_items("n9")))


def test_new_items_are_evaluated_as_the_run_serves_them(cold_recommender: Recommender) -> None:
    assert cold_recommender.regression is not None
    other = replace(cold_recommender.regression, weight=-cold_recommender.regression.weight)  # of an earlier version
    served, opposite = (
        Evaluator(recommender).cold_start("test")["cold"]
        for recommender in (cold_recommender, replace(cold_recommender, regression=other))
    )
    assert served == cold_recommender.metrics["cold_start"]["test"]["cold"]
    assert served != opposite


def test_known_items_are_refused(recommender: Recommender, grown: Recommender, new_items: MakeNewItems) -> None:
    for owner, ids in ((recommender, ["n9", "12"]), (recommender, ["sku/3"]), (grown, ["n7", "n2"])):
        with pytest.raises(DataError, match=f"1 of the new items .* '{ids[-1]}'"):
            owner.add_items(new_items(*ids))


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


def test_2d_model_refuses_new_items(recommender: Recommender, new_items: MakeNewItems) -> None:
    with pytest.raises(ConfigError, match=r"dct='2d'.*dct='feature'"):
        replace(recommender, model_config=LIRDRecConfig(dct="2d")).add_items(new_items("a"))


def test_items_are_added_to_models_of_any_depth(
    train_run: Callable[..., Path], text_shop: Path, new_items: MakeNewItems, tmp_path: Path
) -> None:
    for number, options in enumerate(({"num_layers": 0, "num_item_layers": 2}, {"num_item_layers": 0}, {"knn_k": 1})):
        grown = Recommender.load(train_run(text_shop, **options)).add_items(new_items(*NEW, missing=MISSING))
        assert_attached(grown)
        grown.save(tmp_path / f"run{number}")
        assert_same(Recommender.load(tmp_path / f"run{number}"), grown)


def test_zeros_in_memory_may_stand_for_missing_features(recommender: Recommender, new_items: MakeNewItems) -> None:
    new = new_items("a", "b")
    zeros = {**new.features, "text": new.features["text"] * torch.tensor([[1.0], [0.0]])}
    with pytest.raises(DataError, match="all zeros in row 1"):
        recommender.add_items(zeros, ["a", "b"])
    with pytest.warns(UserWarning, match="text are missing for 1 of the 2"):
        grown = recommender.add_items(zeros, ["a", "b"], zero_features="missing")
    with pytest.raises(DataError, match="'b' has no features in text"):
        grown.similar_items("b", by="text")
    with pytest.raises(ConfigError, match="`ids` is for arrays"):
        recommender.add_items(new, ["a", "b"])


def test_features_in_memory_are_those_of_new_items(recommender: Recommender, new_items: MakeNewItems) -> None:
    new = new_items("n0", "n1", missing={"text": [1]})
    image, text = new.features["image"], new.features["text"]
    expected = recommender.add_items(new).item_vectors(["n0", "n1"])
    texts = pl.DataFrame({"item_id": ["n0"], "vector": text[:1].numpy()})
    for features, ids in (
        ({"image": {"n0": image[0], "n1": image[1].tolist()}, "text": {"n0": text[0].numpy()}}, None),
        ({"image": image.numpy(), "text": texts}, ["n0", "n1"]),
        ({"image": image, "text": texts.to_pandas()}, pl.Series(["n0", "n1"])),
    ):
        with pytest.warns(UserWarning, match=r"^Features of text are missing for 1 of the 2 new items\.$"):
            grown = recommender.add_items(features, ids)
        np.testing.assert_allclose(grown.item_vectors(["n0", "n1"]), expected, atol=1e-6)
    for features, ids, named in (
        ({"image": image}, None, "`features\\['image'\\]` has no item IDs. Pass them as `ids`"),
        ({"image": image}, ["a"], "2 rows, but `ids` lists 1"),
        ({"smell": image}, ["a", "b"], "`features` has 'smell', but the model was trained with image, text"),
        ({"image": {"a": image[0, :3]}}, None, "has 3 columns, but image had 12 in training"),
        ({"image": {"a": [np.nan] * 12}}, None, "all NaN in row 0"),
        ({"image": {"u1": image[0]}}, "u1", "item IDs are of type str"),
        ({}, None, "no features"),
        ([image], None, "not a mapping from modalities to features"),
    ):
        with pytest.raises(DataError, match=named):
            recommender.add_items(features, ids)


MISFITS: dict[str, Callable[[NewItems], object]] = {
    "image, text": lambda new: new.features.pop("text"),
    "smell": lambda new: new.features.update(smell=new.features["text"]),
    "x_image": lambda new: new.features.update(image=new.features["image"][:, :5]),
    "x_text": lambda new: new.features.update(text=new.features["text"][:1]),
    "x_text .*NaN": lambda new: new.features["text"].fill_(torch.nan),
    "all zeros in row 1": lambda new: new.features["text"][1].fill_(0),
    "floating-point": lambda new: new.features.update(text=new.features["text"].long()),
}


def test_features_that_do_not_fit_are_refused(recommender: Recommender, new_items: MakeNewItems) -> None:
    for named, change in MISFITS.items():
        new = new_items("a", "b")
        change(new)
        with pytest.raises(DataError, match=named):
            recommender.add_items(new)
    for ids in (["a"], ["a", "b", "c"]):
        new = new_items("a", "b")
        with pytest.raises(DataError, match=rf"{len(ids)} new item IDs"):
            recommender.add_items(NewItems(Vocabulary(pl.Series(ids), "item"), new.features, new.masks))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_items_are_added_on_a_gpu_as_on_the_cpu(
    run: Path, grown: Recommender, new_items: MakeNewItems, tmp_path: Path
) -> None:
    on_gpu = Recommender.load(run, device="cuda")
    for ids, missing in ((NEW[:2], {"image": [1]}), (NEW[2:], {"text": [0]})):
        on_gpu = on_gpu.add_items(new_items(*ids, missing=missing))
    np.testing.assert_allclose(on_gpu.item_vectors(), grown.item_vectors(), atol=1e-4)
    on_gpu.save(tmp_path / "run2")
    on_gpu = Recommender.load(tmp_path / "run2", device="cuda")
    assert on_gpu.similar_items("n1", 3)["item"].to_list() == grown.similar_items("n1", 3)["item"].to_list()
    assert on_gpu.explain("u3", "n0").nearest["item"].equals(grown.explain("u3", "n0").nearest["item"])
    on_gpu.recommend_for_history({"somebody": ["n0"]})


def test_omitted_modality_is_missing_for_all(recommender: Recommender, tmp_path: Path) -> None:
    path = tmp_path / "text.parquet"
    pl.DataFrame({"item_id": ["a", "b"], "vector": list(np.ones((2, 7), np.float32))}).write_parquet(path)
    grown = recommender.add_items(read_new_items({"text": path}, WIDTHS))
    with pytest.raises(DataError, match="'a' has no features in image"):
        grown.similar_items("a", by="image")
    assert grown.recommend(["u2"], candidates=["a", "b"])["item"].sort().to_list() == ["a", "b"]


def test_using_a_run_draws_no_random_numbers(run: Path, new_items: MakeNewItems) -> None:
    state = torch.random.get_rng_state()
    Recommender.load(run).add_items(new_items("n0"))
    assert torch.equal(torch.random.get_rng_state(), state)
