from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lirdrec_pyg.features.config import EncoderDtype
from lirdrec_pyg.features.pretrained import Pretrained


class Encoder(ABC):
    """Base of all encoders, which turn texts or the files at given paths into vectors of one length.

    Attributes:
        batch_size: number of entries per forward pass.
        packages: libraries besides torch that affect the vectors.
    """

    batch_size: int
    packages: ClassVar[tuple[str, ...]] = ()

    def load(self, entry: str) -> Any:
        """Prepare an entry for :meth:`encode`; called from several threads.

        Raises:
            DataError: if the entry cannot be used. The message is the reason, without the entry's name or a period.
        """
        return entry

    @abstractmethod
    def encode(self, batch: Sequence[Any]) -> Tensor | list[Tensor | str]:
        """Encode what :meth:`load` returned.

        Returns:
            float32 vectors on the CPU, of shape ``[len(batch), width]``; or a list of vectors, with the reason in place
            of each that cannot be made, as in :meth:`load`.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the model, its revision, preprocessing and pooling in values that JSON can hold.

        Encoders with equal descriptions return equal vectors, up to rounding.
        """


class PretrainedEncoder(Encoder):
    """Base of encoders with a pretrained model.

    Args:
        model: local folder, or name on the Hugging Face Hub.
        batch_size: number of entries per forward pass.
        device: torch device.
        dtype: data type of the weights; the vectors are float32.

    Raises:
        ConfigError: if the model cannot be found.
    """

    _revision: str | None

    def __init__(self, model: str, batch_size: int = 32, device: str = "cpu", dtype: EncoderDtype = "float32") -> None:
        self.batch_size = batch_size
        self._name, self._device, self._dtype = model, device, getattr(torch, dtype)
        self._pretrained = Pretrained.find(model, self.packages)

    def describe(self) -> dict[str, Any]:
        dtype = str(self._dtype).removeprefix("torch.")
        return {"library": "transformers", "model": self._name, "revision": self._revision, "dtype": dtype}
