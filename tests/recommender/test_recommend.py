"""Recommendations against scores of all pairs."""

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from all_scores import all_scores, items_by_user, seen_by_user, trained_by_user
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec_pyg import Dataset, fit
from lirdrec_pyg.data import HELD_OUT, build_graph
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.models import PopularityConfig
from lirdrec_pyg.recommender import Recommender

CheckTopK = Callable[..., None]

SCHEMA = {"user": pl.String, "item": pl.String, "rank": pl.Int32, "score": pl.Float32}
UNTRAINED = ["u46", "u47", "u48", "u49"]


@pytest.fixture(scope="module")
def trained(recommender: Recommender) -> list[str]:
    """Users with training interactions."""
    return [user for user, items in trained_by_user(recommender).items() if items]


def test_all_users_get_the_best_of_all_items(recommender: Recommender, assert_best: CheckTopK) -> None:
    for k, exclude_seen in ((1, False), (7, True), (80, False), (1000, True)):
        with pytest.warns(UserWarning, match="4 of 50 users .* no training interactions"):
            frame = recommender.recommend(k=k, exclude_seen=exclude_seen)
        assert_best(frame, all_scores(recommender, exclude_seen), k)
        assert frame.schema == SCHEMA


def test_integer_ids_and_a_catalog_large_enough_for_the_search_by_chunks(
    int_recommender: Recommender, assert_best: CheckTopK
) -> None:
    scores = all_scores(int_recommender, True)
    for k in (1, 5):
        frame = int_recommender.recommend(list(scores), k=k)
        assert_best(frame, scores, k)
        assert frame.schema == SCHEMA | {"user": pl.Int64, "item": pl.Int64}


def test_new_items_are_ranked_with_all_others(grown: Recommender, trained: list[str], assert_best: CheckTopK) -> None:
    frame = grown.recommend(trained, k=84, exclude_seen=False)
    assert_best(frame, all_scores(grown, False), 84)
    assert {"n0", "n1", "n2", "n3"} < set(frame["item"])
    only_new = grown.recommend(trained, k=3, candidates=["n3", "n0"])
    assert_best(only_new, all_scores(grown, True, ["n0", "n3"]), 3)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_any_users_candidates_and_k(
    recommender: Recommender, trained: list[str], assert_best: CheckTopK, data: st.DataObject
) -> None:
    users = data.draw(st.lists(st.sampled_from(trained), min_size=1, max_size=8))
    chosen = data.draw(st.none() | st.lists(st.sampled_from(recommender.items.ids.to_list()), min_size=1, max_size=12))
    k, exclude_seen = data.draw(st.integers(1, 90)), data.draw(st.booleans())
    frame = recommender.recommend(users, k=k, candidates=chosen, exclude_seen=exclude_seen)
    scores = all_scores(recommender, exclude_seen, chosen)
    assert_best(frame, {user: scores[user] for user in dict.fromkeys(users)}, k)


def test_seen_items_are_left_out_also_when_a_user_has_seen_all_candidates(recommender: Recommender) -> None:
    seen = seen_by_user(recommender)["u5"]
    assert recommender.recommend(["u5"], candidates=seen).is_empty()
    assert recommender.recommend(["u5"], candidates=seen).schema == SCHEMA
    included = recommender.recommend(["u5"], candidates=seen, exclude_seen=False)
    assert sorted(included["item"]) == sorted(seen)


def test_a_candidate_named_twice_is_recommended_once(recommender: Recommender) -> None:
    twice = recommender.recommend(["u2"], candidates=["sku/70", "sku/71", "sku/70"])
    assert twice.equals(recommender.recommend(["u2"], candidates=["sku/70", "sku/71"]))
    assert sorted(twice["item"]) == ["sku/70", "sku/71"]


def test_unknown_candidates_are_skipped_with_a_warning(recommender: Recommender) -> None:
    for ask in (partial(recommender.recommend, ["u2"]), partial(recommender.recommend_for_history, ["sku/8"])):
        with pytest.warns(UserWarning, match=r"^2 of 4 candidates are unknown \('sku/999', 'x'\). They are skipped\."):
            frame = ask(candidates=["sku/70", "sku/999", "x", "sku/71"])
        assert frame.equals(ask(candidates=["sku/70", "sku/71"]))
        with pytest.raises(DataError, match=r"^2 of 2 candidates are unknown \('sku/999', 'x'\)\."):
            ask(candidates=["sku/999", "x"])


