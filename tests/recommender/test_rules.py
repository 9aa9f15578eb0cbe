"""Rules of recommendations against scores of all pairs."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest
import torch
from all_scores import Scores, all_scores, seen_by_user, trained_by_user
from hypothesis import given, settings
from hypothesis import strategies as st
from pyversity import diversify

from lirdrec_pyg import fit
from lirdrec_pyg.data import ItemCatalog
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.models import EASEConfig
from lirdrec_pyg.nn import DotProducts, SeenItems
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.rerankers import AtMost
from lirdrec_pyg.training import TrainingConfig

CheckTopK = Callable[..., None]
USERS = ["u3", "7", "007", "u20", "u45"]


@pytest.fixture(scope="module")
def catalog(recommender: Recommender) -> pl.DataFrame:
    """All items but the first three: a common value, rare ones and nulls in ``kind``, a few items per ``brand``."""
    rng = np.random.default_rng(3)
    ids = recommender.items.ids[3:]
    kind = rng.choice(["tops", "hats", "socks", None], p=[0.6, 0.2, 0.1, 0.1], size=len(ids))
    return pl.DataFrame(
        {
            "item_id": ids,
            "title": [f"The {i}" for i in ids],
            "kind": pl.Series(kind, dtype=pl.String),
            "brand": rng.integers(30, size=len(ids)),
            "stock": [str(n) for n in rng.integers(-1, 4, size=len(ids))],
            "sizes": [["S", "M"]] * len(ids),
        }
    )


@pytest.fixture(scope="module")
def stocked(recommender: Recommender, catalog: pl.DataFrame) -> Recommender:
    return recommender.with_catalog(catalog)


@pytest.fixture(scope="module")
def ease(recommender: Recommender) -> Recommender:
    """A model without vectors on the same data."""
    training = TrainingConfig(device="cpu")
    return fit(recommender.dataset, EASEConfig(), training)


def greedy(scores: dict, values: dict[str, dict], limits: dict[str, int], k: int) -> dict:
    """Take the best item that no limit forbids, ``k`` times; an item without a value is never forbidden."""
    taken: dict = {}
    counts: Counter = Counter()
    for item in sorted(scores, key=lambda i: -scores[i]):
        own = [(c, values[c].get(item)) for c in limits if values[c].get(item) is not None]
        if len(taken) < k and all(counts[c, value] < limits[c] for c, value in own):
            counts.update(own)
            taken[item] = scores[item]
    return taken


def best_of_each(scores: dict, value: dict, limit: int, k: int) -> dict:
    """The best items of the union of the ``limit`` best of each value, which no other list surpasses."""
    by_value: dict = {}
    for item in sorted(scores, key=lambda i: -scores[i]):
        by_value.setdefault(("no value", item) if value.get(item) is None else value[item], []).append(item)
    union = [item for items in by_value.values() for item in items[:limit]]
    return {item: scores[item] for item in sorted(union, key=lambda i: -scores[i])[:k]}


@given(
    k=st.integers(1, 30),
    limits=st.dictionaries(st.sampled_from(["kind", "brand", "stock"]), st.integers(1, 4), min_size=1),
    exclude_seen=st.booleans(),
    where=st.none() | st.sampled_from(["stock > 0", "kind <> 'tops' OR stock = -1"]),
    data=st.data(),
)
@settings(max_examples=25)
def test_any_rules_give_the_best_list_that_obeys_them(
    stocked: Recommender, catalog: pl.DataFrame, assert_best: CheckTopK, k, limits, exclude_seen, where, data
) -> None:
    ids = stocked.items.ids.to_list()
    exclude = data.draw(st.lists(st.sampled_from(ids), max_size=9))
    candidates = data.draw(st.none() | st.lists(st.sampled_from(ids), min_size=60, unique=True))
    left = set(ids if candidates is None else candidates) - set(exclude)
    if where is not None:
        numbers = catalog.with_columns(pl.col("stock").cast(int))
        met = pl.col("stock") > 0 if where == "stock > 0" else (pl.col("kind") != "tops") | (pl.col("stock") == -1)
        left &= set(numbers.filter(met)["item_id"])
    frame = stocked.recommend(
        USERS, k=k, max_per=limits, exclude_seen=exclude_seen, where=where, exclude=exclude, candidates=candidates
    )
    values = {c: dict(catalog.select("item_id", c).iter_rows()) for c in limits}
    scores = all_scores(stocked, exclude_seen, list(left))
    expected = {user: greedy(scores[user], values, limits, k) for user in USERS}
    assert_best(frame, expected, k)
    if len(limits) == 1:
        ((column, limit),) = limits.items()
        assert expected == {user: best_of_each(scores[user], values[column], limit, k) for user in USERS}


@pytest.mark.parametrize("num_values", [3, 300])
def test_limits_hold_in_a_large_catalog_where_almost_all_items_are_alike(num_values: int) -> None:
    torch.manual_seed(0)
    user, item = torch.randn(9, 4, dtype=torch.double), torch.randn(2000, 4, dtype=torch.double)
    value = torch.randint(num_values, (2000,)).where(torch.rand(2000) < 0.05, 0)
    seen = SeenItems.of(torch.stack([torch.arange(9).repeat(50), torch.randint(2000, (450,))]), 9)
    (found,) = AtMost(DotProducts(user, item), value[None], [2]).top_k(torch.arange(9), 10, seen)
    for row, x in enumerate(user @ item.t()):
        x[seen.pairs(torch.tensor([row]))[1]] = -torch.inf
        allowed = {i: float(s) for i, s in enumerate(x) if s > -torch.inf}
        best = best_of_each(allowed, {i: f"v{v}" for i, v in enumerate(value.tolist())}, 2, 10)
        score = found.score[row][found.score[row] > -torch.inf]
        np.testing.assert_allclose(score, list(best.values()))
        assert found.item[row, : len(best)].tolist() == list(best)


def penalized(scores: np.ndarray, clicks: np.ndarray, penalty: float) -> np.ndarray:
    """The documented formula."""
    log = np.log(1 + clicks)
    z = (log - log.mean()) / log.std()
    return scores - penalty * scores.std(axis=1, keepdims=True) * z


@pytest.mark.parametrize("name", ["recommender", "ease"])
@pytest.mark.parametrize("penalty", [0.3, 2.0])
def test_popular_items_are_ranked_lower_by_the_formula(
    request: pytest.FixtureRequest, name: str, penalty: float
) -> None:
    found: Recommender = request.getfixturevalue(name)
    items = found.items.ids.to_list()
    clicks = np.zeros(len(items))
    for own in trained_by_user(found).values():
        for item in own:
            clicks[items.index(item)] += 1
    index = found.user_positions(USERS)
    if name == "ease":
        x = found.ranker.score(index).double().numpy()
    else:
        x = found.user_vectors(USERS).astype(np.float64) @ found.item_vectors().T
    ranked_by = penalized(x, clicks, penalty)
    frame = found.recommend(USERS, k=len(items), popularity_penalty=penalty)
    seen = seen_by_user(found)
    for row, user in enumerate(USERS):
        mine = frame.filter(user=user)
        places = [items.index(i) for i in mine["item"]]
        assert sorted(mine["item"]) == sorted(set(items) - set(seen[user]))
        assert (np.diff(ranked_by[row, places]) < 1e-5).all()
        np.testing.assert_allclose(mine["score"], x[row, places], atol=1e-5)  # still that of the model
    first = [found.recommend(USERS, k=5, popularity_penalty=p)["item"] for p in (0.0, penalty)]
    mean = [clicks[[items.index(i) for i in ids]].mean() for ids in first]
    assert mean[1] < mean[0]
    assert first[0].equals(found.recommend(USERS, k=5)["item"])


def test_a_model_without_vectors_obeys_limits(ease: Recommender, catalog: pl.DataFrame) -> None:
    stocked = ease.with_catalog(catalog)
    x = ease.ranker.score(ease.user_positions(USERS)).tolist()
    seen, items = seen_by_user(ease), ease.items.ids.to_list()
    for limits in ({"kind": 2}, {"brand": 1}):
        frame = stocked.recommend(USERS, k=12, max_per=limits)
        values = {c: dict(catalog.select("item_id", c).iter_rows()) for c in limits}
        for user, row in zip(USERS, x, strict=True):
            allowed = {i: s for i, s in zip(items, row, strict=True) if i not in seen[user]}
            expected = greedy(allowed, values, limits, 12)
            np.testing.assert_allclose(frame.filter(user=user)["score"], list(expected.values()), atol=1e-5)


@pytest.mark.parametrize("method", ["mmr", "msd", "dpp", "cover", "ssd"])
@pytest.mark.parametrize("by", ["vectors", "image"])
def test_variety_is_that_of_pyversity_on_the_best_items(recommender: Recommender, by: str, method: str) -> None:
    features = recommender.item_vectors() if by == "vectors" else recommender.graph["item"]["x_image"].numpy()
    frame = recommender.recommend(USERS, k=6, diversity=0.6, diversity_method=method, diversity_by=by)
    items = recommender.items.ids.to_list()
    for user, scores in all_scores(recommender, True).items():
        if user in USERS:
            pool = sorted(scores, key=lambda i: -scores[i])  # fewer than 100
            x = np.array([scores[i] for i in pool])
            x = (x - x.min()) / (x.max() - x.min())
            chosen = diversify(features[[items.index(i) for i in pool]], x, 6, method, 0.6).indices
            mine = frame.filter(user=user)
            assert mine["item"].to_list() == [pool[i] for i in chosen]
            np.testing.assert_allclose(mine["score"], [scores[i] for i in mine["item"]], atol=1e-5)
            assert mine["rank"].to_list() == [1, 2, 3, 4, 5, 6]


def test_variety_chooses_from_the_best_hundred_or_five_k(int_recommender: Recommender) -> None:
    for k, pool in ((3, 100), (30, 150)):
        best = int_recommender.recommend([100], k=pool)["item"]
        varied = int_recommender.recommend([100], k=k, diversity=1.0)["item"]
        assert set(varied) <= set(best)
        assert not set(varied) <= set(best[: pool // 2])


def test_all_rules_hold_together(stocked: Recommender, catalog: pl.DataFrame) -> None:
    rules = {"where": "stock >= 0", "max_per": {"kind": 2}, "popularity_penalty": 0.5, "diversity": 0.7}
    known = stocked.recommend(USERS, k=10, columns=["kind", "stock"], **rules)
    new = stocked.recommend_for_history({u: ["sku/70"] for u in USERS}, k=10, columns=["kind", "stock"], **rules)
    for frame in (known, new):
        assert set(frame["user"]) == set(USERS)
        assert frame["stock"].cast(int).min() == 0
        counts = frame.drop_nulls("kind").group_by("user", "kind").len()["len"]
        assert counts.max() == 2
    np.testing.assert_allclose(known["score"], stocked.score(known["user"], known["item"]), atol=1e-5)
    assert not new["score"].is_sorted(descending=True)


def test_a_history_obeys_the_rules_like_a_known_user(
    stocked: Recommender, catalog: pl.DataFrame, assert_best: CheckTopK
) -> None:
    everything = stocked.recommend_for_history(["sku/5", "sku/70"], k=80)
    scores: Scores = {"new user": dict(everything.select("item", "score").iter_rows())}
    frame = stocked.recommend_for_history(
        ["sku/5", "sku/70"], k=9, where="stock > 0", max_per={"kind": 1}, exclude=["sku/6"]
    )
    left = set(catalog.filter(pl.col("stock").cast(int) > 0)["item_id"]) - {"sku/6"}
    allowed = {i: s for i, s in scores["new user"].items() if i in left}
    assert_best(frame, {"new user": best_of_each(allowed, dict(catalog["item_id", "kind"].iter_rows()), 1, 9)}, 9)


def test_popular_items_obey_the_rules_that_choose_items(stocked: Recommender, catalog: pl.DataFrame) -> None:
    rules = {"where": "stock > 0", "max_per": {"kind": 2}, "exclude": ["sku/30"]}
    with pytest.warns(UserWarning, match="popular items"):
        frame = stocked.recommend(["nobody", "u3"], k=80, fallback="popular", columns=["kind", "stock"], **rules)
    popular = frame.filter(user="nobody")
    clicks = Counter(i for items in trained_by_user(stocked).values() for i in items)
    scores = {i: clicks[i] - n / 1000 for n, i in enumerate(stocked.items.ids)}
    left = set(catalog.filter(pl.col("stock").cast(int) > 0)["item_id"]) - {"sku/30"}
    kinds = dict(catalog["item_id", "kind"].iter_rows())
    expected = best_of_each({i: s for i, s in scores.items() if i in left}, kinds, 2, 80)
    assert popular["item"].to_list() == list(expected)
    with pytest.warns(UserWarning, match="popular items"):  # these two are for scores
        other = stocked.recommend(["nobody"], k=80, fallback="popular", diversity=1.0, popularity_penalty=9.0)
    with pytest.warns(UserWarning, match="popular items"):
        assert other.equals(stocked.recommend(["nobody"], k=80, fallback="popular"))


def test_columns_of_the_catalog_are_added(grown: Recommender, catalog: pl.DataFrame) -> None:
    stocked = grown.with_catalog(catalog)
    everything = stocked.recommend(["u3"], k=84, exclude_seen=False, columns=["title", "stock", "title"])
    assert everything.columns == ["user", "item", "rank", "score", "title", "stock"]
    expected = dict(catalog["item_id", "title"].iter_rows())
    assert everything["title"].to_list() == [expected.get(i) for i in everything["item"]]
    without_row = everything.filter(pl.col("title").is_null())["item"]
    assert set(without_row) == {*grown.items.ids[:3], "n0", "n1", "n2", "n3"}
    frame = stocked.recommend_for_history(["sku/4"], k=3, columns="title")
    assert frame["title"].to_list() == [expected.get(i) for i in frame["item"]]
    only_new = stocked.recommend(["u3"], candidates=["n0", "n1"], columns=["title", "sizes"])
    assert only_new["title"].to_list() == [None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = list(stocked.recommend_blocks(["u3", "nobody"], fallback="popular", columns=["title"]))
    assert {tuple(b.columns) for b in blocks} == {("user", "item", "rank", "score", "title")}


def test_another_catalog_changes_titles_and_rules_only(stocked: Recommender, catalog: pl.DataFrame) -> None:
    today = catalog.select("item_id", kind=pl.lit("new"), name=pl.col("title"), title=pl.lit("x"))
    other = stocked.with_catalog(today.to_pandas())
    assert other.dataset.catalog.title == "title"  # as before
    assert other.recommend(USERS).equals(stocked.recommend(USERS))
    assert len(other.recommend(["u3"], k=9, max_per={"kind": 1}, candidates=catalog["item_id"])) == 1
    assert stocked.with_catalog(today, title="name").dataset.catalog.title == "name"
    given = ItemCatalog.of(today)
    assert stocked.with_catalog(given).dataset.catalog is given
    renamed = today.rename({"item_id": "sku"})
    assert len(stocked.with_catalog(renamed, id_col="sku").recommend(["u3"], k=3, where="kind = 'new'")) == 3
    for table, options, named in (
        (today, {"title": "headline"}, "no column 'headline'.*`title`"),
        (today, {"id_col": "sku"}, "no column 'sku'"),
        (
            today.with_columns(item_id=pl.lit("x") + pl.col("item_id")),
            {},
            r"None of the 77 items .* \('xsku.*look like",
        ),
    ):
        with pytest.raises(DataError, match=named):
            stocked.with_catalog(table, **options)


MISTAKES: list[tuple[dict, type[Exception], str]] = [
    ({"where": "stok > 0"}, ConfigError, r"^`where` is 'stok > 0', .* columns 'id', 'title', .*\"stok\""),
    ({"where": 'kind = "hats"'}, ConfigError, "single quotes"),
    ({"where": "stock >"}, ConfigError, "not valid SQL for stock: Int64"),
    ({"where": "kind > 3"}, ConfigError, "kind: String .*cannot compare"),
    ({"where": "stock + 1"}, ConfigError, "of type Int64, not a condition"),
    ({"where": "stock > 99"}, ConfigError, "No item that the model knows meets `where`, 'stock > 99'"),
    ({"where": "brand IN (SELECT a FROM Read_CSV('/etc/passwd'))"}, ConfigError, "cannot read files"),
    ({"where": 3}, ConfigError, "`where` is 3"),
    ({"where": "stock > 0", "candidates": ["12"]}, DataError, "No item is left"),
    ({"exclude": ["sku/9"], "candidates": ["sku/9"]}, DataError, "`exclude`"),
    ({"exclude": "sku/9"}, DataError, "excluded item IDs are of type str"),
    ({"max_per": {"color": 1}}, ConfigError, "`max_per` has 'color', but .*'kind'"),
    ({"max_per": {"sizes": 1}}, ConfigError, "`max_per` has 'sizes', whose values are lists"),
    ({"max_per": {"kind": 0}}, ConfigError, "`max_per` is 0"),
    ({"max_per": {"kind": 1.5}}, ConfigError, "`max_per` is 1.5"),
    ({"popularity_penalty": -1}, ConfigError, "`popularity_penalty` is -1"),
    ({"diversity": 1.1}, ConfigError, "`diversity` is 1.1"),
    ({"diversity": 0.5, "diversity_method": "best"}, ConfigError, "`diversity_method` is 'best'"),
    ({"diversity_method": "mmr"}, ConfigError, "`diversity_method` has no effect without `diversity`"),
    ({"diversity_by": "image"}, ConfigError, "`diversity_by` has no effect without `diversity`"),
    ({"diversity": 0.5, "diversity_by": "audio"}, ConfigError, "`diversity_by` is 'audio'.* vectors, image, text"),
    ({"columns": ["color"]}, ConfigError, "`columns` has 'color', but .*'kind'"),
]


@pytest.fixture(params=["known", "history"])
def ask(request: pytest.FixtureRequest, stocked: Recommender) -> Iterator[Callable[..., object]]:
    if request.param == "known":
        yield lambda **rules: stocked.recommend_blocks(["u3"], **rules)  # before the first block
    else:
        yield lambda **rules: stocked.recommend_for_history(["sku/8"], **rules)


def test_each_mistake_is_one_sentence_with_the_culprit(ask: Callable[..., object]) -> None:
    for rules, kind, named in MISTAKES:
        with pytest.raises(kind, match=named) as caught:
            ask(**rules)
        assert "\n" not in str(caught.value)


def test_what_needs_a_catalog_says_so(recommender: Recommender) -> None:
    for rules in ({"where": "stock > 0"}, {"max_per": {"kind": 1}}, {"columns": ["title"]}):
        with pytest.raises(ConfigError, match=rf"^`{next(iter(rules))}` needs an item catalog"):
            recommender.recommend(["u3"], **rules)


def test_a_column_that_every_result_has_is_refused(recommender: Recommender, catalog: pl.DataFrame) -> None:
    with pytest.raises(ConfigError, match="`columns` has 'rank', which every result has"):
        recommender.with_catalog(catalog.with_columns(rank=1)).recommend(["u3"], columns=["rank"])


def test_a_missing_extra_is_named(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyversity", None)
    with pytest.raises(ConfigError, match=r"needs the extra 'rerank': pip install 'lirdrec-pyg\[rerank\]'"):
        recommender.recommend_blocks(["u3"], diversity=0.5)
