"""Items that a split holds out, from the files to the graph."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    Dataset,
    check_graph,
    feature_mask,
    has_new_items,
    held_out_edges,
    item_features,
    new_item_edges,
    split_interactions,
)

NUM_USERS, NUM_ITEMS = 30, 25
IDS = [f"sku-{n:02}" for n in range(NUM_ITEMS + 2)]


def clicks() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    pairs = [(u, int(i)) for u in range(NUM_USERS) for i in rng.choice(NUM_ITEMS, 8, replace=False)]
    return pl.DataFrame(pairs, schema={"user_id": pl.Int64, "item_id": pl.Int64}, orient="row")


def write_shop(folder: Path, masked: bool = False) -> dict[str, dict[str, list[float]]]:
    """Write text IDs, and features in another order; the last two items have no interactions.

    Returns the features by ID. With ``masked``, every third item has no text.
    """
    rng = np.random.default_rng(1)
    clicks().select(
        user_id=pl.format("u{}", "user_id"),
        item_id=pl.format("sku-{}", pl.col("item_id").cast(pl.String).str.zfill(2)),
    ).write_csv(folder / "clicks.csv")
    features = {}
    for modality, width in {"image": 4, "text": 3}.items():
        names = [IDS[n] for n in rng.permutation(len(IDS)) if not (masked and modality == "text" and n % 3 == 0)]
        x = rng.standard_normal((len(names), width)).astype(np.float32)
        np.savez(folder / f"{modality}_feat.npz", features=x, ids=np.array(names))
        features[modality] = dict(zip(names, x.tolist()))
    return features


def write_by_position(folder: Path) -> np.ndarray:
    clicks().write_csv(folder / "clicks.csv")
    x = np.random.default_rng(0).standard_normal((NUM_ITEMS, 3)).astype(np.float32)
    np.save(folder / "image_feat.npy", x)
    return x


def read(folder: Path, **options: Any) -> Any:
    return Dataset.from_path(folder, seed=5, split="cold-items", **options)


def by_id(data: Any, edges: Tensor, new: bool) -> set[tuple[str, str]]:
    items = data.new_items if new else data.items
    return {(data.users.ids[u], items.ids[i]) for u, i in edges.T.tolist()}


def test_the_graph_has_only_warm_items_and_the_cold_ones_apart(tmp_path: Path) -> None:
    write_shop(tmp_path)
    data = read(tmp_path, cold_fraction=0.4)
    graph, new = data.graph, data.new_items
    check_graph(graph)
    assert has_new_items(graph)
    assert (len(data.items), len(new)) == (graph["item"].num_nodes, graph[NEW_ITEM].num_nodes) == (17, 10)
    assert set(data.items.ids) | set(new.ids) == set(IDS)
    assert new.ids.to_list() == sorted(new.ids)
    # Items without interactions cannot be evaluated: they stay where they are with any split.
    assert {"sku-25", "sku-26"} <= set(data.items.ids)
    assert (data.facts["split"], data.facts["seed"]) == ("cold-items", 5)
    assert data.facts["items held out"] == 10

    table = pl.read_csv(tmp_path / "clicks.csv").rename({"user_id": "user", "item_id": "item"})
    split = split_interactions(table, "cold-items", 5, 0.4)
    for label, (warm, cold) in enumerate(
        [
            (graph[INTERACTS].edge_index, None),
            (held_out_edges(graph, "valid"), new_item_edges(graph, "valid")),
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
    for modality, rows in features.items():
        warm = [n for n, name in enumerate(data.items.ids) if name in rows]
        mean = item_features(data.graph, modality)[warm].double().mean(dim=0)
        for node_type, ids in (("item", data.items.ids), (NEW_ITEM, data.new_items.ids)):
            mask = feature_mask(data.graph, modality, node_type)
            assert (mask is None) == all(name in rows for name in ids)
            for position, name in enumerate(ids):
                found = item_features(data.graph, modality, node_type)[position]
                assert mask is None or bool(mask[position]) == (name in rows)
                # The mean of the warm items: it does not depend on later ones.
                expected = torch.tensor(rows[name]) if name in rows else mean.float()
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert data.facts.get("items without text") == (
        sum(name not in features["text"] for name in data.items.ids) if masked else None
    )


def test_rows_by_position_are_assigned_too(tmp_path: Path) -> None:
    x = write_by_position(tmp_path)
    data = read(tmp_path)
    for node_type, vocabulary in (("item", data.items), (NEW_ITEM, data.new_items)):
        assert item_features(data.graph, "image", node_type).tolist() == x[vocabulary.ids.to_numpy()].tolist()


def test_zero_rows_of_cold_items_are_errors_or_missing(tmp_path: Path, refuses: Any, scans: Counter[int]) -> None:
    x = write_by_position(tmp_path)
    item = read(tmp_path).new_items.ids[1]
    assert scans == {3: 1}
    x[item] = 0
    np.save(tmp_path / "image_feat.npy", x)
    with refuses("image_feat.npy", f"row {item}", "`zero_features='missing'`"):
        read(tmp_path)
    graph = read(tmp_path, zero_features="missing").graph
    assert feature_mask(graph, "image") is None
    mask = feature_mask(graph, "image", NEW_ITEM)
    assert mask is not None
    assert mask.tolist() == [n != 1 for n in range(5)]
    torch.testing.assert_close(graph[NEW_ITEM].x_image[1], graph["item"].x_image.mean(dim=0))


def test_other_splits_have_no_new_items(tmp_path: Path) -> None:
    write_shop(tmp_path)
    data = Dataset.from_path(tmp_path, split="random")
    assert data.new_items is None
    assert NEW_ITEM not in data.graph.node_types
    assert new_item_edges(data.graph, "valid") is None
    assert "items held out" not in data.facts
