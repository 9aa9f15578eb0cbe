"""Whole items that a split holds out: from the table to the graph."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from lirdrec_pyg.config import DataConfig
from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    RecommendationData,
    check_graph,
    feature_mask,
    has_new_items,
    held_out_edges,
    item_features,
    new_item_edges,
    read_data,
    split_interactions,
)
from lirdrec_pyg.errors import DataError

NUM_USERS, NUM_ITEMS = 30, 25


def clicks(num_users: int = NUM_USERS, num_items: int = NUM_ITEMS, per_user: int = 8, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    pairs = [(u, int(i)) for u in range(num_users) for i in rng.choice(num_items, per_user, replace=False)]
    return pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")


def cold_split(frame: pl.DataFrame, fraction: float = 0.2, seed: int = 0) -> pl.DataFrame:
    return split_interactions(frame, "cold-items", seed, fraction)


def roles(split: pl.DataFrame) -> list[set[Any]]:
    """Warm items, and the cold ones of validation and of test."""
    return [
        set(split.filter(~pl.col("cold"))["item"]),
        *(set(split.filter(pl.col("cold"), label=label)["item"]) for label in (1, 2)),
    ]


@settings(max_examples=60, deadline=None)
@given(
    num_users=st.integers(2, 12),
    num_items=st.integers(4, 30),
    density=st.floats(0.2, 1.0),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**32 - 1),
    text=st.booleans(),
)
def test_no_item_has_two_roles(
    num_users: int, num_items: int, density: float, fraction: float, seed: int, text: bool
) -> None:
    taken = np.random.default_rng(seed).random((num_users, num_items)) < density
    frame = pl.DataFrame(np.argwhere(taken), schema=["user", "item"], orient="row")
    if text:
        frame = frame.with_columns(pl.format("sku-{}", "item").alias("item"))
    clicked = frame["item"].n_unique()
    assume(2 <= round(fraction * clicked) <= clicked - 2)
    try:
        split = cold_split(frame, fraction, seed)
    except DataError as error:
        if "split is empty" not in str(error):
            raise
        reject()
    assert split.drop("label", "cold").equals(frame)
    assert split["cold"].dtype == pl.Boolean
    warm, val, test = roles(split)
    assert warm | val | test == set(frame["item"])
    assert len(warm) + len(val) + len(test) == clicked
    assert len(val) + len(test) == round(fraction * clicked)
    assert len(test) - len(val) in (0, 1)
    # Nothing with a cold item is for training.
    assert split.filter(pl.col("cold"), label=0).is_empty()
    for (_,), part in split.filter(~pl.col("cold")).group_by("user"):
        held_out = max(1, round(len(part) / 10)) if len(part) >= 3 else 0
        assert [(part["label"] == label).sum() for label in (1, 2)] == [held_out, held_out]
    assert cold_split(frame, fraction, seed).equals(split)


def test_the_draw_follows_the_items_and_not_the_order_of_the_table() -> None:
    frame = clicks()
    expected = roles(cold_split(frame))
    assert roles(cold_split(frame.sample(fraction=1, shuffle=True, seed=3))) == expected
    assert roles(cold_split(frame.reverse())) == expected
    # Nor the activity of users.
    seen_by_all = pl.concat([frame, pl.DataFrame({"user": [99] * NUM_ITEMS, "item": range(NUM_ITEMS)})])
    assert roles(cold_split(seen_by_all)) == expected


def test_every_item_is_cold_for_some_seed_and_as_often_as_others() -> None:
    frame = clicks()
    drawn = [roles(cold_split(frame, 0.4, seed)) for seed in range(200)]
    assert len({frozenset(val | test) for _, val, test in drawn}) == 200
    for role in (1, 2):
        share = np.mean([[item in roles[role] for item in range(NUM_ITEMS)] for roles in drawn], axis=0)
        assert np.abs(share - 0.2).max() < 0.12


@pytest.mark.parametrize(
    ("num_items", "fraction", "num_cold"), [(25, 0.05, 1), (25, 0.01, 0), (3, 0.5, 2), (4, 0.7, 3), (8, 0.9, 7)]
)
def test_two_items_have_to_be_cold_and_two_warm(num_items: int, fraction: float, num_cold: int, refuses: Any) -> None:
    frame = clicks().filter(pl.col("item") < num_items)
    with refuses(f"--cold-fraction {fraction:g} of {num_items} items is {num_cold}", "at least two items"):
        cold_split(frame, fraction)


def test_two_cold_and_two_warm_items_are_enough() -> None:
    frame = pl.DataFrame([(u, i) for u in range(40) for i in range(5)], schema=["user", "item"], orient="row")
    warm, val, test = roles(cold_split(frame, 0.4))
    assert (len(warm), len(val), len(test)) == (3, 1, 1)


def test_warm_interactions_have_to_reach_every_split(refuses: Any) -> None:
    # Users of two interactions hold none out; those with cold items are no substitute.
    frame = clicks(per_user=2)
    with refuses("The validation split is empty", "--split cold-items", "60 interactions"):
        cold_split(frame)


# --- From files ------------------------------------------------------------------------------------------------------

IDS = [f"sku-{n:02}" for n in range(NUM_ITEMS + 2)]


def write_shop(folder: Path, masked: bool = False) -> dict[str, dict[str, list[float]]]:
    """Text IDs, rows of the features in another order; the last two items nobody has clicked.

    Returns the features by ID. ``masked`` leaves every third item out of the texts.
    """
    rng = np.random.default_rng(1)
    table = clicks().select(
        user_id=pl.format("u{}", "user"), item_id=pl.format("sku-{}", pl.col("item").cast(pl.String).str.zfill(2))
    )
    table.write_csv(folder / "clicks.csv")
    features = {}
    for modality, width in {"image": 4, "text": 3}.items():
        names = [IDS[n] for n in rng.permutation(len(IDS)) if not (masked and modality == "text" and n % 3 == 0)]
        x = rng.standard_normal((len(names), width)).astype(np.float32)
        np.savez(folder / f"{modality}_feat.npz", features=x, ids=np.array(names))
        features[modality] = dict(zip(names, x.tolist()))
    return features


def read(folder: Path, **options: Any) -> RecommendationData:
    return read_data(DataConfig(data=str(folder), split="cold-items", **options), seed=5)


def by_id(data: RecommendationData, edges: Tensor, new: bool) -> set[tuple[str, str]]:
    items = data.new_items if new else data.items
    assert items is not None
    return {(data.users.ids[u], items.ids[i]) for u, i in edges.T.tolist()}


def test_the_graph_has_warm_items_alone_and_the_cold_ones_apart(tmp_path: Path) -> None:
    write_shop(tmp_path)
    data = read(tmp_path, cold_fraction=0.4)
    graph, new = data.graph, data.new_items
    check_graph(graph)
    assert new is not None
    assert has_new_items(graph)
    assert (len(data.items), len(new)) == (17, 10)
    assert (graph["item"].num_nodes, graph[NEW_ITEM].num_nodes) == (17, 10)
    assert set(data.items.ids) | set(new.ids) == set(IDS)
    assert new.ids.to_list() == sorted(new.ids)
    # An item that nobody has clicked can't be ranked by anybody's clicks: it stays where it always was.
    assert {"sku-25", "sku-26"} <= set(data.items.ids)
    assert data.facts["split"] == "cold-items, seed 5"
    assert data.facts["items held out"] == 10

    table = pl.read_csv(tmp_path / "clicks.csv").rename({"user_id": "user", "item_id": "item"})
    split = split_interactions(table, "cold-items", 5, 0.4)
    for label, (warm, cold) in enumerate(
        [
            (graph[INTERACTS].edge_index, None),
            (held_out_edges(graph, "val"), new_item_edges(graph, "val")),
            (held_out_edges(graph, "test"), new_item_edges(graph, "test")),
        ]
    ):
        part = split.filter(label=label)
        assert by_id(data, warm, new=False) == set(part.filter(~pl.col("cold")).select("user", "item").rows())
        if cold is not None:
            assert by_id(data, cold, new=True) == set(part.filter(pl.col("cold")).select("user", "item").rows())


@pytest.mark.parametrize("masked", [False, True])
def test_every_item_has_the_features_of_its_id(masked: bool, tmp_path: Path) -> None:
    features = write_shop(tmp_path, masked)
    data = read(tmp_path, cold_fraction=0.4)
    assert data.new_items is not None
    for modality, rows in features.items():
        warm = [n for n, name in enumerate(data.items.ids) if name in rows]
        mean = item_features(data.graph, modality)[warm].double().mean(dim=0)
        for node_type, ids in (("item", data.items.ids), (NEW_ITEM, data.new_items.ids)):
            mask = feature_mask(data.graph, modality, node_type)
            assert (mask is None) == all(name in rows for name in ids)
            for position, name in enumerate(ids):
                found = item_features(data.graph, modality, node_type)[position]
                assert mask is None or bool(mask[position]) == (name in rows)
                # The mean is that of the warm items: what came later says nothing about it.
                expected = torch.tensor(rows[name]) if name in rows else mean.float()
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert data.facts.get("items without text") == (
        sum(name not in features["text"] for name in data.items.ids) if masked else None
    )


def test_rows_by_position_are_told_apart_too(tmp_path: Path) -> None:
    clicks().rename({"user": "user_id", "item": "item_id"}).write_csv(tmp_path / "clicks.csv")
    x = np.random.default_rng(0).standard_normal((NUM_ITEMS, 3)).astype(np.float32)
    np.save(tmp_path / "image_feat.npy", x)
    data = read(tmp_path)
    assert data.new_items is not None
    for node_type, vocabulary in (("item", data.items), (NEW_ITEM, data.new_items)):
        assert item_features(data.graph, "image", node_type).tolist() == x[vocabulary.ids.to_numpy()].tolist()


def test_zero_rows_of_cold_items_are_errors_or_missing_ones(tmp_path: Path, refuses: Any) -> None:
    clicks().rename({"user": "user_id", "item": "item_id"}).write_csv(tmp_path / "clicks.csv")
    x = np.random.default_rng(0).standard_normal((NUM_ITEMS, 3)).astype(np.float32)
    np.save(tmp_path / "image_feat.npy", x)
    data = read(tmp_path)
    assert data.new_items is not None
    item = data.new_items.ids[1]
    x[item] = 0
    np.save(tmp_path / "image_feat.npy", x)
    with refuses("image_feat.npy", f"row {item}", "--zero-features missing"):
        read(tmp_path)
    data = read(tmp_path, zero_features="missing")
    assert feature_mask(data.graph, "image") is None
    mask = feature_mask(data.graph, "image", NEW_ITEM)
    assert mask is not None
    assert mask.tolist() == [n != 1 for n in range(5)]
    torch.testing.assert_close(data.graph[NEW_ITEM].x_image[1], data.graph["item"].x_image.mean(dim=0))


@pytest.mark.parametrize("split", ["random", "auto"])
def test_other_splits_know_no_new_items(split: str, tmp_path: Path) -> None:
    write_shop(tmp_path)
    data = read_data(DataConfig(data=str(tmp_path), split=split))
    assert data.new_items is None
    assert not has_new_items(data.graph)
    assert NEW_ITEM not in data.graph.node_types
    assert new_item_edges(data.graph, "val") is None
    assert "items held out" not in data.facts
