"""Sounds to vectors, by transformers; files are read by soundfile."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lirdrec_pyg.config import EncoderDtype
from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.pretrained import Pretrained, check_installed, torch_dtype

_MODELS = ("whisper", "clap")
# No recording is outside of these; a header may claim anything.
_MIN_RATE, _MAX_RATE = 1000, 768_000


@dataclass(frozen=True)
class _Windows:
    """A sound in pieces of the length that the model takes, the last one padded.

    Attributes:
        features: as the model takes them, one row a piece.
        samples: how many of each piece are sound.
    """

    features: Tensor
    samples: Tensor


class AudioEncoder(Encoder):
    """Embeddings of sounds, by the encoder of a Whisper or CLAP model.

    A sound is mixed down to one channel, brought to the model's sampling rate, and cut into pieces of the length that
    the model takes. Its vector is the mean of those of its pieces, weighted by their lengths: with Whisper, that of a
    piece is the mean of the encoder's last hidden states over the frames that are sound and no padding; with
    CLAP, it is the vector that is compared with texts.

    Args:
        model: a folder or a name on the hub.
        batch_size: sounds that are encoded at once.
        device: as torch names it.
        dtype: arithmetic of the model.
        seconds: what is beyond of a sound is left out.
        option: what named the model, for messages.

    Raises:
        ConfigError: if the model can't be loaded, or is of another kind.
    """

    packages: ClassVar[tuple[str, ...]] = ("transformers", "soundfile", "scipy")

    def __init__(
        self,
        model: str,
        batch_size: int = 32,
        device: str = "cpu",
        dtype: EncoderDtype = "float32",
        seconds: float = 30.0,
        option: str = "--audio-model",
    ) -> None:
        check_installed("transformers", "soundfile", "scipy")
        from transformers import AutoFeatureExtractor, AutoModel

        self.batch_size = batch_size
        self._name, self._device, self._dtype, self._seconds = model, device, torch_dtype(dtype), seconds
        pretrained = Pretrained.find(model, option)
        with pretrained.loading():
            self._extractor = AutoFeatureExtractor.from_pretrained(model, **pretrained.arguments)
            whole, report = AutoModel.from_pretrained(
                model, dtype=self._dtype, output_loading_info=True, **pretrained.arguments
            )
        self._kind = whole.config.model_type
        if self._kind not in _MODELS:
            raise ConfigError(f"{option} {model} is a model of the kind {self._kind}: name one of Whisper or CLAP.")
        pretrained.check_complete(report["missing_keys"])
        self._architecture, self._revision = type(whole).__name__, pretrained.revision(whole.config)
        self._model = (whole.get_encoder() if self._kind == "whisper" else whole).eval().to(device)
        self._rate = int(self._extractor.sampling_rate)
        self._window = int(self._extractor.n_samples if self._kind == "whisper" else self._extractor.nb_max_samples)

    def load(self, entry: str) -> _Windows:
        """The sound at the path ``entry``, as the model takes it."""
        if not os.path.isfile(entry):
            raise DataError("there is no such file")
        try:
            sound = self._read(entry)
            pieces = [sound[start : start + self._window] for start in range(0, len(sound), self._window)]
            inputs = [self._extractor(piece, sampling_rate=self._rate, return_tensors="pt") for piece in pieces]
        except DataError:
            raise
        except Exception as error:  # a damaged file raises nearly anything
            reason = first_line(error).replace(entry, Path(entry).name)
            raise DataError(f"the sound can't be read ({reason})") from error
        features = torch.cat([piece["input_features"] for piece in inputs])
        return _Windows(features, torch.tensor([len(piece) for piece in pieces]))

    def _read(self, path: str) -> np.ndarray:
        """Samples at the model's rate, float32."""
        import soundfile
        from scipy.signal import resample_poly

        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            if not _MIN_RATE <= rate <= _MAX_RATE:
                raise DataError(f"the sound has {rate} samples a second")
            # One channel at once: a file may have a thousand.
            blocks = file.blocks(rate, frames=int(self._seconds * rate), dtype="float32", always_2d=True)
            parts = [block.mean(axis=1) for block in blocks]
        sound = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
        if not len(sound):
            raise DataError("the sound is empty")
        if not np.isfinite(sound).all():
            raise DataError("the sound has samples that are no finite numbers")
        common = gcd(rate, self._rate)
        return resample_poly(sound, self._rate // common, rate // common) if rate != self._rate else sound

    @torch.inference_mode()
    def encode(self, batch: Sequence[_Windows]) -> Tensor:
        counts = [len(windows.samples) for windows in batch]
        features = torch.cat([windows.features for windows in batch])
        samples = torch.cat([windows.samples for windows in batch])
        vectors = torch.cat(
            [
                self._encode_windows(
                    features[start : start + self.batch_size], samples[start : start + self.batch_size]
                )
                for start in range(0, len(samples), self.batch_size)
            ]
        )
        weighted = zip((vectors * samples.unsqueeze(1)).split(counts), samples.split(counts), strict=True)
        return torch.stack([parts.sum(dim=0) / lengths.sum() for parts, lengths in weighted])

    def _encode_windows(self, features: Tensor, samples: Tensor) -> Tensor:
        features = features.to(self._device, self._dtype)
        if self._kind == "clap":
            # No piece is longer than the model takes; the extractor says so of one of them at random.
            longer = torch.zeros(len(features), 1, dtype=torch.bool, device=self._device)
            output = self._model.get_audio_features(input_features=features, is_longer=longer)
            return (output if isinstance(output, Tensor) else output.pooler_output).float().cpu()
        states = self._model(features).last_hidden_state.float().cpu()
        # As many states as begin within the sound.
        true = (samples * states.size(1) / self._window).ceil().clamp(1, states.size(1)).unsqueeze(1)
        mask = (torch.arange(states.size(1)) < true).unsqueeze(2)
        return (states * mask).sum(dim=1) / true

    def describe(self) -> dict[str, Any]:
        clap = self._kind == "clap"
        return {
            "library": "transformers",
            "model": self._name,
            "revision": self._revision,
            "architecture": self._architecture,
            "pooling": "projection, mean of pieces" if clap else "mean of the encoder's states, without padding",
            "seconds": self._seconds,
            "preprocessing": {
                name: value for name, value in self._extractor.to_dict().items() if isinstance(value, (str, int, float))
            },
            "dtype": str(self._dtype).removeprefix("torch."),
        }
