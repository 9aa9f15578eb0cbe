from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lirdrec_pyg.data.image_files import SHOWN, as_shown, opened_image
from lirdrec_pyg.errors import ConfigError, DataError, first_line
from lirdrec_pyg.features.config import ImagePooling
from lirdrec_pyg.features.encoder import PretrainedEncoder

if TYPE_CHECKING:
    import PIL.Image

# Processors scale by the shorter side, so a very long image would exhaust the memory.
_MAX_RATIO = 100
# The first token of these represents the image; their pooler is a layer of another task.
_CLS_MODELS = ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_mae", "vit_msn")
_SAMPLE_SIZE = (64, 64)


class ImageEncoder(PretrainedEncoder):
    """Image embeddings by any model that ``AutoModel`` and ``AutoImageProcessor`` support.

    Before the model's own preprocessing, images are converted by :func:`~lirdrec_pyg.data.image_files.as_shown`.

    ==============  =============================================================================
    ``projection``  vector that is compared with texts (CLIP, SigLIP and similar)
    ``pooled``      the model's own pooling
    ``cls``         last hidden state of the first token
    ``mean``        mean of the last hidden states
    ``auto``        ``projection`` if the model has one, ``cls`` for ViT, DINO and similar, else ``pooled`` if the model
                    has its own pooling, else ``mean``
    ==============  =============================================================================

    Args:
        model: local folder, or name on the hub.
        pooling: pooling of the model's output.
        **kwargs: further arguments of :class:`PretrainedEncoder`.

    Raises:
        ConfigError: if the model cannot be loaded, or does not support the pooling.
    """

    packages: ClassVar[tuple[str, ...]] = ("transformers", "pillow")

    def __init__(self, model: str, pooling: ImagePooling = "auto", **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        from PIL import Image
        from transformers import AutoImageProcessor, AutoModel

        pretrained = self._pretrained
        with pretrained.loading():
            # The other backend needs torchvision.
            self._processor = AutoImageProcessor.from_pretrained(model, backend="pil", **pretrained.arguments)
            self._model, missing = pretrained.load(AutoModel, self._dtype)
            self._model.eval().to(self._device)
        self._kind = self._model.config.model_type
        if self._kind == "vit_mae":
            self._model.config.mask_ratio = 0.0  # by default it drops three quarters of an image, at random
        has_projection = hasattr(self._model, "get_image_features")
        # A model that was saved for another task has no weights of the pooler.
        pooler = {key for key in missing if "pooler" in key and not has_projection}
        pretrained.check_complete(missing - pooler)
        if pooling == "projection" and not has_projection:
            raise self._unsupported("projection")
        if pooling == "pooled":
            pretrained.check_complete(pooler)
        self._pooling: ImagePooling = pooling
        try:
            sample = self._preprocess(Image.new("RGB", _SAMPLE_SIZE))
            if pooling == "auto":
                self._pooling = self._usual_pooling(sample, has_projection, has_pooler=not pooler)
            self.encode([sample])
        except ConfigError:
            raise
        except Exception as error:  # a model of another kind may raise anything
            raise ConfigError(
                f"The model {model} does not return a vector per image ({first_line(error)}). Pass a model such as "
                "CLIP, SigLIP, DINO or ViT."
            ) from error
        self._revision = pretrained.revision(self._model.config)

    @torch.inference_mode()
    def _usual_pooling(self, sample: dict[str, Tensor], has_projection: bool, has_pooler: bool) -> ImagePooling:
        if has_projection:
            return "projection"
        if self._kind in _CLS_MODELS:
            return "cls"
        has_pooler = has_pooler and getattr(self._run(self._stack([sample])), "pooler_output", None) is not None
        return "pooled" if has_pooler else "mean"

    def _unsupported(self, pooling: str) -> ConfigError:
        return ConfigError(f"The model {self._name} does not support `image_pooling={pooling!r}`. Choose another one.")

    def load(self, entry: str) -> Mapping[str, Tensor]:
        """Read and preprocess the image at the path ``entry``."""
        with opened_image(entry) as image:
            width, height = image.size
            if max(width, height) > _MAX_RATIO * min(width, height):
                raise DataError(f"the image has {width} x {height} pixels, an aspect ratio of more than {_MAX_RATIO}")
            return self._preprocess(as_shown(image))

    def _preprocess(self, image: "PIL.Image.Image") -> dict[str, Tensor]:
        inputs = self._processor(images=image, return_tensors="pt")
        return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

    @torch.inference_mode()
    def encode(self, batch: Sequence[Mapping[str, Tensor]]) -> Tensor:
        if len({tuple(value.shape for value in inputs.values()) for inputs in batch}) > 1:
            # Some processors keep the aspect ratio.
            return torch.cat([self.encode([inputs]) for inputs in batch])
        return self._pool(self._stack(batch)).flatten(1).float().cpu()

    def _stack(self, batch: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        from transformers import BatchFeature

        stacked = BatchFeature({name: torch.cat([inputs[name] for inputs in batch]) for name in batch[0]})
        stacked = stacked.to(self._device, self._dtype)  # casts floats only
        if self._kind == "vit_mae":
            # It orders the patches by this noise.
            count = self._model.embeddings.patch_embeddings.num_patches
            stacked["noise"] = torch.arange(count, device=self._device).expand(len(batch), -1)
        return stacked

    def _pool(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._pooling == "projection":
            return self._model.get_image_features(**inputs).pooler_output
        output = self._run(inputs)
        if self._pooling == "pooled":
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:
                raise self._unsupported("pooled")
            return pooled
        states: Tensor = output.last_hidden_state
        if states.dim() == 4:  # a convolutional network: [batch, channels, height, width]
            states = states.flatten(2).transpose(1, 2)
            if self._pooling == "cls":
                raise self._unsupported("cls")
        return states[:, 0] if self._pooling == "cls" else states.mean(dim=1)

    def _run(self, inputs: Mapping[str, Tensor]) -> Any:
        # Only the image tower of a model of images and texts.
        return getattr(self._model, "vision_model", self._model)(**inputs)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "architecture": type(self._model).__name__,
            "pooling": self._pooling,
            "preprocessing": {**SHOWN, **self._processor.to_dict()},
        }
