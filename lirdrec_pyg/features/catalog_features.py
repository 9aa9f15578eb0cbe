"""From the settings of a user to features of a catalog."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data.provenance import now, read_report, versions, write_provenance, write_report
from lirdrec_pyg.devices import resolve_device
from lirdrec_pyg.errors import ConfigError, DataError, shown
from lirdrec_pyg.features.audio import AudioEncoder
from lirdrec_pyg.features.captioners import Captioner, LocalCaptioner, ServerCaptioner
from lirdrec_pyg.features.captions import CAPTION, CAPTIONS, CaptionFile, caption_entries, make_captions
from lirdrec_pyg.features.catalog import Catalog, split_columns
from lirdrec_pyg.features.config import CaptionConfig, FeaturesConfig, TextEncoding
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.encoding import EncodingTask, FeatureFolder, Source
from lirdrec_pyg.features.endpoint import EndpointEncoder
from lirdrec_pyg.features.image import ImageEncoder
from lirdrec_pyg.features.openai_client import URL_VARIABLE, OpenAIClient
from lirdrec_pyg.features.postprocess import Postprocessing
from lirdrec_pyg.features.pretrained import Pretrained
from lirdrec_pyg.features.prompt import Prompt
from lirdrec_pyg.features.text import CausalEncoder, TextEncoder

_NO_CAPTION = "it has no caption"


def encode_catalog(
    catalog: str | Path,
    out: str | Path,
    config: FeaturesConfig,
    captions: CaptionConfig | None = None,
    overwrite: bool = False,
    update: bool = False,
    callback: Callback | None = None,
) -> dict[str, dict[str, Any]]:
    """Encode the texts, images and audio of a catalog, and captions of its images.

    Everything that can be checked is checked before the long work.

    Args:
        catalog: table with one row per item, see :class:`Catalog`.
        out: folder of the features, see :func:`make_features`.
        config: columns, models and postprocessing.
        captions: how images are described, and how the captions are encoded.
        overwrite: whether to replace features that exist, or were begun with other settings.
        update: whether to encode only what is new or has changed.
        callback: follows the work, one task per modality.

    Returns:
        The provenance record of each modality.

    Raises:
        ConfigError: if the settings are incomplete, or a model or server cannot be used.
        DataError: if the catalog cannot be used, or none of the entries of a modality.
        RunError: if the folder cannot be written, or has features with other settings.
        ServerError: if a server cannot be used; finished captions and vectors are kept.
    """
    captions, callback, folder = captions or CaptionConfig(), callback or Callback(), FeatureFolder(Path(out))
    if overwrite and update:
        raise ConfigError("`overwrite=True` encodes everything, `update=True` what has changed. Pass one of them.")
    _check_settings(config, captions, folder.path)
    device = resolve_device(config.device)
    with folder.locked():
        table = Catalog(Path(catalog), config.id_col, config.separator)
        job = _CaptionJob(table, config, captions, folder, device)
        sources = _sources(table, config if captions.image else replace(config, image_col=None), device)
        if not sources and captions.caption is None and captions.embed_captions is None:
            raise ConfigError("Nothing to encode. Pass `text_cols`, `image_col` or `audio_col`.")
        postprocessing = Postprocessing(config.pca, config.whiten, config.normalize)
        tasks = [EncodingTask.plan(folder, source, postprocessing, overwrite, update) for source in sources]
        if captions.caption is not None:
            job.describe_images(callback)
        records = {task.source.modality: task.run(callback) for task in tasks}
        if captions.embed_captions is not None:
            source = Source(CAPTION, caption_entries(table.ids, job.file), job.load_encoder())
            made = folder.partial(CAPTION).settings() or folder.record(CAPTION)
            # Captions that have changed since are encoded again.
            replaces = overwrite or (not update and bool(made) and made.get("catalog") != source.entries.facts)
            records[CAPTION] = EncodingTask.plan(folder, source, postprocessing, replaces, update).run(callback)
            job.write_report()
    return records


def catalog_sources(path: str | Path, config: FeaturesConfig, device: str = "cpu") -> list[Source]:
    """Read a catalog, and load the encoders of the modalities that ``config`` has columns for.

    Args:
        path: table with one row per item.
        config: columns and models.
        device: torch device.

    Raises:
        DataError: if the catalog cannot be used.
        ConfigError: if a model cannot be loaded.
    """
    return _sources(Catalog(Path(path), config.id_col, config.separator), config, device)


def _sources(catalog: Catalog, config: FeaturesConfig, device: str) -> list[Source]:
    entries = {}
    if config.text_cols is not None:
        entries["text"] = catalog.texts(split_columns(config.text_cols))
    if config.image_col is not None:
        entries["image"] = catalog.files(config.image_col, config.root)
    if config.audio_col is not None:
        entries["audio"] = catalog.files(config.audio_col, config.root)
    kwargs = _loading(config, device)
    encoders: dict[str, Callable[[], Encoder]] = {
        "text": lambda: _text_encoder(config.text_model, config.text_by, config, device),
        "image": lambda: ImageEncoder(config.image_model, config.image_pooling, **kwargs),
        "audio": lambda: AudioEncoder(config.audio_model, config.audio_seconds, **kwargs),
    }
    return [Source(modality, found, encoders[modality]()) for modality, found in entries.items()]


def _text_encoder(model: str, method: TextEncoding, config: FeaturesConfig, device: str) -> TextEncoder:
    if method == "sentence":
        return TextEncoder(model, config.max_length, **_loading(config, device))
    return CausalEncoder(model, method, config.max_length, **_loading(config, device))


def _loading(config: FeaturesConfig, device: str) -> dict[str, Any]:
    return {"batch_size": config.batch_size, "device": device, "dtype": config.dtype}


def _check_settings(config: FeaturesConfig, captions: CaptionConfig, out: Path) -> None:
    """Raise :class:`ConfigError` if settings are incomplete."""
    if config.text_by != "sentence" and (config.text_cols is None or config.text_model == FeaturesConfig.text_model):
        raise ConfigError("`text_by` needs texts and a causal language model. Pass `text_cols` and `text_model`.")
    if captions.caption is None:
        if captions.embed_captions is not None and not (out / CAPTIONS).is_file():
            raise ConfigError(f"There is no {out / CAPTIONS} to encode. Pass `caption` to describe the images.")
        if captions.prompt is not None or captions.recaption:
            raise ConfigError("`prompt` and `recaption` need a model that describes the images. Pass `caption`.")
    elif config.image_col is None:
        raise ConfigError("`caption` needs images. Pass the column of their paths as `image_col`.")
    if captions.embed_captions is None and captions.embed_captions_by != "sentence":
        raise ConfigError("`embed_captions_by` needs a model that encodes captions. Pass `embed_captions`.")
    if captions.embed_url is not None and captions.embed_captions_by != "endpoint":
        raise ConfigError("`embed_url` is a server that encodes captions. Pass `embed_captions_by='endpoint'`.")


class _CaptionJob:
    """Captions of a catalog's images and their encoding; raises the errors of :func:`encode_catalog`."""

    def __init__(
        self, catalog: Catalog, config: FeaturesConfig, captions: CaptionConfig, folder: FeatureFolder, device: str
    ) -> None:
        self._captions, self._folder = captions, folder
        self._prompt = Prompt.read(Path(captions.prompt)) if captions.prompt else Prompt()
        self._failures: dict[str, str] = {}
        self._load_captioner: Callable[[], Captioner]
        self.load_encoder: Callable[[], Encoder]
        if (model := captions.caption) is not None:
            assert config.image_col is not None
            self._images = catalog.files(config.image_col, config.root)
            self._texts = self._prompt.texts(catalog)
            if captions.caption_url is not None or (os.environ.get(URL_VARIABLE) and not os.path.isdir(model)):
                self._load_captioner = partial(ServerCaptioner, self._connect(captions.caption_url), model)
            else:
                Pretrained.find(model)
                size = captions.caption_concurrency
                self._load_captioner = partial(LocalCaptioner, model, size, device, config.dtype)
        if (model := captions.embed_captions) is not None:
            if captions.embed_captions_by == "endpoint":
                client = self._connect(captions.embed_url or captions.caption_url)
                self.load_encoder = partial(EndpointEncoder, client, model, config.batch_size)
            else:
                Pretrained.find(model)
                self.load_encoder = partial(_text_encoder, model, captions.embed_captions_by, config, device)

    @cached_property
    def file(self) -> CaptionFile:
        """File of the captions, read on first use."""
        return CaptionFile(self._folder.path / CAPTIONS)

    def _connect(self, url: str | None) -> OpenAIClient:
        config = self._captions
        return OpenAIClient(url, config.api_key_env, config.caption_concurrency, config.caption_timeout)

    def describe_images(self, callback: Callback) -> None:
        """Make missing captions; raise :class:`DataError` if there are none at all."""
        captioner, recaption = self._load_captioner(), self._captions.recaption
        # Written before the first caption, so that a kill leaves none of unknown origin.
        report = make_captions(
            *(self._images, self._texts, self._prompt, captioner, self.file, recaption, callback),
            on_first=lambda: self._write_provenance(captioner),
        )
        self._failures = {str(item): f"{_NO_CAPTION}: {reason}" for item, reason in report.failures.items()}
        without = (str(item) for item in self._images.missing if self.file.get(item) is None)
        self._failures |= dict.fromkeys(without, "it has no image")
        self.write_report()
        if not report.made + report.kept:
            item = self._images.frame["item_id"][0]
            raise DataError(
                f"None of the {len(self._images):,} images could be described. Reason for item {shown(item)}: "
                f"{report.failures[item]}."
            )

    def write_report(self) -> None:
        """Report why items have no caption; the encoder only knows that they have none."""
        if self._captions.caption is None:
            return
        reasons = {}
        if self._folder.record(CAPTION):
            lines = read_report(self._folder.path).filter(pl.col("modality") == CAPTION)
            for item, reason in lines.select("item_id", "reason").iter_rows():
                is_new = reason.startswith(_NO_CAPTION) and self.file.get(item) is not None
                reasons[item] = "its caption was made after the features" if is_new else reason
        reasons |= self._failures
        missing = pl.DataFrame({"item_id": list(reasons), "reason": list(reasons.values())})
        write_report(self._folder.path, CAPTION, missing.cast(pl.String))

    def _write_provenance(self, captioner: Captioner) -> None:
        """Record how captions are made from now on, and how earlier ones were."""
        before = self._folder.record(CAPTIONS)
        earlier = before.pop("earlier", [])
        record: dict[str, Any] = {
            "file": CAPTIONS,
            "captioner": captioner.describe(),
            "prompt": self._prompt.template,
            "versions": versions(captioner.packages),
        }
        if before and any(before.get(key) != value for key, value in record.items()):
            earlier = [*earlier, before]
        record |= {"date": now(), **({"earlier": earlier} if earlier else {})}
        write_provenance(self._folder.path, CAPTIONS, record)
