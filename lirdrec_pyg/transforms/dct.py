from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.config import DCTMode
from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.nn import MultimodalDCT


class AddDCT(BaseTransform):
    """Adds ``data["item"].dct``, the input of the shared branch, so that it is computed once.

    Args:
        mode: see :class:`~lirdrec_pyg.nn.MultimodalDCT`.
    """

    def __init__(self, mode: DCTMode = "feature") -> None:
        self.mode = mode

    def forward(self, data: HeteroData) -> HeteroData:
        features = [item_features(data, modality) for modality in modalities(data)]
        data["item"].dct = MultimodalDCT(self.mode)(features)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mode={self.mode!r})"