def test_unknown_excluded_items_are_named_in_a_warning(recommender: Recommender) -> None:
    with pytest.warns(UserWarning, match=r"^1 of 2 excluded items are unknown \('x'\)\. Known items look like"):
        frame = recommender.recommend(["u2"], exclude=["sku/70", "x"])
    assert frame.equals(recommender.recommend(["u2"], exclude=["sku/70"]))


def test_empty_candidates_are_an_error(recommender: Recommender) -> None:
    for fallback in ("skip", "popular"):
        with pytest.raises(DataError, match="candidates is empty"):
            recommender.recommend(["u2"], candidates=[], fallback=fallback)


def test_users_are_answered_once_and_in_the_order_asked(recommender: Recommender) -> None:
    frame = recommender.recommend(["u9", "u3", "u9", "u20", "u3"], k=2)
    assert frame["user"].to_list() == ["u9", "u9", "u3", "u3", "u20", "u20"]
    assert frame["rank"].to_list() == [1, 2] * 3


def test_ids_may_come_in_any_kind_of_list(recommender: Recommender, int_recommender: Recommender) -> None:
    pandas = pytest.importorskip("pandas")
    kinds = (list, tuple, iter, lambda ids: dict.fromkeys(ids).keys(), np.array, pl.Series, pandas.Series, pandas.Index)
    for kind in kinds:
        assert recommender.recommend(kind(["u9", "u3"])).equals(recommender.recommend(["u9", "u3"]))
        assert int_recommender.recommend(kind([101, 103])).equals(int_recommender.recommend([101, 103]))
    assert set(recommender.recommend({"u9", "u3"})["user"]) == {"u9", "u3"}


def test_007_is_not_7(recommender: Recommender, int_recommender: Recommender) -> None:
    seven, bond = (recommender.recommend([user], k=80, exclude_seen=False) for user in ("7", "007"))
    assert (seven["user"][0], bond["user"][0]) == ("7", "007")
    assert not np.allclose(seven["score"].sort(), bond["score"].sort())
    assert recommender.recommend([7], exclude_seen=False, k=80).equals(seven)
    a, b = recommender.item_vectors(["12", "0012"])
    assert not np.allclose(a, b)
    with pytest.raises(DataError, match="0101"):
        int_recommender.recommend(["0101"])


def test_integers_may_be_asked_for_as_text(int_recommender: Recommender) -> None:
    assert int_recommender.recommend(["101", "100"]).equals(int_recommender.recommend([101, 100]))
    np.testing.assert_array_equal(int_recommender.item_vectors(["-5"]), int_recommender.item_vectors([-5]))


def test_anything_but_a_list_of_ids_is_an_error_of_one_line(recommender: Recommender) -> None:
    table = pl.DataFrame({"user": ["u2"]})
    lists = ([1, "a"], ["a", 1], [1.5], [True], [["u2"]], [b"u2"], "u2", 7, [None], {"u2": 1}, table, table.lazy())
    for ids, ask in itertools.product(
        lists,
        (
            recommender.recommend,
            recommender.user_vectors,
            recommender.item_vectors,
            lambda x: recommender.recommend(["u2"], candidates=x),
            lambda x: recommender.recommend_for_history({"somebody": x}),
            lambda x: recommender.score(x, x),
        ),
    ):
        with pytest.raises(DataError) as caught:
            ask(ids)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"position 1 .* missing"):
        recommender.recommend(["u2", None])
    with pytest.raises(DataError, match=r"type DataFrame\. Pass a list, an array or a column of IDs"):
        recommender.recommend(table)


