from functools import reduce

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.nn import MultimodalDCT
from lirdrec_pyg.nn.dct import DCTMode

_BLOCK_ROWS = 8192


class AddDCT(BaseTransform):
    """Add ``data["item"].dct``, the precomputed input of the shared branch, and its mode ``data["item"].dct_mode``.

    Models of another mode ignore it. In ``"feature"`` mode, items are transformed in blocks, which bounds the memory
    needed besides the output.

    Args:
        mode: dimensions of the transform, see :class:`~lirdrec_pyg.nn.MultimodalDCT`.
    """

    def __init__(self, mode: DCTMode = "feature") -> None:
        self.mode = mode

    def forward(self, data: HeteroData) -> HeteroData:
        features = [item_features(data, modality) for modality in modalities(data)]
        data["item"].dct = MultimodalDCT("2d")(features) if self.mode == "2d" else _by_blocks(features)
        data["item"].dct_mode = self.mode
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mode={self.mode!r})"


def _by_blocks(features: list[Tensor]) -> Tensor:
    transform = MultimodalDCT("feature")
    dtype = reduce(torch.promote_types, (x.dtype for x in features), torch.float32)
    width = sum(x.size(1) for x in features)
    result = torch.empty(len(features[0]), width, dtype=dtype, device=features[0].device)
    for start in range(0, len(result), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        result[rows] = transform([x[rows] for x in features])
    return result
