from functools import reduce

import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.config import DCTMode
from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.nn import MultimodalDCT

_BLOCK_ROWS = 8192


class AddDCT(BaseTransform):
    """Adds ``data["item"].dct``, the input of the shared branch, so that it is computed once.

    In ``feature`` mode it goes by blocks of items, which bounds what is needed beside the result.

    Args:
        mode: see :class:`~lirdrec_pyg.nn.MultimodalDCT`.
    """

    def __init__(self, mode: DCTMode = "feature") -> None:
        self.mode = mode

    def forward(self, data: HeteroData) -> HeteroData:
        transform = MultimodalDCT(self.mode)
        features = [item_features(data, modality) for modality in modalities(data)]
        if self.mode == "2d":
            data["item"].dct = transform(features)
            return data
        dtype = reduce(torch.promote_types, (x.dtype for x in features), torch.float32)
        width = sum(x.size(1) for x in features)
        result = torch.empty(len(features[0]), width, dtype=dtype, device=features[0].device)
        for start in range(0, len(result), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            result[rows] = transform([x[rows] for x in features])
        data["item"].dct = result
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mode={self.mode!r})"
