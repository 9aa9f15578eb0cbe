from collections.abc import Sequence

import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.errors import ConfigError

_ALIGNMENT = 64


class LoadFeatures(BaseTransform):
    """Convert the features to float32 once, instead of in each forward pass.

    Aligned float32 matrices, in memory or memory-mapped, are not copied. Unaligned ones are, since products on them may
    round differently, and a loaded graph must reproduce the metrics of the training.
    """

    def forward(self, data: HeteroData) -> HeteroData:
        for modality in modalities(data):
            x = item_features(data, modality)
            if x.dtype != torch.float32 or x.data_ptr() % _ALIGNMENT:
                data["item"][f"x_{modality}"] = x.to(torch.float32, copy=True)
        return data


def kept_modalities(names: Sequence[str], only: str | None) -> tuple[str, ...]:
    """Return the modality ``only``, or all modalities if it is None.

    Raises:
        ConfigError: if the modality is unknown.
    """
    if only is None:
        return tuple(names)
    if only not in names:
        raise ConfigError(f"`only_modality` is {only!r}. Choose from {', '.join(names)}.")
    return (only,)


class KeepModality(BaseTransform):
    """Remove the features of all modalities except one.

    Args:
        modality: name of the modality to keep.

    Raises:
        ConfigError: if the modality is unknown.
    """

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def forward(self, data: HeteroData) -> HeteroData:
        names = modalities(data)
        for other in set(names) - set(kept_modalities(names, self.modality)):
            data["item"].pop(f"x_{other}")
            data["item"].pop(f"mask_{other}", None)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.modality!r})"
