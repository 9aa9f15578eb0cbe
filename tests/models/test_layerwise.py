import copy
from typing import Any

import pytest
import torch
from trainers import MODEL, needs_torch_sparse, small_graph

from lirdrec_pyg.config import LIRDRecConfig, SparseBackend
from lirdrec_pyg.models import LIRDRec, layerwise_vectors


@pytest.mark.parametrize("backend", ["torch", pytest.param("torch-sparse", marks=needs_torch_sparse)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_layers": 3, "num_item_layers": 2},
        {"num_layers": 0, "num_item_layers": 0},
        {"dct": "2d"},
        {"dct": "none", "item_graph": False},
    ],
    ids=str,
)
def test_block_by_block_comes_to_what_one_pass_does(settings: dict[str, Any], backend: SparseBackend) -> None:
    config = LIRDRecConfig(**{**vars(MODEL), **settings})
    graph = small_graph()
    torch.manual_seed(0)
    data = LIRDRec.input_transform(config, backend)(copy.copy(graph))
    model = LIRDRec.from_config(config, data)
    model.start_epoch()
    expected = model.vectors(data)
    for source in (LIRDRec.sampling_transform(config)(copy.copy(graph)), data):
        # Blocks that the rows don't fill, of one row, and larger than all.
        for block_rows in (7, 1, 1000):
            found = layerwise_vectors(model, source, block_rows)
            for name, value in vars(expected).items():
                torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=1e-5)
    assert model.training
    assert not found.user.requires_grad
