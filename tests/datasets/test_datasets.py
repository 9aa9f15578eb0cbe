import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric.data import HeteroData, InMemoryDataset

from lirdrec_pyg.config import DataConfig
from lirdrec_pyg.data import INTERACTS, check_graph, held_out_edges, load_graph, modalities
from lirdrec_pyg.datasets import AmazonReviews, MicroLens, Synthetic, TikTok, load_data
from lirdrec_pyg.datasets.base import RecommendationDataset
from lirdrec_pyg.errors import ConfigError, DataError

ROWS = [(user, item, (user + item) % 3) for user in range(4) for item in range(5)]


def save_features(raw: Path, *names: str) -> None:
    for name in names:
        x = np.random.default_rng(len(name)).standard_normal((5, 3))
        np.save(raw / f"{name}_feat.npy", x.astype(np.float16))


def fill_mmrec(raw: Path, name: str) -> None:
    lines = ["userID\titemID\tx_label", *("\t".join(map(str, row)) for row in ROWS)]
    (raw / f"{name}.inter").write_text("\n".join(lines))
    save_features(raw, "image", "text")


def fill_tiktok(raw: Path) -> None:
    for name, label in {"trnMat": 0, "valMat": 1, "tstMat": 2}.items():
        user, item = np.array([row[:2] for row in ROWS if row[2] == label]).T
        matrix = scipy.sparse.coo_matrix((np.ones(len(user)), (user, item)), shape=(4, 5))
        (raw / f"{name}.pkl").write_bytes(pickle.dumps(matrix))
    save_features(raw, "image", "audio")


Make = Callable[..., RecommendationDataset]

# How to make a data set, how to fill its raw folder, and its modalities.
DATASETS: dict[str, tuple[Make, Callable[[Path], None], tuple[str, ...]]] = {
    **{
        f"amazon {name}": (
            lambda root, name=name, **options: AmazonReviews(root, name, **options),
            lambda raw, name=name: fill_mmrec(raw, name),
            ("image", "text"),
        )
        for name in ("baby", "sports", "clothing", "elec")
    },
    "microlens": (MicroLens, lambda raw: fill_mmrec(raw, "microlens"), ("image", "text")),
    "tiktok": (TikTok, fill_tiktok, ("audio", "image")),
}


@pytest.fixture(params=DATASETS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Make, Path, tuple[str, ...]]:
    """How to make a data set, its root with all raw files, and its modalities."""
    make, fill, names = DATASETS[request.param]
    (tmp_path / "raw").mkdir()
    fill(tmp_path / "raw")
    return make, tmp_path, names


def test_files_in_raw_are_used(case: tuple[Make, Path, tuple[str, ...]]) -> None:
    make, root, names = case
    dataset = make(str(root))
    assert isinstance(dataset, InMemoryDataset)
    assert len(dataset) == 1
    graph = dataset[0]
    check_graph(graph)
    assert modalities(graph) == names
    assert dataset.users.ids.to_list() == [*range(4)]
    assert dataset.items.ids.to_list() == [*range(5)]
    edges = graph[INTERACTS].edge_index, held_out_edges(graph, "val"), held_out_edges(graph, "test")
    for label, pairs in enumerate(edges):
        assert sorted(map(tuple, pairs.T.tolist())) == sorted(row[:2] for row in ROWS if row[2] == label)
    for name in names:
        assert graph["item"][f"x_{name}"].numpy().dtype == np.float16
        np.testing.assert_array_equal(graph["item"][f"x_{name}"], np.load(root / "raw" / f"{name}_feat.npy"))


def test_the_processed_graph_is_no_pickle(case: tuple[Make, Path, tuple[str, ...]], monkeypatch: Any) -> None:
    make, root, _ = case
    first = make(str(root))[0]
    processed = root / "processed"
    assert {"graph.safetensors", "users.parquet", "items.parquet"} <= {path.name for path in processed.iterdir()}
    assert torch.equal(load_graph(processed / "graph.safetensors")["item"].x_image, first["item"].x_image)

    def refuse(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(type(make(str(root))), "read", refuse)
    again = make(str(root))[0]
    assert torch.equal(again[INTERACTS].edge_index, first[INTERACTS].edge_index)
    with pytest.raises(AssertionError, match="read again"):
        make(str(root), force_reload=True)


def test_missing_files_are_named_with_their_place(case: tuple[Make, Path, tuple[str, ...]]) -> None:
    make, root, _ = case
    files = sorted((root / "raw").iterdir())
    for file in files:
        hidden = file.rename(root / file.name)
        with pytest.raises(DataError) as caught:
            make(str(root))
        text = str(caught.value)
        assert f"lacks {file.name}:" in text
        assert str(root / "raw") in text
        assert "https://" in text
        assert text.endswith(".")
        hidden.rename(file)
    make(str(root))


def test_all_missing_files_are_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"TikTok lacks trnMat.pkl, valMat.pkl, tstMat.pkl, image_feat.npy, audio_fe"):
        TikTok(str(tmp_path))


@pytest.mark.parametrize(("name", "extra"), [("microlens", "video"), ("tiktok", "text")])
def test_further_modalities_are_taken(name: str, extra: str, tmp_path: Path) -> None:
    make, fill, names = DATASETS[name]
    (tmp_path / "raw").mkdir()
    fill(tmp_path / "raw")
    save_features(tmp_path / "raw", extra)
    assert modalities(make(str(tmp_path))[0]) == tuple(sorted([*names, extra]))


def test_other_tables_in_raw_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    fill_mmrec(tmp_path / "raw", "baby")
    (tmp_path / "raw" / "baby-old.inter").write_text("nothing")
    check_graph(AmazonReviews(str(tmp_path), "baby")[0])


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'toys': choose one of baby, sports, clothing, elec"):
        AmazonReviews(str(tmp_path), "toys")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_damaged_processed_file_is_named(case: tuple[Make, Path, tuple[str, ...]]) -> None:
    make, root, _ = case
    make(str(root))
    path = root / "processed" / "graph.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"graph\.safetensors is not a readable graph"):
        make(str(root))
    check_graph(make(str(root), force_reload=True)[0])


def count_nodes(graph: HeteroData) -> HeteroData:
    graph["item"].seen = torch.full((graph["item"].num_nodes,), int(graph["item"].get("seen", torch.zeros(1))[0]) + 1)
    return graph


def test_transforms_run_when_pyg_says(tmp_path: Path) -> None:
    sizes = {"num_users": 50, "num_items": 60}
    once = Synthetic(str(tmp_path / "once"), **sizes, pre_transform=count_nodes)
    assert once[0]["item"].seen[0] == once[0]["item"].seen[0] == 1
    assert load_graph(tmp_path / "once" / "processed" / "graph-50-60-0.safetensors")["item"].seen[0] == 1
    each = Synthetic(str(tmp_path / "each"), **sizes, transform=count_nodes)
    assert "seen" in each[0]["item"]
    assert "seen" not in load_graph(tmp_path / "each" / "processed" / "graph-50-60-0.safetensors")["item"]


def test_load_data_reads_files_as_data_sets_do(case: tuple[Make, Path, tuple[str, ...]]) -> None:
    make, root, _ = case
    data = load_data(DataConfig(data=str(root / "raw")))
    assert torch.equal(data.graph[INTERACTS].edge_index, make(str(root))[0][INTERACTS].edge_index)