def test_k_must_be_a_positive_integer(recommender: Recommender) -> None:
    assert len(recommender.recommend(["u2"], k=np.int64(3))) == 3
    for k in (0, -3, 5.0, "5", None, True):
        for ask in (
            lambda k: recommender.recommend(["u2"], k=k),
            lambda k: recommender.recommend_for_history({"somebody": ["sku/2"]}, k=k),
            lambda k: recommender.similar_items("sku/2", k=k),
        ):
            with pytest.raises(ConfigError, match=rf"`k` is {k}. It must be an integer of at least 1."):
                ask(k)


def test_an_empty_list_of_users_is_an_error_of_ours(recommender: Recommender) -> None:
    for fallback in ("skip", "popular", "error"):
        with pytest.raises(DataError, match=r"\.$"):
            recommender.recommend([], fallback=fallback)


def test_an_unknown_fallback_is_refused(recommender: Recommender) -> None:
    with pytest.raises(ConfigError, match="'best'"):
        recommender.recommend(["u2"], fallback="best")


OTHERS = ["nobody", *UNTRAINED]


def test_others_are_skipped_with_a_warning(recommender: Recommender) -> None:
    with pytest.warns(UserWarning, match=r"^5 of 7 users .*\('nobody', .*, 'u49'\)\. They are skipped") as caught:
        frame = recommender.recommend(["u3", *OTHERS, "u2"])
    assert frame.equals(recommender.recommend(["u3", "u2"]))
    # The warning points to the line that called.
    assert [Path(w.filename).name for w in caught] == [Path(__file__).name]
    with pytest.warns(UserWarning, match=r"2000 of 2001 users .*\('x0', .*, 'x9', \.\.\. \(2000 in total\)\)"):
        recommender.recommend(["u2", *(f"x{n}" for n in range(2000))])


def test_unknown_ids_are_shown_beside_known_ones(recommender: Recommender) -> None:
    graph = build_graph(np.array([[0, 1], [0, 1]]), {"image": np.eye(2, dtype=np.float32)})
    found = fit(Dataset.from_graph(graph, ["1.0", "2.0"], ["x", "5.0"]), PopularityConfig())
    with pytest.raises(DataError, match=r"1 of 1 users .* Known users look like '2\.0'\."):
        found.recommend([2])
    with pytest.warns(UserWarning, match=r"1 of 2 candidates .* Known items look like '5\.0'\."):
        found.recommend(["2.0"], candidates=["5", "x"])
    with pytest.warns(UserWarning, match="no training interactions") as caught:
        recommender.recommend(["u3", "u46"])
    assert "Known users" not in str(caught[0].message)  # it is known


def test_others_get_the_popular_items(recommender: Recommender) -> None:
    with pytest.warns(UserWarning, match="popular"):
        frame = recommender.recommend(["nobody", "u3", "u47"], k=6, fallback="popular")
    assert frame["user"].to_list() == ["u3"] * 6 + ["nobody"] * 6 + ["u47"] * 6
    assert frame.schema == SCHEMA
    clicks = dict.fromkeys(recommender.items.ids, 0)
    for items in trained_by_user(recommender).values():
        for item in items:
            clicks[item] += 1
    held_out = seen_by_user(recommender)["u47"]
    assert len(held_out) == 8  # all of them
    for user, taken in (("nobody", []), ("u47", held_out)):
        popular = frame.filter(user=user)
        assert popular["score"].null_count() == 6
        assert popular["rank"].to_list() == [1, 2, 3, 4, 5, 6]
        best = sorted((n for item, n in clicks.items() if item not in taken), reverse=True)[:6]
        assert [clicks[item] for item in popular["item"]] == best
        assert not set(taken) & set(popular["item"])


def test_users_get_what_was_held_out_only_if_asked(recommender: Recommender) -> None:
    held_out = items_by_user(recommender, *(split.edge_label_key for split in HELD_OUT))
    for user in ("u5", "u47"):  # the second has nothing else
        own = held_out[user]
        assert own
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = recommender.recommend([user], k=80, fallback="popular")
            assert len(frame) == 80 - len(seen_by_user(recommender)[user])
            assert not set(own) & set(frame["item"])
            everything = recommender.recommend([user], k=80, fallback="popular", exclude_seen=False)
        assert set(own) < set(everything["item"])
        later = recommender.recommend_for_history({user: ["sku/79"]}, k=80)
        assert not {*own, "sku/79"} & set(later["item"])


