import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric.data import HeteroData, InMemoryDataset

from lirdrec_pyg.data import INTERACTS, Dataset, check_graph, held_out_edges, load_graph, modalities
from lirdrec_pyg.datasets import AmazonReviews, MicroLens, Synthetic, TikTok
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
    "amazon": (
        lambda root, **options: AmazonReviews(root, "baby", **options),
        lambda raw: fill_mmrec(raw, "baby"),
        ("image", "text"),
    ),
    "microlens": (MicroLens, lambda raw: fill_mmrec(raw, "microlens"), ("image", "text")),
    "tiktok": (TikTok, fill_tiktok, ("audio", "image")),
}


@pytest.mark.parametrize("name", DATASETS)
def test_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in ``raw/`` are read once, the processed files are safe formats, and a missing or damaged file is named."""
    make, fill, names = DATASETS[name]
    raw, processed = tmp_path / "raw", tmp_path / "processed"
    raw.mkdir()
    fill(raw)
    for file in sorted(raw.iterdir()):
        hidden = file.rename(tmp_path / file.name)
        with pytest.raises(DataError) as caught:
            make(str(tmp_path))
        text = str(caught.value)
        assert f"has no {file.name}." in text
        assert str(raw) in text
        assert "https://" in text
        hidden.rename(file)

    dataset = make(str(tmp_path))
    assert isinstance(dataset, InMemoryDataset)
    assert len(dataset) == 1
    graph = dataset[0]
    check_graph(graph)
    assert modalities(graph) == names
    assert dataset.users.ids.to_list() == [*range(4)]
    assert dataset.items.ids.to_list() == [*range(5)]
    edges = graph[INTERACTS].edge_index, held_out_edges(graph, "valid"), held_out_edges(graph, "test")
    for label, pairs in enumerate(edges):
        assert sorted(map(tuple, pairs.T.tolist())) == sorted(row[:2] for row in ROWS if row[2] == label)
    for modality in names:
        x = graph["item"][f"x_{modality}"].numpy()
        assert x.dtype == np.float16
        np.testing.assert_array_equal(x, np.load(raw / f"{modality}_feat.npy"))
    assert torch.equal(Dataset.from_path(raw).graph[INTERACTS].edge_index, graph[INTERACTS].edge_index)

    assert {"graph.safetensors", "users.parquet", "items.parquet"} <= {path.name for path in processed.iterdir()}
    assert torch.equal(load_graph(processed / "graph.safetensors")["item"].x_image, graph["item"].x_image)
    with monkeypatch.context() as patch:
        patch.setattr(type(dataset), "read", None)
        assert torch.equal(make(str(tmp_path))[0][INTERACTS].edge_index, graph[INTERACTS].edge_index)
        with pytest.raises(TypeError):
            make(str(tmp_path), force_reload=True)
    path = processed / "graph.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"graph\.safetensors is not a readable graph"):
        make(str(tmp_path))
    check_graph(make(str(tmp_path), force_reload=True)[0])


def test_all_missing_files_are_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"TikTok has no trnMat.pkl, valMat.pkl, tstMat.pkl, image_feat.npy, audio_fe"):
        TikTok(str(tmp_path))


@pytest.mark.parametrize(("name", "extra"), [("microlens", "video"), ("tiktok", "text")])
def test_more_modalities_are_used(name: str, extra: str, tmp_path: Path) -> None:
    make, fill, names = DATASETS[name]
    (tmp_path / "raw").mkdir()
    fill(tmp_path / "raw")
    save_features(tmp_path / "raw", extra)
    assert modalities(make(str(tmp_path))[0]) == tuple(sorted([*names, extra]))


def test_other_tables_in_raw_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    fill_mmrec(tmp_path / "raw", "baby")
    (tmp_path / "raw" / "baby-old.inter").write_text("nothing")
    check_graph(AmazonReviews(str(tmp_path), "baby")[0])


def test_categories_of_amazon(tmp_path: Path) -> None:
    for name in ("sports", "clothing", "elec"):
        (tmp_path / name / "raw").mkdir(parents=True)
        fill_mmrec(tmp_path / name / "raw", name)
        check_graph(AmazonReviews(str(tmp_path / name), name)[0])
    with pytest.raises(ConfigError, match=r"'toys'. Choose one of baby, sports, clothing, elec"):
        AmazonReviews(str(tmp_path / "toys"), "toys")  # type: ignore[arg-type]
    assert not (tmp_path / "toys").exists()


def count_nodes(graph: HeteroData) -> HeteroData:
    graph["item"].seen = torch.full((graph["item"].num_nodes,), int(graph["item"].get("seen", torch.zeros(1))[0]) + 1)
    return graph


def test_transforms_run_as_in_pyg(tmp_path: Path) -> None:
    sizes = {"num_users": 50, "num_items": 60}
    once = Synthetic(str(tmp_path / "once"), **sizes, pre_transform=count_nodes)
    assert once[0]["item"].seen[0] == once[0]["item"].seen[0] == 1
    assert load_graph(tmp_path / "once" / "processed" / "graph-50-60-0.safetensors")["item"].seen[0] == 1
    each = Synthetic(str(tmp_path / "each"), **sizes, transform=count_nodes)
    assert "seen" in each[0]["item"]
    assert "seen" not in load_graph(tmp_path / "each" / "processed" / "graph-50-60-0.safetensors")["item"]
