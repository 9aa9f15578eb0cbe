"""Later interactions join a data set."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec_pyg import Dataset
from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, NEW_ITEM, SIMILAR, check_graph, feature_mask, item_features
from lirdrec_pyg.data.extend import extend
from lirdrec_pyg.data.new_items import NewItems
from lirdrec_pyg.data.vocabulary import Vocabulary
from lirdrec_pyg.errors import DataError

Pairs = set[tuple[object, object]]


def make_dataset(split: str = "random") -> Dataset:
    rng = np.random.default_rng(0)
    clicks = pl.DataFrame({"user": rng.integers(0, 12, 90), "item": rng.integers(0, 20, 90)})
    images = {item: rng.standard_normal(4).astype(np.float32) for item in range(20)}
    texts = {item: rng.standard_normal(3).astype(np.float32) for item in range(2, 20)}
    return Dataset.from_frames(clicks, {"image": images, "text": texts}, split=split)


def later(rows: Sequence[tuple[object, ...]], names: Sequence[str] = ("user", "item")) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=list(names), orient="row")


def edges(dataset: Dataset, name: str) -> Pairs:
    items = dataset.items if dataset.new_items is None else dataset.items.extended(dataset.new_items.ids)
    user, item = dataset.graph[INTERACTS][name].as_subclass(torch.Tensor).numpy()
    return set(zip(dataset.users.ids.gather(user), items.ids.gather(item)))


def all_edges(dataset: Dataset) -> Pairs:
    names = ("edge_index", "val_edge_label_index", "test_edge_label_index")
    return set.union(*(edges(dataset, name) for name in names))


def unknown_pairs(dataset: Dataset, count: int) -> list[tuple[object, object]]:
    known = all_edges(dataset)
    return [(u, i) for u in range(12) for i in range(20) if (u, i) not in known][:count]


def test_all_that_was_known_is_trained_and_the_latest_is_held_out() -> None:
    before = make_dataset()
    known, new = all_edges(before), unknown_pairs(before, 20)
    rows = [(*pair, 1000 - n) for n, pair in enumerate(new)]  # the first is the latest
    again = [(*pair, 2000) for pair in list(known)[:5]]
    after = extend(before, later(rows + again + rows[:3], ("user", "item", "time")), hold_out=0.4)
    check_graph(after.graph)
    assert edges(after, "edge_index") == known | set(new[8:])
    assert edges(after, "val_edge_label_index") == set(new[4:8])
    assert edges(after, "test_edge_label_index") == set(new[:4])
    assert torch.equal(after.graph[INTERACTED_BY].edge_index, after.graph[INTERACTS].edge_index.flip([0]))
    assert after.facts["interactions added"] == 20
    assert after.facts["interactions before"] == len(known)
    assert SIMILAR not in after.graph.edge_types
    assert all_edges(before) == known  # unchanged


def test_without_times_a_random_part_is_held_out_by_the_seed() -> None:
    before = make_dataset()
    new = unknown_pairs(before, 30)
    found = [edges(extend(before, later(new), 0.2, seed=seed), "test_edge_label_index") for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert all(len(part) == 3 and part <= set(new) for part in found)
    whole = extend(before, later(new), 0.0)
    assert edges(whole, "edge_index") == all_edges(before) | set(new)


def test_known_items_get_the_features_that_they_lacked() -> None:
    before = make_dataset()  # items 0 and 1 have no texts
    rng = np.random.default_rng(1)
    ids = Vocabulary(pl.Series([1, 99, 5, 0]), "item")
    features = {name: torch.from_numpy(rng.standard_normal((4, d))).float() for name, d in (("image", 4), ("text", 3))}
    some = NewItems(ids, features, {"text": torch.tensor([True, True, True, False])})
    after = extend(before, later(unknown_pairs(before, 3)), 0.0, features=some)
    assert after.facts["items with more features"] == 1
    assert torch.equal(item_features(after.graph, "image"), item_features(before.graph, "image"))
    text, mask = item_features(after.graph, "text"), feature_mask(after.graph, "text")
    assert mask is not None
    assert (~mask).nonzero().tolist() == [[0]]
    assert torch.equal(text[1], features["text"][0])
    assert torch.equal(text[2:], item_features(before.graph, "text")[2:])
    torch.testing.assert_close(text[0], text[1:].mean(dim=0))
    all_of_them = extend(before, later(unknown_pairs(before, 3)), 0.0, features=NewItems(ids, features, {}))
    assert all_of_them.facts["items with more features"] == 2
    check_graph(all_of_them.graph)
    earlier = feature_mask(before.graph, "text")
    assert earlier is not None
    assert int(earlier.sum()) == 18  # unchanged


def test_the_gate_is_of_users_with_training_interactions() -> None:
    before = make_dataset()
    known, new = all_edges(before), unknown_pairs(before, 10)
    rows = [(*pair, n) for n, pair in enumerate(new)] + [(99, item, 100 + item) for item in range(10)]
    after = extend(before, later(rows, ("user", "item", "time")), hold_out=0.4)
    assert edges(after, "test_edge_label_index") == set(new[-4:])
    assert edges(after, "val_edge_label_index") == {(99, item) for item in range(6, 10)}
    assert edges(after, "edge_index") == known | set(new[:-4]) | {(99, item) for item in range(6)}
    few = extend(before, later(rows[9:], ("user", "item", "time")), hold_out=0.4)
    assert edges(few, "test_edge_label_index") == {new[9]}


def test_earlier_validation_interactions_stay_held_out_until_there_are_later_ones() -> None:
    before = make_dataset()
    valid, known, new = edges(before, "val_edge_label_index"), all_edges(before), unknown_pairs(before, 20)
    assert len(valid) == 10
    for number, kept in ((0, 0), (2, 0), (7, 5), (11, 9), (100, 10)):
        after = extend(before, later(new), 0.2, number)
        found = edges(after, "val_edge_label_index")
        assert len(found & valid) == kept
        assert len(found - valid) == 2
        assert found - valid <= set(new)
        assert edges(after, "edge_index") == (known | set(new)) - found - edges(after, "test_edge_label_index")


def test_new_users_follow_the_others_whatever_the_type_of_their_ids() -> None:
    before = make_dataset()
    for ids in ((40, 33), ("x", "33")):
        after = extend(before, later([(ids[0], 3), (ids[1], 4), (ids[0], 5)]), 0.0)
        assert after.users.ids.to_list() == [*map(type(ids[0]), before.users.ids), *map(type(ids[0]), ids)]
        assert after.facts["users added"] == 2
        assert len(after.graph[INTERACTS].edge_index[0].unique()) == 14


def test_users_who_are_all_unknown_are_named() -> None:
    with pytest.warns(UserWarning, match=r"None of the 2 users is known so far\. Known users look like 0\."):
        extend(make_dataset(), later([("user-0", 3), ("user-1", 4)]), 0.0)


def test_new_items_become_items_like_all_others() -> None:
    before = make_dataset("cold-items")
    assert before.new_items is not None
    new = before.new_items.ids.to_list()
    after = extend(before, later([(0, new[0]), (1, new[1])]), 0.0)
    check_graph(after.graph)
    assert NEW_ITEM not in after.graph.node_types
    assert after.items.ids.to_list() == [*before.items.ids, *new]
    assert edges(after, "edge_index") == all_edges_with_new(before) | {(0, new[0]), (1, new[1])}
    for modality in ("image", "text"):
        parts = [item_features(before.graph, modality, kind) for kind in ("item", NEW_ITEM)]
        assert torch.equal(item_features(after.graph, modality), torch.cat(parts))
    mask = feature_mask(after.graph, "text")
    assert mask is not None
    assert {item for item, real in zip(after.items.ids, mask) if not real} == {0, 1}
    assert feature_mask(after.graph, "image") is None


def all_edges_with_new(dataset: Dataset) -> Pairs:
    assert dataset.new_items is not None
    found = all_edges(dataset)
    for name in ("val_edge_label_index", "test_edge_label_index"):
        user, item = dataset.graph[NEW_ITEM][name].numpy()
        found |= set(zip(dataset.users.ids.gather(user), dataset.new_items.ids.gather(item)))
    return found


def test_items_without_features_are_left_out_with_a_warning() -> None:
    before = make_dataset()
    new = unknown_pairs(before, 2)
    with pytest.warns(
        UserWarning, match=r"3 interactions are with 2 items that are unknown \(77, 78\)\. They are left"
    ):
        after = extend(before, later([*new, (0, 77), (1, 77), (1, 78)]), 0.0)
    assert edges(after, "edge_index") == all_edges(before) | set(new)


def test_nothing_new_is_refused() -> None:
    before = make_dataset()
    known = list(all_edges(before))[:4]
    with pytest.raises(DataError, match="All 4 interactions are known already"):
        extend(before, later(known), 0.0)
    with pytest.raises(DataError, match=r"items that are unknown \('a'\)\. Pass `features`.*look like 0"):
        extend(before, later([(1, "a")]), 0.0)
