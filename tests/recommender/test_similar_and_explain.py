"""Similar items and explanations, against numpy."""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec_pyg import Dataset, TrainingConfig, fit
from lirdrec_pyg.data import INTERACTS, NEW_ITEM, build_graph, feature_mask, item_features, modalities
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.models import BPRMFConfig, EASEConfig, LightGCNConfig, PopularityConfig
from lirdrec_pyg.recommender import Recommender


def raw_features(recommender: Recommender, modality: str) -> np.ndarray:
    """Return the features of all items, NaN where an item has none."""
    found = []
    stores = ["item", NEW_ITEM] if len(recommender.items) > recommender.num_trained_items else ["item"]
    for store in stores:
        x = item_features(recommender.graph, modality, store).double().numpy().copy()
        mask = feature_mask(recommender.graph, modality, store)
        if mask is not None:
            x[~mask.numpy()] = np.nan
        found.append(x)
    return np.concatenate(found)


def cosines(x: np.ndarray, row: int) -> np.ndarray:
    x = x.astype(np.float64)
    return x @ x[row] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[row])


def assert_nearest(frame: pl.DataFrame, cosine: dict[int | str, float], k: int) -> None:
    """Check that ``frame`` holds the ``k`` largest of ``cosine``, without NaN."""
    real = sorted((c for c in cosine.values() if not np.isnan(c)), reverse=True)[:k]
    assert frame["item"].n_unique() == len(frame)
    np.testing.assert_allclose(frame["cosine"], real, atol=1e-5)
    np.testing.assert_allclose(frame["cosine"], [cosine[i] for i in frame["item"]], atol=1e-5)


def test_similar_items_are_those_of_numpy(grown: Recommender) -> None:
    ids = grown.items.ids.to_list()
    for item, by, k in itertools.product(
        ("12", "0012", "sku/20", "sku/10", "n0", "n2"), ("vectors", "image", "text"), (1, 10, 500)
    ):
        x = grown.item_vectors() if by == "vectors" else raw_features(grown, by)
        cosine = dict(zip(ids, cosines(x, ids.index(item)), strict=True))
        if np.isnan(cosine.pop(item)):
            with pytest.raises(DataError, match=rf"'{item}' has no features in {by}"):
                grown.similar_items(item, k, by)
            continue
        frame = grown.similar_items(item, k, by)
        assert_nearest(frame, cosine, k)
        assert frame["rank"].to_list() == list(range(1, len(frame) + 1))
        assert frame.schema == {"item": pl.String, "rank": pl.Int32, "cosine": pl.Float32}


def test_items_without_a_modality_are_similar_to_none_by_it(grown: Recommender) -> None:
    missing = {*(f"sku/{n}" for n in range(3, 9)), "n1"}
    assert set(grown.similar_items("n0", 500, "image")["item"]) == set(grown.items.ids) - missing - {"n0"}
    for item in missing:
        with pytest.raises(DataError, match="no features in image"):
            grown.similar_items(item, by="image")


def test_an_order_of_items_that_are_all_alike_is_refused() -> None:
    x = {"image": np.full((4, 3), 0.3), "text": np.eye(4)}
    graph = build_graph(np.array([[0, 0, 1, 1], [0, 1, 2, 3]]), x)
    dataset = Dataset.from_graph(graph, items=["a", "b", "c", "d"])
    found = fit(dataset, BPRMFConfig(embedding_dim=2), TrainingConfig(epochs=1))
    found = replace(found, vectors=replace(found.vectors, item=torch.tensor([[0.1, 0.2]]).repeat(4, 1)))
    for by in ("vectors", "image"):
        with pytest.raises(DataError, match=rf"By {by}, all items are equally similar to 'b' \(cosine 1\.0000\).*`by`"):
            found.similar_items("b", by=by)
    with pytest.raises(DataError, match=r"By vectors, no item is more similar .* `by`"):
        list(found.similar_items_blocks(2))
    popularity = fit(dataset, PopularityConfig())
    for listed in (lambda: popularity.similar_items("b"), lambda: popularity.similar_items_blocks(2)):
        with pytest.raises(ConfigError, match=r"`model='popularity'` gives each item a number, not.*image, text"):
            listed()
    graph["item"].x_text[3] = 2
    assert found.similar_items("b", by="text")["cosine"].to_list() == [0.5, 0, 0]


