"""Pictures to vectors, by transformers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lirdrec_pyg.config import EncoderDtype, ImagePooling
from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.pictures import SHOWN, as_shown, opened_picture
from lirdrec_pyg.features.pretrained import Pretrained, check_installed, torch_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

# A picture is scaled by its shorter side, so a long thread of one would take any memory.
_MAX_RATIO = 100
# Of these, the token that stands for the picture is the first; what some call pooled is a layer of another use.
_CLS_MODELS = ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_mae", "vit_msn")
_SAMPLE_SIDE = 64


class ImageEncoder(Encoder):
    """Embeddings of pictures, by any model that ``AutoModel`` and ``AutoImageProcessor`` know.

    Before the model's own preprocessing, pictures are turned as the camera says, and laid on white where they are
    transparent.

    ==============  =============================================================================
    ``projection``  the vector that is compared with texts (CLIP, SigLIP and their like)
    ``pooled``      the model's own pooling
    ``cls``         the last hidden state of the first token
    ``mean``        the mean of the last hidden states
    ``auto``        ``projection`` if the model has one, ``cls`` for ViT, DINO and their like, else ``pooled`` if there
                    is such a thing, else ``mean``
    ==============  =============================================================================

    Args:
        model: a folder or a name on the hub.
        batch_size: pictures that go through the model at once.
        device: as torch names it.
        dtype: arithmetic of the model.
        pooling: what is taken of the model's output.
        option: what named the model, for messages.

    Raises:
        ConfigError: if the model can't be loaded, or can't be pooled so.
    """

    packages: ClassVar[tuple[str, ...]] = ("transformers", "pillow")

    def __init__(
        self,
        model: str,
        batch_size: int = 32,
        device: str = "cpu",
        dtype: EncoderDtype = "float32",
        pooling: ImagePooling = "auto",
        option: str = "--image-model",
    ) -> None:
        check_installed("transformers", "PIL")
        from transformers import AutoImageProcessor, AutoModel

        self.batch_size = batch_size
        self._name, self._device, self._dtype = model, device, torch_dtype(dtype)
        pretrained = Pretrained.find(model, option)
        with pretrained.loading():
            # That of Pillow: another one would need torchvision.
            self._processor = AutoImageProcessor.from_pretrained(model, backend="pil", **pretrained.arguments)
            self._model, report = AutoModel.from_pretrained(
                model, dtype=self._dtype, output_loading_info=True, **pretrained.arguments
            )
            self._model.eval().to(device)
        if self._model.config.model_type == "vit_mae":
            self._model.config.mask_ratio = 0.0  # by default it leaves out three quarters of a picture, at random
        has_projection = hasattr(self._model, "get_image_features")
        # A model that was saved for another use comes without the weights of its pooling.
        pooler = {key for key in report["missing_keys"] if "pooler" in key and not has_projection}
        pretrained.check_complete(report["missing_keys"] - pooler)
        if is_auto := pooling == "auto":
            pooling = self._usual_pooling(has_projection, has_pooler=not pooler)
        if pooling == "pooled":
            pretrained.check_complete(pooler)
        if pooling == "projection" and not has_projection:
            raise ConfigError(f"--image-pooling projection: {option} {model} has none; take cls, pooled or mean.")
        self._pooling: ImagePooling = pooling
        self._check_pooling(f"{option} {model}", or_mean=is_auto)
        self._revision = pretrained.revision(self._model.config)

    def _usual_pooling(self, has_projection: bool, has_pooler: bool) -> ImagePooling:
        if has_projection:
            return "projection"
        if self._model.config.model_type in _CLS_MODELS:
            return "cls"
        return "pooled" if has_pooler else "mean"

    def _check_pooling(self, name: str, or_mean: bool) -> None:
        """Raises :class:`ConfigError` if the model makes no vector of a picture, before others do long work.

        Args:
            name: of the model, for messages.
            or_mean: takes the mean if the model has no pooling of its own.
        """
        from PIL import Image

        try:
            sample = self._inputs(Image.new("RGB", (_SAMPLE_SIDE, _SAMPLE_SIDE)))
            if or_mean and self._pooling == "pooled" and not self._has_pooling(sample):
                self._pooling = "mean"
            self.encode([sample])
        except ConfigError:
            raise
        except Exception as error:  # a model of another kind may do anything
            raise ConfigError(
                f"{name} makes no vector of a picture ({first_line(error)}): name a model such as CLIP, SigLIP, DINO "
                "or ViT."
            ) from error

    @torch.inference_mode()
    def _has_pooling(self, inputs: Mapping[str, Tensor]) -> bool:
        return getattr(self._output(self._stacked([inputs])), "pooler_output", None) is not None

    def load(self, entry: str) -> Mapping[str, Tensor]:
        """The picture at the path ``entry``, as the model takes it."""
        with opened_picture(entry) as picture:
            width, height = picture.size
            if max(width, height) > _MAX_RATIO * min(width, height):
                raise DataError(
                    f"the picture is {width} x {height} pixels, more than {_MAX_RATIO} times as long as wide"
                )
            return self._inputs(as_shown(picture))

    def _inputs(self, picture: "Image") -> dict[str, Tensor]:
        inputs = self._processor(images=picture, return_tensors="pt")
        return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

    @torch.inference_mode()
    def encode(self, batch: Sequence[Mapping[str, Tensor]]) -> Tensor:
        if len({tuple(value.shape for value in inputs.values()) for inputs in batch}) > 1:
            # Some processors keep the proportions of a picture.
            return torch.cat([self.encode([inputs]) for inputs in batch])
        return self._pooled(self._stacked(batch)).flatten(1).float().cpu()

    def _stacked(self, batch: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        stacked = {name: torch.cat([inputs[name] for inputs in batch]).to(self._device) for name in batch[0]}
        for name, value in stacked.items():
            if value.is_floating_point():
                stacked[name] = value.to(self._dtype)
        if self._model.config.model_type == "vit_mae":
            # It goes through the parts of a picture in the order of this.
            count = self._model.embeddings.patch_embeddings.num_patches
            stacked["noise"] = torch.arange(count, device=self._device).expand(len(batch), -1)
        return stacked

    def _pooled(self, inputs: dict[str, Tensor]) -> Tensor:
        if self._pooling == "projection":
            output = self._model.get_image_features(**inputs)
            return output if isinstance(output, Tensor) else output.pooler_output
        output = self._output(inputs)
        if self._pooling == "pooled":
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:
                raise ConfigError(f"--image-pooling pooled: {self._name} has no pooling of its own; take cls or mean.")
            return pooled
        states: Tensor = output.last_hidden_state
        if states.dim() == 4:  # a convolutional network: channels before places
            states = states.flatten(2).transpose(1, 2)
            if self._pooling == "cls":
                raise ConfigError(f"--image-pooling cls: {self._name} has no such token; take pooled or mean.")
        return states[:, 0] if self._pooling == "cls" else states.mean(dim=1)

    def _output(self, inputs: dict[str, Tensor]) -> Any:
        # Of a model of pictures and texts, only the part for pictures.
        return getattr(self._model, "vision_model", self._model)(**inputs)

    def describe(self) -> dict[str, Any]:
        return {
            "library": "transformers",
            "model": self._name,
            "revision": self._revision,
            "architecture": type(self._model).__name__,
            "pooling": self._pooling,
            "preprocessing": {**SHOWN, **self._processor.to_dict()},
            "dtype": str(self._dtype).removeprefix("torch."),
        }
