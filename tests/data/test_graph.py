import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch_geometric.data import Data, HeteroData

from lirdrec_pyg.data import (
    INTERACTED_BY,
    INTERACTS,
    SIMILAR,
    build_graph,
    check_graph,
    feature_mask,
    held_out_edges,
    item_features,
    load_graph,
    modalities,
    save_graph,
)
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.models.lirdrec import LIRDRecConfig

X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
TRAIN = np.array([[1, 0, 0, 1], [3, 2, 0, 3]])
VAL, TEST = np.array([[0], [1]]), np.array([[1, 0], [0, 3]])


@pytest.fixture
def graph() -> HeteroData:
    """2 users, 4 items, 3 training edges, two modalities, one of which is missing for item 2."""
    return build_graph(
        TRAIN,
        {"image": X, "sound of music": X[:, :2].astype(np.float16)},
        val=VAL,
        test=TEST,
        masks={"image": np.array([True, True, False, True])},
    )


def test_build_graph_keeps_the_documented_layout(graph: HeteroData) -> None:
    assert (graph["user"].num_nodes, graph["item"].num_nodes) == (2, 4)
    assert modalities(graph) == ("image", "sound of music")
    assert graph[INTERACTS].edge_index.tolist() == [[0, 0, 1], [0, 2, 3]]
    assert graph[INTERACTED_BY].edge_index.tolist() == [[0, 2, 3], [0, 0, 1]]
    assert held_out_edges(graph, "valid").tolist() == VAL.tolist()
    assert graph[INTERACTS].test_edge_label_index.tolist() == [[0, 1], [3, 0]]
    assert feature_mask(graph, "sound of music") is None
    assert item_features(graph, "sound of music").dtype == torch.float16
    assert feature_mask(graph, "image").tolist() == [True, True, False, True]
    np.testing.assert_allclose(graph["item"].x_image[2], X[[0, 1, 3]].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(graph["item"].x_image[[0, 1, 3]], X[[0, 1, 3]])
    assert graph.validate()


def test_users_without_interactions_can_be_counted_in() -> None:
    assert build_graph(TRAIN, {"image": X})["user"].num_nodes == 2
    assert build_graph(TRAIN, {"image": X}, test=[[6], [0]])["user"].num_nodes == 7
    assert build_graph(TRAIN, {"image": X}, num_users=9)["user"].num_nodes == 9


def test_features_are_not_copied() -> None:
    x = np.ascontiguousarray(X)
    assert build_graph(TRAIN, {"image": x})["item"].x_image.data_ptr() == x.ctypes.data


def test_pairs_are_any_array_of_integers() -> None:
    integers = [TRAIN.astype(dtype) for dtype in ("u2", "i1", ">i8")]
    for pairs in (*integers, TRAIN[:, ::-1], TRAIN.tolist(), torch.tensor(TRAIN)):
        edge_index = build_graph(pairs, {"image": X.astype(">f4")})[INTERACTS].edge_index
        assert edge_index.dtype == torch.long
        assert edge_index.tolist() == [[0, 0, 1], [0, 2, 3]]


INDEX = st.integers(0, 3)


@given(st.lists(st.tuples(INDEX, INDEX), min_size=1), st.lists(st.tuples(INDEX, INDEX)))
def test_pairs_survive_as_a_set(train: list[tuple[int, int]], test: list[tuple[int, int]]) -> None:
    graph = build_graph(np.array(train).T, {"image": X}, test=np.array(test).reshape(-1, 2).T)
    assert graph[INTERACTS].edge_index.T.tolist() == sorted(map(list, set(train)))
    assert sorted(held_out_edges(graph, "test").T.tolist()) == sorted(map(list, set(test)))


ok: dict[str, Any] = {"image": X}
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no modality": ({"features": {}}, "at least one modality"),
    "no training": ({"train": np.empty((2, 0), int)}, "training split is empty"),
    "negative item": ({"train": TRAIN - np.array([[0], [1]])}, "training pairs have indices from [0, -1]"),
    "negative user": ({"train": TRAIN - 1}, "training pairs have indices from [-1, -1]"),
    "negative test item": ({"test": -TEST}, "test pairs have indices"),
    "item without features": ({"train": TRAIN + 1}, "to [2, 4], outside of [0, 0] to [2, 3]"),
    "too few users": ({"num_users": 1}, "outside of [0, 0] to [0, 3]"),
    "validation item without features": ({"val": VAL + 9}, "The validation pairs"),
    "ragged validation": ({"val": [[0], [1, 2]]}, "array of validation pairs cannot"),
    "float pairs": ({"train": TRAIN.astype(float)}, "training pairs must be integers"),
    "complex pairs": ({"train": TRAIN.astype(complex)}, "training pairs must be integers"),
    "truths for pairs": ({"train": TRAIN.astype(bool)}, "training pairs must be integers"),
    "objects for pairs": ({"train": TRAIN.astype(object)}, "training pairs cannot"),
    "ragged pairs": ({"train": [[0], [1, 2]]}, "training pairs cannot"),
    "pairs in rows": ({"test": np.zeros((5, 2), int)}, "test pairs must be integers of shape (2, num_pairs)"),
    "flat pairs": ({"test": np.array([1, 2])}, "test pairs must be integers"),
    "integer features": ({"features": {"image": X.astype(int)}}, "x_image must be a floating-point matrix"),
    "objects for features": ({"features": {"image": X.astype(object)}}, "x_image cannot"),
    "flat features": ({"features": {"image": X[:, 0]}}, "shape (4,)"),
    "flat features with a mask": ({"features": {"image": X[0]}, "masks": {"image": [True] * 3}}, "shape (3,)"),
    "one number as features": ({"features": {"image": np.float32(1)}}, "shape ()"),
    "features of no width": ({"features": {"image": X[:, :0]}}, "shape (4, 0)"),
    "rows that differ": ({"features": {"image": X, "text": X[:3]}}, "x_text has 3 rows, but the graph has 4 items"),
    "one item": ({"train": [[0], [0]], "features": {"image": X[:1]}}, "At least two"),
    "NaN": ({"features": {"image": np.where(X[2, 1] == X, np.nan, X)}}, "x_image holds nan in row 2, column 1"),
    "zeros": ({"features": {"image": X * [[1], [0], [1], [1]]}}, "x_image is all zeros in row 1"),
    "short mask": ({"masks": {"image": [True] * 3}}, "mask of x_image"),
    "mask of one entry": ({"masks": {"image": True}}, "mask of x_image"),
    "empty mask": ({"masks": {"image": [False] * 4}}, "No item has features in x_image"),
    "mask of nothing": ({"masks": {"imgae": [True] * 4}}, "a mask of imgae"),
}


