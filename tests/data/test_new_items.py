"""Items that are added after the training, in the graph and in files."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    NewItems,
    Split,
    append_new_items,
    build_graph,
    check_graph,
    feature_mask,
    has_new_items,
    item_features,
    load_graph,
    new_item_edges,
    read_new_items,
    save_graph,
    set_new_items,
)
from lirdrec_pyg.data.features import ZeroFeatures
from lirdrec_pyg.data.provenance import provenance_facts, write_provenance
from lirdrec_pyg.files import checksum

WIDTHS = {"image": 3, "text": 2}
RNG = np.random.default_rng(0)
KNOWN = {m: RNG.standard_normal((5, width)).astype(np.float32) for m, width in WIDTHS.items()}
NEW = {m: RNG.standard_normal((4, width)).astype(np.float32) for m, width in WIDTHS.items()}
TEXT_MASK = torch.tensor([True, False, True, True])
EDGES = {Split.VALID: torch.tensor([[1, 0, 1], [3, 0, 3]]), Split.TEST: torch.tensor([[1], [2]])}


@pytest.fixture
def graph() -> HeteroData:
    """2 users, 5 items, of which the second has no text."""
    train = np.array([[0, 0, 1], [1, 4, 2]])
    return build_graph(train, KNOWN, masks={"text": np.arange(5) != 1}, num_users=2)


def tensors_of(data: HeteroData) -> dict[tuple[Any, str], Tensor]:
    return {
        (store._key, key): value.clone()
        for store in data.stores
        for key, value in store.items()
        if isinstance(value, Tensor)
    }


def assert_same(actual: Mapping[Any, Tensor], expected: Mapping[Any, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_new_items_stand_apart_and_the_graph_is_left_alone(graph: HeteroData) -> None:
    before = tensors_of(graph)
    data = set_new_items(graph, NEW, {"text": TEXT_MASK}, EDGES)
    assert (has_new_items(graph), has_new_items(data)) == (False, True)
    assert NEW_ITEM not in graph.node_types
    assert_same(tensors_of(graph), before)
    check_graph(data)
    assert data[NEW_ITEM].num_nodes == 4
    assert data["item"].num_nodes == 5
    np.testing.assert_array_equal(item_features(data, "image", NEW_ITEM), NEW["image"])
    assert feature_mask(data, "image", NEW_ITEM) is None
    assert feature_mask(data, "text", NEW_ITEM).tolist() == TEXT_MASK.tolist()
    # The mean of the trained items that have a text, not of the new ones.
    np.testing.assert_allclose(data[NEW_ITEM].x_text[1], KNOWN["text"][[0, 2, 3, 4]].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(data[NEW_ITEM].x_text[[0, 2, 3]], NEW["text"][[0, 2, 3]])
    # Each pair once, sorted.
    assert new_item_edges(data, "valid").tolist() == [[0, 1], [0, 3]]
    assert new_item_edges(data, "test").tolist() == [[1], [2]]
    # Everything else is shared.
    assert data["item"].x_image.data_ptr() == graph["item"].x_image.data_ptr()
    assert data[INTERACTS].edge_index.data_ptr() == graph[INTERACTS].edge_index.data_ptr()


@pytest.mark.filterwarnings("error")
def test_a_graph_with_new_items_is_checked_without_a_warning(graph: HeteroData) -> None:
    check_graph(set_new_items(graph, NEW))


def test_a_query_for_new_items_creates_none(graph: HeteroData) -> None:
    assert not has_new_items(graph)
    assert new_item_edges(graph, "test") is None
    assert NEW_ITEM not in graph.node_types


def test_earlier_new_items_are_replaced(graph: HeteroData) -> None:
    first = set_new_items(graph, NEW, {"text": TEXT_MASK}, EDGES)
    second = set_new_items(first, {m: x[:2] for m, x in NEW.items()})
    assert second[NEW_ITEM].num_nodes == 2
    assert feature_mask(second, "text", NEW_ITEM) is None
    assert new_item_edges(second, "valid") is None
    assert first[NEW_ITEM].num_nodes == 4
    assert new_item_edges(first, "valid") is not None


def test_replaced_features_of_the_caller_are_not_changed(graph: HeteroData) -> None:
    x = torch.zeros(4, 2)
    set_new_items(graph, {"image": NEW["image"], "text": x}, {"text": torch.zeros(4, dtype=torch.bool)})
    assert not x.any()


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "omitted modality": ({"image": NEW["image"]}, {}, ("modalities image, text, got image",)),
    "nothing": ({}, {}, ("modalities image, text, got none",)),
    "another modality": (NEW | {"sound": NEW["text"]}, {}, ("got image, text, sound",)),
    "wider": (NEW | {"text": np.ones((4, 3))}, {}, ("x_text of the new items", "(4, 3)", "(4, 2)")),
    "fewer rows": (NEW | {"text": NEW["text"][:3]}, {}, ("x_text of the new items", "(3, 2)", "(4, 2)")),
    "flat": (NEW | {"image": np.ones(3)}, {}, ("x_image of the new items", "(3,)")),
    "integers": (NEW | {"image": np.ones((4, 3), int)}, {}, ("x_image of the new items", "floating-point")),
    "NaN": (NEW | {"image": NEW["image"] * np.nan}, {}, ("x_image of the new items is all NaN in row 0",)),
    "zeros": (
        NEW | {"text": NEW["text"] * [[1], [1], [0], [1]]},
        {},
        ("x_text of the new items is all zeros in row 2",),
    ),
    "user out of range": (NEW, {"held_out": {Split.VALID: torch.tensor([[2], [0]])}}, ("validation pairs", "[1, 3]")),
    "item out of range": (NEW, {"held_out": {Split.TEST: torch.tensor([[0], [4]])}}, ("test pairs", "[1, 3]")),
    "float pairs": (NEW, {"held_out": {Split.TEST: torch.zeros(2, 1)}}, ("test pairs", "int64")),
    **{
        f"mask {mask}": (NEW, {"masks": {"text": torch.tensor(mask)}}, ("x_text",))
        for mask in ([True] * 3, [True] * 5, True)
    },
    "mask of nothing": (NEW, {"masks": {"sound": TEXT_MASK}}, ("a mask of sound",)),
}


def test_bad_arrays_of_new_items_are_named(graph: HeteroData, refuses: Any) -> None:
    for features, options, texts in BAD.values():
        with refuses(*texts):
            set_new_items(graph, features, **options)
        assert not has_new_items(graph)


@pytest.mark.parametrize("masks", [(None, None), (None, "text"), ("text", None), ("text", "text")])
def test_more_new_items_are_appended(masks: tuple[str | None, str | None], graph: HeteroData) -> None:
    own_mask, more_mask = ({"text": TEXT_MASK} if name else None for name in masks)
    own = set_new_items(graph, NEW, own_mask, EDGES)
    more = set_new_items(graph, {m: 2 * x[:3] for m, x in NEW.items()}, more_mask and {"text": TEXT_MASK[:3]})
    before = tensors_of(own), tensors_of(more)
    both = append_new_items(own, more)
    check_graph(both)
    assert both[NEW_ITEM].num_nodes == 7
    for modality in WIDTHS:
        parts = [item_features(part, modality, NEW_ITEM) for part in (own, more)]
        assert torch.equal(item_features(both, modality, NEW_ITEM), torch.cat(parts))
    wanted = [*(TEXT_MASK.tolist() if masks[0] else [True] * 4), *(TEXT_MASK[:3].tolist() if masks[1] else [True] * 3)]
    mask = feature_mask(both, "text", NEW_ITEM)
    assert (mask is None and all(wanted)) or mask.tolist() == wanted
    assert feature_mask(both, "image", NEW_ITEM) is None
    # Not all of them were held out.
    assert new_item_edges(both, "valid") is None
    assert new_item_edges(both, "test") is None
    assert_same(tensors_of(own), before[0])
    assert_same(tensors_of(more), before[1])


def test_the_first_new_items_are_appended_to_nothing(graph: HeteroData) -> None:
    more = set_new_items(graph, NEW)
    assert torch.equal(append_new_items(graph, more)[NEW_ITEM].x_image, more[NEW_ITEM].x_image)
    assert not has_new_items(graph)


def test_a_saved_graph_keeps_its_new_items(graph: HeteroData, tmp_path: Path) -> None:
    data = set_new_items(graph, NEW, {"text": TEXT_MASK}, EDGES)
    save_graph(data, tmp_path / "graph.safetensors")
    loaded = load_graph(tmp_path / "graph.safetensors")
    check_graph(loaded)
    assert has_new_items(loaded)
    assert loaded[NEW_ITEM].num_nodes == 4
    assert_same(tensors_of(loaded), tensors_of(data))
    save_graph(graph, tmp_path / "graph.safetensors")
    assert not has_new_items(load_graph(tmp_path / "graph.safetensors"))


# --- Files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {modality: tmp_path / f"{modality}.npy" for modality in NEW}
    for modality, path in paths.items():
        np.save(path, NEW[modality])
    (tmp_path / "ids.txt").write_text("b\na\nd\nc\n")
    return paths


def own_ids(folder: Path, modality: str, ids: list[Any], x: np.ndarray) -> Path:
    path = folder / f"{modality}-{len(ids)}.npz"
    np.savez(path, features=x, ids=np.array(ids))
    return path


def features_by_id(new: NewItems, modality: str) -> dict[Any, list[float]]:
    """Return the rows that are real."""
    mask = new.masks.get(modality, torch.ones(len(new.ids), dtype=torch.bool))
    return {i: x for i, x, real in zip(new.ids.ids, new.features[modality].tolist(), mask.tolist()) if real}


def test_rows_by_position_belong_to_the_ids_of_the_list(
    files: dict[str, Path], tmp_path: Path, graph: HeteroData
) -> None:
    new = read_new_items(files, WIDTHS, tmp_path / "ids.txt")
    assert new.ids.ids.to_list() == ["b", "a", "d", "c"]
    assert new.masks == {}
    for modality in WIDTHS:
        assert new.features[modality].tolist() == NEW[modality].tolist()
    assert set_new_items(graph, new.features, new.masks)[NEW_ITEM].num_nodes == 4


def test_rows_with_ids_of_their_own_are_joined_by_them(tmp_path: Path) -> None:
    image = own_ids(tmp_path, "image", ["a", "b", "c"], NEW["image"][:3])
    text = own_ids(tmp_path, "text", ["d", "c"], NEW["text"][:2])
    with pytest.warns(UserWarning, match="Features of image are missing for 1 of the 4 new items"):
        new = read_new_items({"image": image, "text": str(text)}, WIDTHS)
    assert sorted(new.ids.ids) == ["a", "b", "c", "d"]
    assert features_by_id(new, "image") == dict(zip("abc", NEW["image"].tolist()))
    assert features_by_id(new, "text") == dict(zip("dc", NEW["text"].tolist()))


def test_a_list_selects_the_items(tmp_path: Path, files: dict[str, Path]) -> None:
    (tmp_path / "ids.txt").write_text("b\na\nc\n")
    np.save(files["text"], NEW["text"][:3])
    image = own_ids(tmp_path, "image", ["x", "a", "b", "c"], NEW["image"])
    new = read_new_items({"image": image, "text": files["text"]}, WIDTHS, tmp_path / "ids.txt")
    assert new.ids.ids.to_list() == ["b", "a", "c"]
    assert features_by_id(new, "image") == {name: NEW["image"]["xabc".index(name)].tolist() for name in "bac"}
    assert features_by_id(new, "text") == dict(zip("bac", NEW["text"].tolist()))


def test_ids_in_a_file_and_in_the_list_must_agree(tmp_path: Path, files: dict[str, Path], refuses: Any) -> None:
    """Rows go by the IDs of their file; the list has the items b, a, d and c."""
    for own, problem in (("abcd", None), ("cab", "1 of the 4"), ("xabc", "'x' is only in the file, 'd' only in the")):
        image = own_ids(tmp_path, "image", list(own), NEW["image"][: len(own)])
        features = {"image": image, "text": files["text"]}
        if len(own) == 4 and problem:
            with refuses(image, "`ids`", problem):
                read_new_items(features, WIDTHS, tmp_path / "ids.txt")
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            new = read_new_items(features, WIDTHS, tmp_path / "ids.txt")
        assert new.ids.ids.to_list() == list("badc")
        assert features_by_id(new, "image") == dict(zip(own, NEW["image"].tolist()))
        assert [problem in str(warning.message) for warning in caught] == ([True] if problem else [])


def test_numbers_and_text_are_joined_as_text(tmp_path: Path) -> None:
    image = own_ids(tmp_path, "image", [7, 8], NEW["image"][:2])
    text = own_ids(tmp_path, "text", ["8", "x"], NEW["text"][:2])
    new = read_new_items({"image": image, "text": text}, WIDTHS)
    assert sorted(new.ids.ids) == ["7", "8", "x"]
    assert features_by_id(new, "image") == dict(zip("78", NEW["image"].tolist()))
    assert features_by_id(new, "text") == dict(zip("8x", NEW["text"].tolist()))


def test_a_modality_may_be_omitted(files: dict[str, Path], tmp_path: Path, graph: HeteroData) -> None:
    with pytest.warns(UserWarning, match="Features of image are missing for all 4 new items"):
        new = read_new_items({"text": files["text"]}, WIDTHS, tmp_path / "ids.txt")
    assert new.masks["image"].tolist() == [False] * 4
    data = set_new_items(graph, new.features, new.masks)
    for row in data[NEW_ITEM].x_image:
        np.testing.assert_allclose(row, KNOWN["image"].mean(axis=0), rtol=1e-5)
    assert feature_mask(data, "text", NEW_ITEM) is None


def test_zero_rows_are_errors_or_missing(files: dict[str, Path], tmp_path: Path, refuses: Any) -> None:
    np.save(files["text"], NEW["text"] * [[1], [0], [1], [1]])
    with refuses(files["text"], "all zeros in row 1"):
        read_new_items(files, WIDTHS, tmp_path / "ids.txt")
    new = read_new_items(files, WIDTHS, tmp_path / "ids.txt", "missing")
    assert new.masks["text"].tolist() == [True, False, True, True]
    assert "image" not in new.masks


MISTAKES: dict[str, tuple[dict[str, Any], str | None, ZeroFeatures, tuple[str, ...]]] = {
    "no features": ({}, "ids.txt", "error", ("`features`",)),
    "unknown modality": ({"sound": "image.npy"}, "ids.txt", "error", ("'sound'", "trained with image, text")),
    "no file": ({"image": "gone.npy"}, "ids.txt", "error", ("gone.npy",)),
    "other width": ({"image": "text.npy"}, "ids.txt", "error", ("text.npy has 2 columns", "image had 3")),
    "no list": ({"image": "image.npy"}, None, "error", ("image.npy", "`ids`")),
    "no such list": ({"image": "image.npy"}, "gone.txt", "error", ("gone.txt", "`ids`")),
    "short list": ({"image": "image.npy"}, "short.txt", "error", ("image.npy has 4 rows", "`ids` lists 2")),
    "gap in the list": ({"image": "image.npy"}, "gap.txt", "error", ("gap.txt", "line 2")),
    "twice in the list": ({"image": "image.npy"}, "twice.txt", "error", ("twice.txt", "'a' more than once")),
    "NaN": ({"image": "nan.npy"}, "ids.txt", "error", ("nan.npy", "all NaN in row 0", "`zero_features='missing'`")),
    "only zeros": ({"image": "bare.npy"}, "ids.txt", "missing", ("'d'", "no features in any modality")),
    "only in the list": ({"image": "image.npz"}, "ids.txt", "error", ("'d'", "no features in any modality")),
}


def test_a_mistake_with_new_items_is_named(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, lines in {"short": "a\nb\n", "gap": "a\n\nb\nc\n", "twice": "a\nb\na\nc\n"}.items():
        (tmp_path / f"{file}.txt").write_text(lines)
    np.save("nan.npy", NEW["image"] * np.nan)
    np.save("bare.npy", NEW["image"] * [[1], [1], [0], [1]])
    np.savez("image.npz", features=NEW["image"][:3], ids=np.array(["a", "b", "c"]))
    for features, ids, zero_features, texts in MISTAKES.values():
        with refuses(*texts):
            read_new_items(features, WIDTHS, ids, zero_features)


def record(file: Path, catalog: str = "1", steps: dict[str, Any] | None = None, **encoder: Any) -> dict[str, Any]:
    """Return how ``file`` was made."""
    encoder = {"model": "a", "revision": "sha256:0123456789abcdef", "pooling": "mean", "max_length": 512, **encoder}
    return {
        "file": file.name,
        "sha256": checksum(file),
        "encoder": encoder,
        "catalog": {"file": "captions.jsonl", "sha256": f"sha256:{catalog}", "captions": {"gpt": 4, "by hand": 1}},
        "postprocessing": steps or {},
        "date": "2026-01-31",
    }


SAME: list[dict[str, Any]] = [{}, {"model": "/models/a", "dtype": "bfloat16"}, {"catalog": "2"}]
OTHER: list[tuple[dict[str, Any], str]] = [
    ({"model": "b", "revision": "sha256:fedcba9876543210"}, "but by b, revision fedcba987654 (pooling mean, "),
    ({"model": "b", "revision": None}, "but by b (pooling mean"),
    ({"pooling": "cls"}, "(pooling cls, max_length 512"),
    ({"prompt": "query"}, "(pooling mean, prompt query, max_length 512"),
    ({"max_length": 128}, "(pooling mean, max_length 128"),
    ({"steps": {"normalize": True}}, "revision 0123456789ab, normalize (pooling"),
]


def test_features_are_compared_with_those_of_the_training(files: dict[str, Path], tmp_path: Path, refuses: Any) -> None:
    folder, ids = files["text"].parent, tmp_path / "ids.txt"

    def facts(caption_prompt: str = "Describe it.", **changes: Any) -> dict[str, str]:
        write_provenance(folder, "text", record(files["text"], **changes))
        write_provenance(folder, "captions.jsonl", {"file": "captions.jsonl", "prompt": caption_prompt})
        return provenance_facts(files)

    trained = facts()
    made = "a, revision 0123456789ab (pooling mean, max_length 512, captions by gpt, prompt 98c0ac908e6a)"
    assert trained == {"features of text": f"{made}; made 2026-01-31"}
    for changes in SAME:
        facts(**changes)
        read_new_items(files, WIDTHS, ids, facts=trained)
    for changes, text in (*OTHER, ({"caption_prompt": "Name it."}, "captions by gpt, prompt ")):
        facts(**changes)
        with refuses(
            f"The features of text were made by {made} for the training, but by ", text, "as for the training"
        ):
            read_new_items(files, WIDTHS, ids, facts=trained)
        read_new_items(files, WIDTHS, ids, facts=trained, allow_other_features=True)
        for unknown in ({}, {"features of image": "b; made 2026-01-31"}):
            read_new_items(files, WIDTHS, ids, facts=unknown)
    # Earlier releases recorded no more than this.
    before = {"features of text": "a, revision 0123456789ab; made 2025-01-31"}
    facts(max_length=128)
    read_new_items(files, WIDTHS, ids, facts=before)
    facts(revision="sha256:f")
    with refuses("by a, revision 0123456789ab for the training"):
        read_new_items(files, WIDTHS, ids, facts=before)
    # The axes of PCA depend on the items that were encoded together.
    trained = facts(steps={"pca": 2})
    read_new_items(files, WIDTHS, ids, facts=trained)
    facts(steps={"pca": 2}, catalog="2")
    with refuses("axes of catalog 1", "axes of catalog 2", "Train on features without PCA and whitening"):
        read_new_items(files, WIDTHS, ids, facts=trained)
