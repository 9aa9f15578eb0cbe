import os
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lirdrec_pyg.errors import ConfigError, DataError, first_line
from lirdrec_pyg.features.encoder import PretrainedEncoder

_MODELS = ("whisper", "clap")
# Range of real recordings; a header may claim any rate.
_MIN_RATE, _MAX_RATE = 1000, 768_000


class _Windows(NamedTuple):
    """Input features of windows of the length that the model expects, and their numbers of samples without padding."""

    features: Tensor
    samples: Tensor


class AudioEncoder(PretrainedEncoder):
    """Audio embeddings by the encoder of a Whisper model, or by a CLAP model.

    A recording is mixed to one channel, resampled to the model's rate, and split into windows of the length that the
    model expects. Its vector is the mean over the windows, weighted by their lengths. The vector of a window is the
    mean of the encoder's last hidden states over frames that are not padding (Whisper), or the vector that is compared
    with texts (CLAP).

    Args:
        model: local folder, or name on the hub.
        seconds: length to read, from the beginning.
        **kwargs: further arguments of :class:`PretrainedEncoder`.

    Raises:
        ConfigError: if the model cannot be loaded, or is of another kind.
    """

    packages: ClassVar[tuple[str, ...]] = ("transformers", "soundfile", "scipy")

    def __init__(self, model: str, seconds: float = 30.0, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        from transformers import AutoFeatureExtractor, AutoModel

        self._seconds, pretrained = seconds, self._pretrained
        with pretrained.loading():
            self._extractor = AutoFeatureExtractor.from_pretrained(model, **pretrained.arguments)
            whole, missing = pretrained.load(AutoModel, self._dtype)
        self._kind = whole.config.model_type
        if self._kind not in _MODELS:
            raise ConfigError(f"The audio model {model} is of type {self._kind}. Pass a Whisper or CLAP model.")
        pretrained.check_complete(missing)
        self._architecture, self._revision = type(whole).__name__, pretrained.revision(whole.config)
        self._model = (whole.get_encoder() if self._kind == "whisper" else whole).eval().to(self._device)
        self._rate = int(self._extractor.sampling_rate)
        self._window = int(self._extractor.n_samples if self._kind == "whisper" else self._extractor.nb_max_samples)

    def load(self, entry: str) -> _Windows:
        """Read and preprocess the recording at the path ``entry``."""
        if not os.path.isfile(entry):
            raise DataError("there is no such file")
        try:
            samples = self._read(entry)
            windows = [samples[start : start + self._window] for start in range(0, len(samples), self._window)]
            inputs = [self._extractor(window, sampling_rate=self._rate, return_tensors="pt") for window in windows]
        except DataError:
            raise
        except Exception as error:  # damaged files raise nearly any type
            reason = first_line(error).replace(entry, Path(entry).name)
            raise DataError(f"the audio cannot be read ({reason})") from error
        features = torch.cat([window["input_features"] for window in inputs])
        return _Windows(features, torch.tensor([len(window) for window in windows]))

    def _read(self, path: str) -> np.ndarray:
        """Read float32 samples at the model's rate."""
        import soundfile
        from scipy.signal import resample_poly

        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            if not _MIN_RATE <= rate <= _MAX_RATE:
                raise DataError(f"the audio has {rate} samples per second")
            # Mixed block by block, since a file may have a thousand channels.
            blocks = file.blocks(rate, frames=int(self._seconds * rate), dtype="float32", always_2d=True)
            parts = [block.mean(axis=1) for block in blocks]
        samples = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
        if not len(samples):
            raise DataError("the audio is empty")
        if not np.isfinite(samples).all():
            raise DataError("the audio has samples that are NaN or infinite")
        common = gcd(rate, self._rate)
        return resample_poly(samples, self._rate // common, rate // common) if rate != self._rate else samples

    @torch.inference_mode()
    def encode(self, batch: Sequence[_Windows]) -> Tensor:
        counts = [len(windows.samples) for windows in batch]
        features = torch.cat([windows.features for windows in batch])
        samples = torch.cat([windows.samples for windows in batch])
        parts = zip(features.split(self.batch_size), samples.split(self.batch_size), strict=True)
        vectors = torch.cat([self._encode_windows(*part) for part in parts])
        weighted = zip((vectors * samples.unsqueeze(1)).split(counts), samples.split(counts), strict=True)
        return torch.stack([windows.sum(dim=0) / lengths.sum() for windows, lengths in weighted])

    def _encode_windows(self, features: Tensor, samples: Tensor) -> Tensor:
        features = features.to(self._device, self._dtype)
        if self._kind == "clap":
            # No window is longer than the model expects; the extractor marks one at random.
            longer = torch.zeros(len(features), 1, dtype=torch.bool, device=self._device)
            output = self._model.get_audio_features(input_features=features, is_longer=longer)
            return output.pooler_output.float().cpu()
        states = self._model(features).last_hidden_state.float().cpu()
        # Number of states that begin before the padding.
        valid = (samples * states.size(1) / self._window).ceil().clamp(1, states.size(1)).unsqueeze(1)
        mask = (torch.arange(states.size(1)) < valid).unsqueeze(2)
        return (states * mask).sum(dim=1) / valid

    def describe(self) -> dict[str, Any]:
        clap = self._kind == "clap"
        return {
            **super().describe(),
            "architecture": self._architecture,
            "pooling": "projection, mean of pieces" if clap else "mean of the encoder's states, without padding",
            "seconds": self._seconds,
            "preprocessing": {
                name: value for name, value in self._extractor.to_dict().items() if isinstance(value, (str, int, float))
            },
        }
