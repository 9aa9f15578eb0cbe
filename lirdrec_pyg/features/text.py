from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features.encoder import PretrainedEncoder

CausalPooling = Literal["last-token", "mean"]

# Causal models read far longer texts than captions, and memory grows with the length.
_CAUSAL_MAX_LENGTH = 512


class TextEncoder(PretrainedEncoder):
    """Sentence embeddings by sentence-transformers.

    The vectors are those of ``SentenceTransformer(model).encode(texts)``, with the model's own pooling, normalization
    and prompt; a plain transformer gets mean pooling.

    Args:
        model: local folder, or name on the hub.
        max_length: maximum number of tokens per text; by default that of the model.
        **kwargs: further arguments of :class:`PretrainedEncoder`.

    Raises:
        ConfigError: if the model cannot be loaded, or cannot read that many tokens.
    """

    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers", "tokenizers")

    def __init__(self, model: str, max_length: int | None = None, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        with self._pretrained.loading():
            self._model: Any = self._load()
        for module in list(self._model)[1:]:
            module.to(dtype=self._dtype)
        config = getattr(getattr(self._model[0], "auto_model", None), "config", None)
        self._revision = self._pretrained.revision(config)
        if max_length is not None:
            limit = getattr(config, "max_position_embeddings", None)
            if limit is not None and max_length > limit:
                raise ConfigError(f"`max_length` is {max_length}, but the model {model} reads at most {limit} tokens.")
            self._model.max_seq_length = max_length

    def _load(self) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            self._name,
            device=self._device,
            model_kwargs={"dtype": self._dtype},
            **self._pretrained.arguments,
        ).eval()

    @torch.inference_mode()
    def encode(self, batch: Sequence[str]) -> Tensor:
        vectors: Tensor = self._model.encode(
            list(batch), batch_size=len(batch), convert_to_tensor=True, show_progress_bar=False
        )
        return vectors.float().cpu()

    def describe(self) -> dict[str, Any]:
        modules = list(self._model)
        pooling = [module.get_config_dict() for module in modules if type(module).__name__ == "Pooling"]
        return {
            **super().describe(),
            "library": "sentence-transformers",
            "modules": [type(module).__name__ for module in modules],
            "pooling": pooling[0] if pooling else None,
            "preprocessing": self._describe_tokenizer(),
            "prompt": self._model.default_prompt_name,
            "max_length": self._model.max_seq_length,
        }

    def _describe_tokenizer(self) -> dict[str, Any]:
        # The rest of the tokenizer is covered by the revision.
        tokenizer = getattr(self._model, "tokenizer", None)
        return {"tokenizer": type(tokenizer).__name__, "cut_at": getattr(tokenizer, "truncation_side", None)}


class CausalEncoder(TextEncoder):
    r"""Text embeddings by the hidden states of a causal language model, such as Qwen or Llama.

    With hidden states :math:`h_1 \dots h_T` of the last layer (after its norm) at the :math:`T` tokens of a text,
    including special tokens that the tokenizer adds, the vector is :math:`h_T` (``last-token``, the only one that
    attends to the whole text) or :math:`\frac{1}{T}\sum_t h_t` (``mean``). A chat template is not used.

    Args:
        model: local folder, or name on the hub.
        pooling: pooling of the hidden states.
        max_length: maximum number of tokens per text; by default 512, or less if the model reads less.
        **kwargs: further arguments of :class:`PretrainedEncoder`.

    Raises:
        ConfigError: if the model cannot be loaded, or cannot read that many tokens.
    """

    def __init__(
        self, model: str, pooling: CausalPooling = "last-token", max_length: int | None = None, **kwargs: Any
    ) -> None:
        self._pooling = pooling
        super().__init__(model, max_length, **kwargs)

    def _load(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        arguments = self._pretrained.arguments
        transformer = Transformer(
            self._name,
            model_kwargs={"dtype": self._dtype, **arguments},
            # Tokens before the padding do not attend to it, so vectors do not depend on the batch.
            processor_kwargs={"padding_side": "right", **arguments},
            config_kwargs=arguments,
            # The text as it is: a model with a chat template would read the text as a message.
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
        )
        if transformer.tokenizer.pad_token is None:
            transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
        transformer.max_seq_length = min(transformer.max_seq_length or _CAUSAL_MAX_LENGTH, _CAUSAL_MAX_LENGTH)
        mode: Literal["lasttoken", "mean"] = "lasttoken" if self._pooling == "last-token" else "mean"
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
        return SentenceTransformer(modules=[transformer, pooling], device=self._device).eval()

    def describe(self) -> dict[str, Any]:
        return {
            **PretrainedEncoder.describe(self),
            "architecture": type(self._model[0].auto_model).__name__,
            "preprocessing": self._describe_tokenizer(),
            "pooling": self._pooling,
            "chat_template": False,
            "max_length": self._model.max_seq_length,
        }