def test_bad_arrays_are_named(refuses: Any) -> None:
    for arguments, text in BAD_ARRAYS.values():
        with refuses(text):
            build_graph(**{"train": TRAIN, "features": ok, **arguments})


def forget(node_type: Any, key: str) -> Callable[[HeteroData], None]:
    def change(graph: HeteroData) -> None:
        del graph[node_type][key]

    return change


def put(node_type: Any, key: str, value: Any) -> Callable[[HeteroData], None]:
    def change(graph: HeteroData) -> None:
        graph[node_type][key] = value

    return change


def drop_features(graph: HeteroData) -> None:
    del graph["item"]["x_image"], graph["item"]["x_sound of music"]


def weigh_by_a_number(graph: HeteroData) -> None:
    graph[SIMILAR].edge_index, graph[SIMILAR].edge_weight = torch.tensor([[0], [1]]), torch.tensor(1.0)


def drop_edges(graph: HeteroData) -> None:
    del graph[INTERACTED_BY]


BAD_GRAPHS: dict[str, tuple[Callable[[HeteroData], Any], str]] = {
    "no number of users": (forget("user", "num_nodes"), "number of users. Set data['user'].num_nodes"),
    "no number of items": (forget("item", "num_nodes"), "number of items. Set data['item'].num_nodes"),
    "no features": (drop_features, "Set data['item'].x_<modality>"),
    "text as a number of users": (put("user", "num_nodes", "5"), "number of users"),
    "array of features": (put("item", "x_image", X), "x_image must be a floating-point matrix"),
    "row of zeros": (put("item", "x_image", torch.zeros(4, 2)), "x_image is all zeros in row 0"),
    "short features": (put("item", "x_image", torch.ones(3, 2)), "x_image has 3 rows"),
    "mask of integers": (put("item", "mask_image", torch.ones(4, dtype=torch.long)), "mask_image"),
    "short mask": (put("item", "mask_image", torch.ones(3, dtype=torch.bool)), "mask_image"),
    "list for a mask": (put("item", "mask_image", [True] * 4), "mask_image"),
    "array for a mask": (put("item", "mask_image", np.ones(4, dtype=bool)), "mask_image"),
    "no interactions": (forget(INTERACTS, "edge_index"), "Set data['user', 'interacts', 'item'].edge_index"),
    "empty training": (put(INTERACTS, "edge_index", torch.empty(2, 0, dtype=torch.long)), "training split is empty"),
    "no reverse": (drop_edges, "Set data['item', 'rev_interacts', 'user'].edge_index"),
    "other reverse": (put(INTERACTED_BY, "edge_index", torch.tensor([[1, 2, 3], [0, 0, 1]])), "reversed"),
    "short reverse": (put(INTERACTED_BY, "edge_index", torch.tensor([[0, 2], [0, 0]])), "2 reversed"),
    "reverse not reversed": (put(INTERACTED_BY, "edge_index", torch.tensor([[0, 0, 1], [0, 2, 3]])), "reversed"),
    "float edges": (put(INTERACTS, "edge_index", torch.ones(2, 3)), "training pairs must be an int64 tensor"),
    "flat edges": (put(INTERACTS, "edge_index", torch.tensor([1, 2])), "training pairs must be an int64 tensor"),
    "array of edges": (put(INTERACTS, "edge_index", TRAIN), "got ndarray"),
    "edges out of range": (put(INTERACTS, "edge_index", torch.tensor([[0, 0, 1], [0, 2, 4]])), "training pairs"),
    "flat validation": (put(INTERACTS, "val_edge_label_index", torch.tensor([1, 1])), "The validation pairs"),
    "float test": (put(INTERACTS, "test_edge_label_index", torch.ones(2, 1)), "test pairs"),
    "test out of range": (put(INTERACTS, "test_edge_label_index", torch.tensor([[2], [0]])), "test pairs"),
    "item graph without weights": (put(SIMILAR, "edge_index", torch.tensor([[0], [1]])), "edge_weight"),
    "item graph of one weight": (weigh_by_a_number, "one weight per edge"),
    "item graph without edges": (put(SIMILAR, "edge_weight", torch.ones(1)), "edge_index"),
    "item graph out of range": (put(SIMILAR, "edge_index", torch.tensor([[0], [4]])), "similar pairs"),
}


