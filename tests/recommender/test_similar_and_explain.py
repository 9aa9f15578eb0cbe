"""Similar items and explanations, against numpy."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec_pyg import Dataset, fit
from lirdrec_pyg.data import INTERACTS, NEW_ITEM, build_graph, feature_mask, item_features, modalities
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.models import PopularityConfig
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
    found = fit(Dataset.from_graph(graph, items=["a", "b", "c", "d"]), PopularityConfig())
    for by in ("vectors", "image"):
        with pytest.raises(DataError, match=rf"By {by}, all items are equally similar to 'b' \(cosine 1\.0000\).*`by`"):
            found.similar_items("b", by=by)
    graph["item"].x_text[3] = 2
    assert found.similar_items("b", by="text")["cosine"].to_list() == [0.5, 0, 0]


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
