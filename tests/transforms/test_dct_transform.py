import copy
from pathlib import Path

import pytest
import scipy.fft
import torch
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import check_graph, load_graph, modalities, save_graph
from lirdrec_pyg.nn.dct import DCTMode
from lirdrec_pyg.transforms import AddDCT

MODES = pytest.mark.parametrize("mode", ["feature", "2d"])


@MODES
def test_adds_the_transform_of_all_modalities(graph: HeteroData, mode: DCTMode) -> None:
    axes = (1,) if mode == "feature" else (0, 1)
    xs = [graph["item"].x_image.double(), graph["item"].x_text.double()]
    expected = [torch.from_numpy(scipy.fft.dctn(x.numpy(), norm="ortho", axes=axes)) for x in xs]
    data = AddDCT(mode)(graph)
    torch.testing.assert_close(data["item"].dct.double(), torch.cat(expected, dim=1), rtol=1e-5, atol=1e-5)
    assert modalities(data) == ("image", "text")
    assert "dct" not in graph["item"]


def test_the_output_does_not_depend_on_blocks_of_items(graph: HeteroData, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AddDCT()(graph)["item"].dct
    monkeypatch.setattr("lirdrec_pyg.transforms.add_dct._BLOCK_ROWS", 3)
    torch.testing.assert_close(AddDCT()(graph)["item"].dct, whole)


@MODES
def test_the_mode_is_stored_with_the_output(graph: HeteroData, mode: DCTMode, tmp_path: Path) -> None:
    data = AddDCT(mode)(graph)
    assert "dct_mode" not in graph["item"]
    data.validate()
    check_graph(data)
    copies = [data, data.to("cpu"), copy.copy(data), copy.deepcopy(data), data.clone()]
    assert [other["item"].dct_mode for other in copies] == [mode] * len(copies)
    # A file stores tensors only; the model does not use an output without its mode.
    save_graph(data, tmp_path / "graph.safetensors")
    loaded = load_graph(tmp_path / "graph.safetensors")
    assert torch.equal(loaded["item"].dct, data["item"].dct)
    assert "dct_mode" not in loaded["item"]


def test_repr() -> None:
    assert repr(AddDCT("2d")) == "AddDCT(mode='2d')"