@pytest.mark.filterwarnings("ignore:Unable to accurately infer 'num_nodes'")
def test_check_graph_names_what_is_wrong(graph: HeteroData, refuses: Any) -> None:
    for change, text in BAD_GRAPHS.values():
        changed = copy.copy(graph)
        check_graph(changed)
        change(changed)
        with refuses(text):
            check_graph(changed)
    for data in (HeteroData(), Data(), None):
        with refuses("The graph"):
            check_graph(data)


def test_a_filled_row_may_be_zero(refuses: Any) -> None:
    x = torch.tensor([[1.0, -2.0], [-1.0, 2.0], [9.0, 9.0], [0.0, 0.0]])
    mask = torch.tensor([True, True, False, False])
    graph = build_graph(TRAIN, {"image": x}, masks={"image": mask})
    assert graph["item"].x_image[2:].tolist() == [[0, 0], [0, 0]]
    check_graph(graph)
    with refuses("x_image is all zeros in row 3"):
        build_graph(TRAIN, {"image": x}, masks={"image": torch.tensor([True, True, False, True])})


def test_filled_rows_have_to_be_finite(graph: HeteroData, refuses: Any) -> None:
    graph["item"].x_image[2, 1] = torch.nan
    with refuses("x_image holds nan in row 2, column 1"):
        check_graph(graph)


