from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.errors import ConfigError

_ALIGNMENT = 64


class LoadFeatures(BaseTransform):
    """Brings the features into memory as float32, once, rather than in each pass.

    A float32 matrix that lies in memory, or is mapped, is not copied unless it lies at an odd address:
    products may round otherwise there, and a saved graph has to give the figures it gave in training.
    """

    def forward(self, data: HeteroData) -> HeteroData:
        for modality in modalities(data):
            data["item"][f"x_{modality}"] = _loaded(item_features(data, modality))
        return data


def _loaded(x: Tensor) -> Tensor:
    in_place = x.dtype == torch.float32 and x.data_ptr() % _ALIGNMENT == 0
    return x if in_place else x.to(torch.float32, copy=True)


def kept_modalities(names: Sequence[str], only: str | None) -> tuple[str, ...]:
    """``only``, or all modalities if it is ``None``.

    Raises:
        ConfigError: if there is no such modality.
    """
    if only is None:
        return tuple(names)
    if only not in names:
        raise ConfigError(f"--only-modality is {only!r}: the modalities are {', '.join(names)}.")
    return (only,)


class KeepModality(BaseTransform):
    """Leaves the features of one modality only.

    Args:
        modality: its name.

    Raises:
        ConfigError: if there is no such modality.
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