@pytest.mark.parametrize("by", ["vectors", "image"])
@pytest.mark.parametrize("k", [1, 500])
def test_all_similar_items_are_those_of_each_item(grown: Recommender, by: str, k: int) -> None:
    expected, skipped = {}, set()
    for item in grown.items.ids:
        try:
            expected[item] = grown.similar_items(item, k, by)
        except DataError:
            skipped.add(item)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = pl.concat(grown.similar_items_blocks(k, by))
    assert bool(skipped) == (by == "image")
    assert [str(w.message) for w in caught] == ["7 of 84 items are skipped: 7 have no features in image."] * bool(
        skipped
    )
    assert frame.columns == ["item", "similar_item", "rank", "cosine"]
    assert frame["item"].unique(maintain_order=True).to_list() == list(expected)
    for (item,), mine in frame.group_by("item"):
        assert mine["rank"].to_list() == expected[item]["rank"].to_list()
        np.testing.assert_allclose(mine["cosine"], expected[item]["cosine"], atol=1e-6)
        assert set(mine["similar_item"]) == set(expected[item]["item"])


def test_items_that_are_as_similar_to_all_are_skipped_and_counted() -> None:
    x = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    graph = build_graph(np.array([[0, 0, 1, 1, 1], [0, 1, 2, 3, 4]]), {"text": x})
    found = fit(Dataset.from_graph(graph, items=list("abcde")), PopularityConfig())
    with pytest.warns(UserWarning, match="^2 of 5 items are skipped: 2 are equally similar to all others"):
        frame = pl.concat(found.similar_items_blocks(2, "text"))
    assert frame["item"].to_list() == list("bbccdd")


def test_unknown_names_are_refused(recommender: Recommender) -> None:
    with pytest.raises(ConfigError, match=r"'smell'.*'vectors'.*image, text"):
        recommender.similar_items("12", by="smell")
    with pytest.raises(DataError, match="'x'"):
        recommender.similar_items("x")
    with pytest.raises(DataError, match="1200"):
        recommender.similar_items(1200)
    with pytest.raises(DataError, match="'x'"):
        recommender.explain("x", "12")
    with pytest.raises(DataError, match="'x'"):
        recommender.explain("u3", "x")


def test_integer_ids_may_be_given_as_text(int_recommender: Recommender) -> None:
    assert int_recommender.similar_items("-5").equals(int_recommender.similar_items(-5))
    assert int_recommender.similar_items(-5).schema["item"] == pl.Int64
    assert int_recommender.explain("100", "-5").score == int_recommender.explain(100, -5).score


def history(recommender: Recommender, user: str) -> list[str]:
    edges = recommender.graph[INTERACTS].edge_index.numpy()
    row = recommender.users.ids.to_list().index(user)
    return recommender.items.ids.gather(edges[1, edges[0] == row]).to_list()