def test_popular_items_obey_candidates(recommender: Recommender) -> None:
    with pytest.warns(UserWarning, match="popular"):
        frame = recommender.recommend(["nobody"], fallback="popular", candidates=["sku/5", "sku/4", "sku/4"])
    assert sorted(frame["item"]) == ["sku/4", "sku/5"]


def test_others_may_be_an_error(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="nobody"):
        recommender.recommend(["u3", "nobody"], fallback="error")
    assert len(recommender.recommend(["u3"], fallback="error")) == 20
    # No other user is left.
    with pytest.raises(DataError, match="fallback='popular'"):
        recommender.recommend(OTHERS)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven users per block."""
    monkeypatch.setattr("lirdrec_pyg.nn.ranking._BLOCK_ROWS", {"cpu": 7})


def test_every_block_has_the_same_columns(recommender: Recommender, small_blocks: None) -> None:
    for users in (["u2"], ["nobody"], ["u2", "nobody"], [7, 4242], [4242], None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = list(recommender.recommend_blocks(users, fallback="popular"))
        assert {tuple(frame.schema.items()) for frame in frames} == {tuple(SCHEMA.items())}


def test_text_ids_among_integer_users_make_the_whole_column_text(
    int_recommender: Recommender, small_blocks: None
) -> None:
    for others, dtype in (([4242], pl.Int64), (["x", "0101"], pl.String)):
        asked = [*([100, 101] if dtype == pl.Int64 else ["100", "101"]), *others]
        with pytest.warns(UserWarning, match="popular"):
            frames = list(int_recommender.recommend_blocks(asked, k=3, fallback="popular"))
        assert {frame.schema["user"] for frame in frames} == {dtype}
        assert [str(u) for u in pl.concat(frames)["user"].unique(maintain_order=True)] == list(map(str, asked))


def test_blocks_make_the_same_table(
    recommender: Recommender, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for candidates in (None, ["sku/2", "sku/30", "sku/31"]):
        with monkeypatch.context() as patch:
            whole = recommender.recommend(trained, k=9, candidates=candidates)
            for users_per_block in (1, 7):
                patch.setattr("lirdrec_pyg.nn.ranking._BLOCK_ROWS", {"cpu": users_per_block})
                frames = list(recommender.recommend_blocks(trained, k=9, candidates=candidates))
                assert len(frames) > 1
                parts = pl.concat(frames)
                assert parts.drop("score").equals(whole.drop("score"))
                np.testing.assert_allclose(parts["score"], whole["score"], atol=1e-6)


def test_errors_come_before_the_first_block(recommender: Recommender) -> None:
    with pytest.raises(DataError):
        recommender.recommend_blocks(["nobody"])
    with pytest.raises(DataError):
        recommender.recommend_blocks(["u2"], candidates=["nothing"])


def test_scores_are_dot_products(grown: Recommender) -> None:
    users, items = ["u3", "7", "u3", "u46"], ["sku/2", "n1", "n3", "12"]
    u, v = grown.user_vectors(users), grown.item_vectors(items)
    assert u.shape == v.shape == (4, 3 * 8)
    found = grown.score(users, items)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (u.astype(np.float64) * v).sum(axis=1), atol=1e-5)
    assert grown.score([], []).shape == (0,)


def test_impossible_pairs_are_refused(recommender: Recommender) -> None:
    for users, items, named in (
        (["u3"], [], "1 users, but 0 items"),
        (["x"], ["12"], "'x'"),
        (["u3"], ["x"], "'x'"),
        (["u3"], [1200], "1200"),
    ):
        with pytest.raises(DataError, match=named):
            recommender.score(users, items)


def test_vectors_are_given_by_id_and_by_position(grown: Recommender) -> None:
    order = [5, 0, 83, 5]
    np.testing.assert_array_equal(grown.item_vectors(grown.items.ids.gather(order)), grown.item_vectors()[order])
    position = [grown.users.ids.to_list().index(user) for user in ("007", "7")]
    np.testing.assert_array_equal(grown.user_vectors(["007", "7"]), grown.user_vectors()[position])
    assert grown.user_vectors().dtype == grown.item_vectors().dtype == np.float32
    assert grown.user_vectors([]).shape == (0, 24)
    with pytest.raises(DataError, match="'x'"):
        grown.item_vectors(["12", "x"])


def test_returned_vectors_cannot_change_the_recommender(recommender: Recommender) -> None:
    for vectors in (recommender.user_vectors(), recommender.item_vectors(), recommender.user_vectors(["u2"])):
        with pytest.raises(ValueError, match="read-only"):
            vectors[:] = 0


def test_new_users_are_folded_in_by_the_formula(grown: Recommender) -> None:
    taken = ["sku/3", "n2", "12"]
    frame = grown.recommend_for_history({"somebody": taken}, k=84, exclude_seen=False)
    position = grown.items.positions(pl.Series(taken))
    layers = grown.vectors.item_layers.double().numpy()[:-1, position].sum(axis=0)
    degrees = grown.popularity.numpy()[position] + 1
    x = (layers / np.sqrt(len(taken) * degrees)[:, None]).sum(axis=0)
    parts = x.reshape(3, 8)
    model = grown.model
    alpha = model.fusion.attention_of_new_users(model.split_branches(grown.vectors.user.new_tensor(x[None])))[0]
    user = (alpha.detach().double().numpy()[:, None] * parts).ravel()
    expected = grown.item_vectors().astype(np.float64) @ user
    assert frame["user"].unique().to_list() == ["somebody"]
    assert frame["rank"].to_list() == list(range(1, 85))
    by_item = dict(zip(grown.items.ids, expected, strict=True))
    np.testing.assert_allclose(frame["score"], sorted(expected, reverse=True), atol=1e-5)
    np.testing.assert_allclose(frame["score"], [by_item[i] for i in frame["item"]], atol=1e-5)
    assert frame.schema == SCHEMA


def test_several_new_users_get_what_each_gets_alone(recommender: Recommender) -> None:
    history = {"b": ["sku/3"], "a": ["12", "sku/8", "12"], "c": pl.Series(["sku/3", "sku/4"])}
    together = recommender.recommend_for_history(history, k=4)
    assert together["user"].unique(maintain_order=True).to_list() == ["b", "a", "c"]
    alone = pl.concat(recommender.recommend_for_history({name: items}, k=4) for name, items in history.items())
    assert together.drop("score").equals(alone.drop("score"))
    np.testing.assert_allclose(together["score"], alone["score"], atol=1e-6)


def test_items_of_a_history_are_excluded_by_default(recommender: Recommender) -> None:
    taken = ["sku/3", "sku/4"]
    frame = recommender.recommend_for_history({"x": taken}, k=80)
    assert len(frame) == 78
    assert not set(taken) & set(frame["item"])
    assert len(recommender.recommend_for_history({"x": taken}, k=80, exclude_seen=False)) == 80
    assert recommender.recommend_for_history({"x": taken}, candidates=["sku/5", "sku/3"])["item"].to_list() == ["sku/5"]


def test_a_history_may_come_in_any_kind_of_list_or_table(recommender: Recommender) -> None:
    pandas = pytest.importorskip("pandas")
    items = ["sku/3", "12"]
    expected = recommender.recommend_for_history({"new user": items}, k=3)
    for kind in (list, tuple, iter, set, np.array, pl.Series, pandas.Series):
        for history in (kind(items), {"new user": kind(items)}):
            assert recommender.recommend_for_history(history, k=3).equals(expected)
    for user, item in (("user", "item"), ("user_id", "item_id"), ("userID", "asin"), ("uid:token", "iid:token")):
        columns = {"rating": [1.0, 5.0], item: items, user: ["new user"] * 2}
        for table in (pl.DataFrame(columns), pl.LazyFrame(columns), pandas.DataFrame(columns)):
            assert recommender.recommend_for_history(table, k=3).equals(expected)


def test_other_histories_are_refused_with_what_is_accepted(recommender: Recommender) -> None:
    for history in ("sku/3", 7, None, [["sku/3"]], [("a", "sku/3")], [1.5], [{"item": "sku/3"}]):
        with pytest.raises(DataError, match="not a list of item IDs, a mapping from users to such lists, or a table"):
            recommender.recommend_for_history(history)
    for columns, missing in ((["customer", "sku"], "user"), (["user", "sku"], "item")):
        with pytest.raises(DataError, match=rf"No column of {missing}s .*'sku'\)\. Name it '{missing}'\."):
            recommender.recommend_for_history(pl.DataFrame({name: ["sku/3"] for name in columns}))


def test_unknown_items_of_a_history_are_a_warning(recommender: Recommender) -> None:
    with pytest.warns(UserWarning, match=r"Unknown items are left out of the history: 'x', 'y'\.") as caught:
        frame = recommender.recommend_for_history({"somebody": ["x", "sku/3", "y", "x"]})
    assert [Path(w.filename).name for w in caught] == [Path(__file__).name]
    assert frame.equals(recommender.recommend_for_history({"somebody": ["sku/3"]}))


def test_new_users_without_known_items_are_skipped_with_a_warning(recommender: Recommender) -> None:
    history = {"a": ["x"], "b": ["sku/3"], "c": [], "d": [12]}
    with pytest.warns(UserWarning, match="'x'"), pytest.warns(UserWarning, match=r"known item are skipped: 'a', 'c'\."):
        frame = recommender.recommend_for_history(history, k=3)
    assert frame.equals(recommender.recommend_for_history({"b": ["sku/3"], "d": ["12"]}, k=3))


def test_known_users_without_later_known_items_are_ranked_by_the_training(recommender: Recommender) -> None:
    for history in ({"u2": ["x"], "u3": ["sku/3"], "u5": []}, {"u5": [], "u2": ["x"]}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            frame = recommender.recommend_for_history(history, k=4)
        assert ["Unknown items are left out of the history: 'x'" in str(w.message) for w in caught] == [True]
        assert frame["user"].unique(maintain_order=True).to_list() == list(history)
        for user in ("u2", "u5"):
            mine, expected = frame.filter(user=user), recommender.recommend([user], k=4)
            assert mine.drop("score").equals(expected.drop("score"))
            np.testing.assert_allclose(mine["score"], expected["score"], atol=1e-5)


def test_users_without_training_and_known_items_fall_back(recommender: Recommender) -> None:
    history = {"a": ["x"], "u3": ["sku/3"], "u47": ["x"], "c": []}
    with pytest.warns(UserWarning, match="'x'"), pytest.warns(UserWarning, match="get popular items: 'a', 'u47', 'c'"):
        frame = recommender.recommend_for_history(history, k=3, fallback="popular")
    with pytest.warns(UserWarning, match="popular"):
        popular = recommender.recommend(["a", "u47", "c"], k=3, fallback="popular")
    assert frame.equals(pl.concat([recommender.recommend_for_history({"u3": ["sku/3"]}, k=3), popular]))
    reasons = recommender.because(frame, 1, history)
    assert reasons["because_1"].is_null().to_list() == [False] * 3 + [True] * 9
    with pytest.warns(UserWarning, match="popular"):
        alone = recommender.recommend_for_history(["x"], k=3, fallback="popular")
    assert alone["item"].to_list() == popular["item"].to_list()[:3]
    assert recommender.because(alone, 1, ["x"])["because_1"].is_null().all()
    with pytest.raises(DataError, match=r"^3 users have neither .* \('a', 'u47', 'c'\).* `fallback='popular'`"):
        recommender.recommend_for_history(history, fallback="error")


def test_history_without_known_items_is_an_error(recommender: Recommender) -> None:
    for history in ({"a": ["x"]}, {"a": ["x", "y"], "b": ["x"]}, ["x"]):
        with pytest.raises(DataError, match=r"No item of the history is in the catalog \('x'"):
            recommender.recommend_for_history(history)
    for history in ({"a": []}, {}, [], pl.DataFrame({"user": [], "item": []})):
        with pytest.raises(DataError, match=r"The history is empty\."):
            recommender.recommend_for_history(history)
