from functools import reduce

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.config import DCTMode
from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.nn import MultimodalDCT

_BLOCK_ROWS = 8192


class AddDCT(BaseTransform):
    """Adds ``data["item"].dct``, the input of the shared branch, so that it is computed once, and
    ``data["item"].dct_mode``, by which a model of the other mode knows that it isn't its own.

    In ``feature`` mode it goes by blocks of items, which bounds what is needed beside the result.

    Args:
        mode: see :class:`~lirdrec_pyg.nn.MultimodalDCT`.
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
