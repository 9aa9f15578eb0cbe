"""What the modalities of a catalogue are made of, by the settings of a user."""

from collections.abc import Callable
from pathlib import Path

from lirdrec_pyg.config import FeaturesConfig
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features.audio import AudioEncoder
from lirdrec_pyg.features.blocks import Source
from lirdrec_pyg.features.catalogue import Catalogue, Entries, split_columns
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.image import ImageEncoder
from lirdrec_pyg.features.text import TextEncoder


def catalogue_entries(catalogue: Catalogue, config: FeaturesConfig) -> dict[str, Entries]:
    """The entries of each modality that ``config`` names a column of.

    Raises:
        DataError: of :meth:`Catalogue.texts` and :meth:`Catalogue.files`.
    """
    root = None if config.root is None else Path(config.root)
    entries = {}
    if config.text_cols is not None:
        entries["text"] = catalogue.texts(split_columns(config.text_cols, "--text-cols"))
    if config.image_col is not None:
        entries["image"] = catalogue.files(config.image_col, "--image-col", root)
    if config.audio_col is not None:
        entries["audio"] = catalogue.files(config.audio_col, "--audio-col", root)
    return entries


def catalogue_sources(path: str | Path, config: FeaturesConfig, device: str = "cpu") -> list[Source]:
    """Reads and checks the catalogue, and then loads the encoders of the modalities that ``config`` names.

    Args:
        path: the catalogue.
        config: columns and models.
        device: where to encode, as torch names it.

    Raises:
        DataError: if the catalogue can't be used.
        ConfigError: if a model can't be loaded, or there is nothing to encode.
    """
    catalogue = Catalogue(Path(path), config.id_col, config.separator)
    entries = catalogue_entries(catalogue, config)
    if not entries:
        raise ConfigError("There is nothing to encode: name --text-cols, --image-col or --audio-col.")
    return [Source(modality, found, _ENCODERS[modality](config, device)) for modality, found in entries.items()]


def _text_encoder(config: FeaturesConfig, device: str) -> Encoder:
    return TextEncoder(config.text_model, config.batch_size, device, config.dtype, config.max_length)


def _image_encoder(config: FeaturesConfig, device: str) -> Encoder:
    return ImageEncoder(config.image_model, config.batch_size, device, config.dtype, config.image_pooling)


def _audio_encoder(config: FeaturesConfig, device: str) -> Encoder:
    return AudioEncoder(config.audio_model, config.batch_size, device, config.dtype, config.audio_seconds)


_ENCODERS: dict[str, Callable[[FeaturesConfig, str], Encoder]] = {
    "text": _text_encoder,
    "image": _image_encoder,
    "audio": _audio_encoder,
}
