from pathlib import Path

import numpy as np
import torch

from lirdrec_pyg.data import build_graph, read_features
from lirdrec_pyg.transforms import LoadFeatures


def test_half_precision_is_converted_and_float32_is_not_copied(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    half, single = rng.standard_normal((6, 4)).astype(np.float16), torch.randn(6, 3)
    np.save(tmp_path / "image_feat.npy", half)
    mapped = read_features(tmp_path / "image_feat.npy").values
    graph = build_graph(np.array([[0, 1], [2, 3]]), {"image": mapped, "text": single})
    loaded = LoadFeatures()(graph)
    assert loaded["item"].x_image.dtype == torch.float32
    assert torch.equal(loaded["item"].x_image, torch.from_numpy(half.astype(np.float32)))
    assert graph["item"].x_image.dtype == torch.float16
    assert loaded["item"].x_text.data_ptr() == single.data_ptr()


def test_unaligned_features_are_copied() -> None:
    unaligned = torch.randn(7 * 3 + 1)[1:].view(7, 3)
    graph = build_graph(np.array([[0, 1], [2, 3]]), {"image": unaligned})
    loaded = LoadFeatures()(graph)["item"].x_image
    assert loaded.data_ptr() % 64 == 0
    assert torch.equal(loaded, unaligned)
