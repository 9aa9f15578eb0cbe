"""Texts to vectors, by sentence-transformers."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lirdrec_pyg.config import EncoderDtype
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.pretrained import Pretrained, check_installed, described_tokenizer, torch_dtype


class TextEncoder(Encoder):
    """Sentence embeddings.

    The vectors are those of ``SentenceTransformer(model).encode(texts)``: pooling, normalisation and prompts are
    the model's own.

    Args:
        model: a folder or a name on the hub; a plain transformer gets mean pooling.
        batch_size: texts that go through the model at once.
        device: as torch names it.
        dtype: arithmetic of the model.
        max_length: tokens of a text that are read; by default as many as the model was made for.
        option: what named the model, for messages.

    Raises:
        ConfigError: if the model can't be loaded, or can't read as many tokens.
    """

    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers", "tokenizers")

    def __init__(
        self,
        model: str,
        batch_size: int = 32,
        device: str = "cpu",
        dtype: EncoderDtype = "float32",
        max_length: int | None = None,
        option: str = "--text-model",
    ) -> None:
        check_installed("sentence_transformers")
        from sentence_transformers import SentenceTransformer

        self.batch_size = batch_size
        self._name, self._dtype = model, dtype
        pretrained = Pretrained.find(model, option)
        with pretrained.loading():
            self._model = SentenceTransformer(
                model, device=device, model_kwargs={"dtype": torch_dtype(dtype)}, **pretrained.arguments
            ).eval()
            for module in list(self._model)[1:]:
                module.to(dtype=torch_dtype(dtype))
        config = getattr(getattr(self._model[0], "auto_model", None), "config", None)
        self._revision = pretrained.revision(config)
        if max_length is not None:
            most = getattr(config, "max_position_embeddings", None)
            if most is not None and max_length > most:
                raise ConfigError(f"--max-length is {max_length}, but {option} {model} reads at most {most} tokens.")
            self._model.max_seq_length = max_length

    def length(self, entry: str) -> int:
        return len(entry)

    @torch.inference_mode()
    def encode(self, batch: Sequence[str]) -> Tensor:
        vectors = self._model.encode(
            list(batch), batch_size=len(batch), convert_to_tensor=True, show_progress_bar=False
        )
        return vectors.float().cpu()

    def describe(self) -> dict[str, Any]:
        parts: list[Any] = list(self._model)
        pooling = [part.get_config_dict() for part in parts if type(part).__name__ == "Pooling"]
        return {
            "library": "sentence-transformers",
            "model": self._name,
            "revision": self._revision,
            "modules": [type(part).__name__ for part in parts],
            "pooling": pooling[0] if pooling else None,
            "preprocessing": described_tokenizer(getattr(self._model, "tokenizer", None)),
            "prompt": self._model.default_prompt_name,
            "max_length": self._model.max_seq_length,
            "dtype": self._dtype,
        }
