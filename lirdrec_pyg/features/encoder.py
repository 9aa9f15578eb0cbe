"""What every encoder is, whatever it reads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from lirdrec_pyg.errors import DataError


class UnusableEntries(DataError):
    """Entries that turn out to be of no use only when they are encoded.

    Attributes:
        reasons: why, by the place of each in the batch, as :meth:`Encoder.load` tells it.
        vectors: what :meth:`Encoder.encode` would have returned, with any numbers in the rows of these.
    """

    def __init__(self, reasons: Mapping[int, str], vectors: Tensor) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons
        self.vectors = vectors


class Encoder(ABC):
    """Turns the entries of a catalogue's column, such as texts or paths of pictures, into vectors of one length.

    Attributes:
        batch_size: entries that go through the model at once.
        packages: libraries that have a part in the result, beside torch.
    """

    batch_size: int
    packages: ClassVar[tuple[str, ...]] = ()

    def load(self, entry: str) -> Any:
        """What :meth:`encode` takes for ``entry``. Several threads call it at once.

        Raises:
            DataError: if the entry can't be used; the message is why, without a full stop or the name of the entry.
        """
        return entry

    def length(self, entry: str) -> int:
        """How much of the model's time ``entry`` takes: entries of like lengths go through it together."""
        return 0

    @abstractmethod
    def encode(self, batch: Sequence[Any]) -> Tensor:
        """Vectors of what :meth:`load` has returned, float32 on the CPU, shape ``(len(batch), width)``.

        Raises:
            UnusableEntries: if some of the entries can't be used; it has the vectors of the others.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """How the vectors come about, in plain values: the model, its revision, preprocessing and pooling.

        Encoders with equal descriptions give equal vectors, but for rounding.
        """
