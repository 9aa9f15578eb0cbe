"""Texts to vectors, by the hidden states of a causal language model."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lirdrec_pyg.config import EncoderDtype
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.pretrained import Pretrained, check_installed, described_tokenizer, torch_dtype

CausalPooling = Literal["last-token", "mean"]

# Models read far longer texts than captions are, in memory that grows with them.
_MAX_LENGTH = 512


class CausalEncoder(Encoder):
    r"""Embeddings of a causal language model such as Qwen, Llama or a model tuned for embeddings.

    With hidden states :math:`h_1 \dots h_T` of the last layer (after its norm) at the ``T`` tokens of a text, special
    tokens that the tokenizer adds among them, the vector is :math:`h_T` (``last-token``, the only one that has seen the
    whole text) or :math:`\frac{1}{T}\sum_t h_t` (``mean``). What a batch is filled up with counts for neither. A text
    without any token is embedded as the end-of-text token alone.

    Args:
        model: a folder or a name on the hub.
        pooling: which of the two.
        batch_size: texts that go through the model at once.
        device: as torch names it.
        dtype: arithmetic of the model; the vectors are float32.
        max_length: tokens of a text that are read, from its beginning; by default 512.
        option: what named the model, for messages.

    Raises:
        ConfigError: if the model can't be loaded, or has no tokenizer.
    """

    packages: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers")

    def __init__(
        self,
        model: str,
        pooling: CausalPooling = "last-token",
        batch_size: int = 8,
        device: str = "cpu",
        dtype: EncoderDtype = "float32",
        max_length: int | None = None,
        option: str = "--embed-captions",
    ) -> None:
        check_installed("transformers")
        from transformers import AutoModel, AutoTokenizer

        self.batch_size = batch_size
        self._name, self._pooling, self._device, self._dtype = model, pooling, device, dtype
        pretrained = Pretrained.find(model, option)
        with pretrained.loading():
            self._tokenizer = AutoTokenizer.from_pretrained(model, **pretrained.arguments)
            loaded, info = AutoModel.from_pretrained(
                model, dtype=torch_dtype(dtype), output_loading_info=True, **pretrained.arguments
            )
        pretrained.check_complete(info["missing_keys"])
        self._model = loaded.to(device).eval()
        self._end = self._tokenizer.eos_token or self._tokenizer.pad_token
        if self._end is None:
            raise ConfigError(f"{option} {model} has no end-of-text token, by which batches are filled up.")
        # On the right, where a causal model's other tokens don't see it: vectors don't depend on the batch.
        self._tokenizer.padding_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._end
        self.max_length = max_length or _MAX_LENGTH
        most = getattr(loaded.config, "max_position_embeddings", None)
        if most is not None and self.max_length > most:
            if max_length is not None:
                raise ConfigError(f"--max-length is {max_length}, but {option} {model} reads at most {most} tokens.")
            self.max_length = most
        self._revision = pretrained.revision(loaded.config)

    def length(self, entry: str) -> int:
        return len(entry)

    @torch.inference_mode()
    def encode(self, batch: Sequence[str]) -> Tensor:
        tokens = self._tokens(list(batch))
        mask = tokens["attention_mask"].bool()
        if not mask.any(1).all():
            tokens = self._tokens([text if some else self._end for text, some in zip(batch, mask.any(1).tolist())])
            mask = tokens["attention_mask"].bool()
        tokens = {name: value.to(self._device) for name, value in tokens.items()}
        hidden = self._model(**tokens, use_cache=False).last_hidden_state.float()
        mask = mask.to(hidden.device)
        if self._pooling == "mean":
            vectors = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        else:
            vectors = hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
        return vectors.cpu()

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def describe(self) -> dict[str, Any]:
        return {
            "library": "transformers",
            "model": self._name,
            "revision": self._revision,
            "architecture": type(self._model).__name__,
            "preprocessing": described_tokenizer(self._tokenizer),
            "pooling": self._pooling,
            "max_length": self.max_length,
            "dtype": self._dtype,
        }
