from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from lirdrec_pyg.errors import DataError
from lirdrec_pyg.features.config import EncoderDtype
from lirdrec_pyg.features.pretrained import Pretrained


class UnusableEntries(DataError):
    """Some entries of a batch cannot be encoded.

    Attributes:
        reasons: reason by position in the batch, as in :meth:`Encoder.load`.
        vectors: the result of :meth:`Encoder.encode`, with arbitrary values in the rows of these entries.
    """

    def __init__(self, reasons: Mapping[int, str], vectors: Tensor) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons
        self.vectors = vectors


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

    def length(self, entry: str) -> int:
        """Estimate the cost of an entry; entries of similar length are batched together."""
        return 0

    @abstractmethod
    def encode(self, batch: Sequence[Any]) -> Tensor:
        """Encode what :meth:`load` returned into float32 vectors on the CPU, of shape ``[len(batch), width]``.

        Raises:
            UnusableEntries: if some of the entries cannot be encoded; holds the vectors of the others.
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

    def __init__(self, model: str, batch_size: int = 32, device: str = "cpu", dtype: EncoderDtype = "float32") -> None:
        self.batch_size = batch_size
        self._name, self._device, self._dtype = model, device, dtype
        self._pretrained = Pretrained.find(model, self.packages)