def test_a_filled_row_of_zeros_causes_no_nan_in_the_model() -> None:
    x = torch.tensor([[1.0, -2.0], [-1.0, 2.0], [9.0, 9.0], [9.0, 9.0]])
    data = build_graph(TRAIN, {"image": x}, masks={"image": torch.tensor([True, True, False, False])})
    config = LIRDRecConfig(embedding_dim=4)
    data = LIRDRec.graph_transform(config)(data)
    assert data[SIMILAR].edge_index[:, data[SIMILAR].edge_index[1] >= 2].tolist() == [[2, 3], [2, 3]]
    model = LIRDRec.from_config(config, data)
    users, items = model(data)
    (users.sum() + items.sum()).backward()
    assert users.isfinite().all()
    assert items.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_edges_need_no_order(graph: HeteroData) -> None:
    order = torch.tensor([2, 0, 1])
    graph[INTERACTS].edge_index = graph[INTERACTS].edge_index[:, order]
    check_graph(graph)


# --- Files -----------------------------------------------------------------------------------------------------------


def same(a: HeteroData, b: HeteroData) -> bool:
    stores = [(left, b[left._key]) for left in a.stores if left._key is not None]
    return a.metadata() == b.metadata() and all(
        list(left.keys()) == list(right.keys())
        and all(
            value.dtype == right[key].dtype and torch.equal(value, right[key])
            if isinstance(value, torch.Tensor)
            else value == right[key]
            for key, value in left.items()
        )
        for left, right in stores
    )


def test_a_saved_graph_comes_back(graph: HeteroData, tmp_path: Path) -> None:
    graph[SIMILAR].edge_index = torch.tensor([[0], [1]])
    graph[SIMILAR].edge_weight = torch.tensor([0.5])
    save_graph(graph, tmp_path / "graph.safetensors")
    loaded = load_graph(tmp_path / "graph.safetensors")
    assert modalities(loaded) == modalities(graph)
    assert loaded["item"].num_nodes == 4
    check_graph(loaded)
    assert same(graph, loaded)
    loaded["item"].x_image[0, 0] += 1
    assert not same(graph, loaded)


def test_modalities_may_share_memory(tmp_path: Path) -> None:
    x = torch.from_numpy(X)
    graph = build_graph(TRAIN, {"a": x, "b": x, "c": torch.cat([x, x])[2:6]})
    save_graph(graph, tmp_path / "graph.safetensors")
    assert same(graph, load_graph(tmp_path / "graph.safetensors"))


def test_damaged_graphs_are_refused(graph: HeteroData, tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "graph.safetensors"
    with refuses(path, "does not exist"):
        load_graph(path)
    save_graph(graph, path)
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:20], b"\0" + content, np.random.default_rng(0).bytes(99)):
        path.write_bytes(damaged)
        with refuses(path, "may be damaged"):
            load_graph(path)


FORMAT = "lirdrec-pyg graph 1"


def test_foreign_files_are_refused(tmp_path: Path, refuses: Any) -> None:
    path = tmp_path / "graph.safetensors"
    for metadata in (
        None,
        {"format": "lirdrec-pyg graph 0"},
        {"format": FORMAT},
        {"format": FORMAT, "num_nodes": "{", "order": "[]"},
        {"format": FORMAT, "num_nodes": "[]", "order": "[]"},
        {"format": FORMAT, "num_nodes": "{}", "order": "[1]"},
        {"format": FORMAT, "num_nodes": "{}", "order": json.dumps(["item:x_lost"])},
        {"format": FORMAT, "num_nodes": "{}", "order": json.dumps(["no colon"])},
    ):
        save_file({"item:x_image": torch.ones(2, 2), "no colon": torch.ones(1)}, path, metadata)
        with refuses(path):
            load_graph(path)