@given(st.integers(0, 49), st.integers(0, 83), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_explanations_of_any_pair(grown: Recommender, row: int, column: int, num_nearest: int) -> None:
    user, item = grown.users.ids[row], grown.items.ids[column]
    explanation = grown.explain(user, item, num_nearest)
    np.testing.assert_allclose(explanation.score, grown.score([user], [item])[0], atol=1e-5)

    items = explanation.items
    assert items.schema == {"item": pl.String, "part": pl.Float64, "share": pl.Float64}
    assert set(items["item"]) == set(history(grown, user))
    assert items["part"].is_sorted(descending=True)
    parts = np.append(items["part"], explanation.user_part)
    np.testing.assert_allclose(parts.sum(), explanation.score, rtol=1e-9)
    shares = np.append(items["share"], explanation.user_share)
    np.testing.assert_allclose(shares, parts / abs(parts).sum(), rtol=1e-6)

    branches = explanation.branches
    assert branches.schema == {"branch": pl.String, "weight": pl.Float32, "part": pl.Float64}
    assert branches["branch"].to_list() == [*modalities(grown.graph), "shared"]
    np.testing.assert_allclose(branches["part"].sum(), explanation.score, atol=1e-5)
    np.testing.assert_allclose(branches["weight"].sum(), 1, atol=1e-5)
    assert (branches["weight"] > 0).all()
    u, v = (x.astype(np.float64).reshape(3, 8) for x in (grown.user_vectors([user]), grown.item_vectors([item])))
    np.testing.assert_allclose(branches["part"], (u * v).sum(axis=1), atol=1e-6)

    nearest = explanation.nearest
    assert nearest.schema == {"modality": pl.String, "item": pl.String, "cosine": pl.Float32}
    ids, own = grown.items.ids.to_list(), history(grown, user)
    for modality in modalities(grown.graph):
        cosine = dict(zip(ids, cosines(raw_features(grown, modality), column), strict=True))
        mine = nearest.filter(pl.col("modality") == modality)
        assert set(mine["item"]) <= set(own)
        assert_nearest(mine, {i: cosine[i] for i in own if i != item}, num_nearest)


def test_an_item_of_the_user_is_not_nearest_to_itself(recommender: Recommender) -> None:
    own = history(recommender, "u3")
    for item in own:
        nearest = recommender.explain("u3", item, 99).nearest
        assert set(nearest["item"]) <= {*own} - {item}
        assert nearest["cosine"].max() < 0.999


def test_user_without_training_interactions_has_no_nearest_items(recommender: Recommender) -> None:
    explanation = recommender.explain("u47", "12")
    assert explanation.nearest.is_empty()
    assert explanation.nearest.schema == recommender.explain("u3", "12").nearest.schema


def test_impossible_number_of_nearest_items_is_refused(recommender: Recommender) -> None:
    for nearest in (-1, 2.0):
        with pytest.raises(ConfigError, match=f"`nearest` is {nearest}. It must be an integer of at least 0"):
            recommender.explain("u3", "12", nearest=nearest)


def test_weights_scale_the_users_branches(recommender: Recommender) -> None:
    """The vector of a user is the result of the propagation times the weight of the branch."""
    model, graph = recommender.model, recommender.graph
    x_user, _ = model.bipartite_conv(*model._inputs(graph))
    user = recommender.users.ids.to_list().index("u3")
    weight = recommender.explain("u3", "12").branches["weight"].to_numpy()
    expected = weight[:, None] * x_user[user].detach().numpy().reshape(3, 8)
    np.testing.assert_allclose(recommender.user_vectors(["u3"])[0], expected.ravel(), atol=1e-6)


def test_reasons_of_a_table_are_those_of_each_row(grown: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.recommender.explain._BLOCK_PARTS", 100)  # several blocks
    users = [*grown.users.ids[::3], "u47", "stranger"]  # one without training interactions, and one unknown
    with pytest.warns(UserWarning, match="popular items"):
        frame = grown.recommend(users, k=3, exclude_seen=False, fallback="popular")
    found = grown.because(frame.sample(fraction=1, shuffle=True, seed=0), count=4)
    assert found.columns == [*frame.columns, *(f"because_{n}{x}" for n in range(1, 5) for x in ("", "_share"))]
    assert found.select(frame.columns).sort("user", "rank").equals(frame.sort("user", "rank"))
    num_reasons = set()
    for row in found.iter_rows(named=True):
        if row["user"] == "stranger":
            expected = []
        else:
            items = grown.explain(row["user"], row["item"]).items
            expected = items.filter((pl.col("part") > 0) & (pl.col("item") != row["item"]))[:4].rows()
        num_reasons.add(len(expected))
        padded = [*expected, *[(None, None, None)] * (4 - len(expected))]
        for n, (item, _, share) in enumerate(padded, start=1):
            assert row[f"because_{n}"] == item
            assert row[f"because_{n}_share"] == (share if share is None else pytest.approx(share, rel=1e-5))
    assert {0, 4} <= num_reasons


def test_reasons_with_later_items(recommender: Recommender) -> None:
    later = {"new": ["12", "sku/20"], "u3": ["sku/40"]}
    frame = recommender.recommend_for_history(later, k=10)
    found = recommender.because(frame, 20, later)
    for user, items in {"new": later["new"], "u3": [*history(recommender, "u3"), "sku/40"]}.items():
        mine = found.filter(pl.col("user") == user)
        reasons = mine.select(f"because_{n}" for n in range(1, 21)).to_numpy()
        assert set(reasons[reasons != None]) == set(items)  # noqa: E711
    # A new user is nothing but these items.
    shares = found.filter(pl.col("user") == "new").select(f"because_{n}_share" for n in range(1, 21)).sum_horizontal()
    assert (shares > 0.4).all()
    assert shares.max() == pytest.approx(1)


def test_models_that_weight_the_items_of_a_user_explain_without_branches(recommender: Recommender) -> None:
    ease = fit(recommender.dataset, EASEConfig())
    frame = ease.recommend(["u3"], k=5)
    for item, score in frame.select("item", "score").rows():
        explanation = ease.explain("u3", item)
        assert explanation.score == pytest.approx(score)
        assert explanation.items["part"].sum() == pytest.approx(score)
        assert explanation.user_part == 0
        assert explanation.branches.is_empty()
        assert len(explanation.nearest) > 2
    assert ease.because(frame)["because_1"].null_count() == 0


def test_columns_of_the_catalog_are_added(recommender: Recommender) -> None:
    ids = recommender.items.ids.to_list()
    named = recommender.with_catalog(pl.DataFrame({"id": ids, "title": [f"The {i}" for i in ids], "rank": 1}))

    def titles(column: pl.Series) -> list[str]:
        return [f"The {i}" for i in column]

    similar = named.similar_items("12", 4, columns=["title"])
    assert similar.columns == ["item", "rank", "cosine", "title"]
    assert similar["title"].to_list() == titles(similar["item"])
    every = pl.concat(named.similar_items_blocks(2, columns=["title"]))
    assert every["item_title"].to_list() == titles(every["item"])
    assert every["similar_item_title"].to_list() == titles(every["similar_item"])
    explanation = named.explain("u3", "12", columns=["title"])
    for frame in (explanation.items, explanation.nearest):
        assert frame["title"].to_list() == titles(frame["item"])
    found = named.because(named.recommend(["u3"], k=5), count=1)
    assert found.columns[-3:] == ["because_1", "because_1_title", "because_1_share"]
    assert found["because_1_title"].to_list() == titles(found["because_1"])
    for refused in (named.similar_items, lambda item, columns: named.explain("u3", item, columns=columns)):
        with pytest.raises(ConfigError, match=r"`columns` has 'price'.*'title'"):
            refused("12", columns=["price"])
    with pytest.raises(ConfigError, match="`columns` has 'rank', which every result has"):
        named.similar_items("12", columns=["rank"])


def test_tables_that_cannot_be_explained_are_refused(recommender: Recommender) -> None:
    frame = recommender.recommend(["u3"], k=2)
    with pytest.raises(DataError, match=r"no column 'item' .*'user'.*`Recommender.recommend`"):
        recommender.because(frame.drop("item"))
    with pytest.raises(DataError, match="'x'"):
        recommender.because(frame.with_columns(item=pl.lit("x")))
    with pytest.raises(ConfigError, match="`count` is 0"):
        recommender.because(frame, 0)
    with pytest.raises(ConfigError, match="does not support explanations"):
        fit(recommender.dataset, LightGCNConfig(), TrainingConfig(epochs=1, device="cpu")).because(frame)
    assert recommender.because(frame[:0]).columns[-2:] == ["because_2", "because_2_share"]
