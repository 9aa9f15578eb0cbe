"""Pictures by way of language: from the settings of a user to the modality ``caption``."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from lirdrec_pyg.config import CaptionConfig, FeaturesConfig
from lirdrec_pyg.data.tables import shown
from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.features.blocks import Source
from lirdrec_pyg.features.captioners import MAX_NEW_TOKENS, Captioner, LocalCaptioner, ServerCaptioner
from lirdrec_pyg.features.captions import (
    CAPTION,
    CAPTIONS,
    CaptionFile,
    CaptionReport,
    Hooks,
    caption_entries,
    make_captions,
)
from lirdrec_pyg.features.catalogue import Catalogue, Entries
from lirdrec_pyg.features.causal import CausalEncoder
from lirdrec_pyg.features.chat import URL_VARIABLE, Server
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.endpoint import EndpointEncoder
from lirdrec_pyg.features.folder import FeatureFolder
from lirdrec_pyg.features.postprocess import Postprocessing
from lirdrec_pyg.features.pretrained import Pretrained
from lirdrec_pyg.features.prompt import Prompt
from lirdrec_pyg.features.provenance import now, read_report, versions, write_record, write_report
from lirdrec_pyg.features.text import TextEncoder

_NO_CAPTION = "it has no caption"


@dataclass
class CaptionWork:
    """Captions of a catalogue's pictures, and their embedding, as a user asked for them.

    Args:
        catalogue: the table.
        features: columns, and how models compute.
        captions: what to do.
        out: folder of the features.
        device: where to compute, as torch names it.

    Raises:
        ConfigError: whatever can be known before a model is loaded: settings that don't go together, a prompt, a model
            or a server that can't be used.
        DataError: if the catalogue can't be used.
    """

    catalogue: Path
    features: FeaturesConfig
    captions: CaptionConfig
    out: Path
    device: str = "cpu"
    _failures: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_captions(self.features, self.captions, self.out)
        self._prompt = Prompt.read(Path(self.captions.prompt)) if self.captions.prompt else Prompt()
        self._catalogue = Catalogue(self.catalogue, self.features.id_col, self.features.separator)
        if self.captions.caption is not None:
            assert self.features.image_col is not None
            root = None if self.features.root is None else Path(self.features.root)
            self._pictures: Entries | None = self._catalogue.files(self.features.image_col, "--image-col", root)
            self._texts = self._prompt.texts(self._catalogue)
            if _on_server(self.captions):
                self._server(self.captions.caption_url)
            else:
                Pretrained.find(self.captions.caption, "--caption")
        if self.captions.embed_captions is not None:
            if self.captions.embed_captions_by == "endpoint":
                self._server(self.captions.embed_url or self.captions.caption_url)
            else:
                Pretrained.find(self.captions.embed_captions, "--embed-captions")

    def describe(self, hooks: Hooks | None = None) -> CaptionReport | None:
        """Makes the captions that are lacking; ``None`` if none were asked for.

        Raises:
            LIRDRecError: of :func:`~lirdrec_pyg.features.captions.make_captions`.
            DataError: if there is no caption at all.
        """
        if self.captions.caption is None:
            return None
        assert self._pictures is not None
        folder = FeatureFolder(self.out)
        folder.check_writable()
        with folder.locked():
            captioner = self._captioner(self.captions.caption)
            # Before there is any caption, so that a kill doesn't leave some of which nobody knows the prompt.
            hooks = replace(hooks or Hooks(), on_first=lambda: self._write_record(captioner))
            report = make_captions(
                self._pictures,
                self._texts,
                self._prompt,
                captioner,
                self.out / CAPTIONS,
                self.captions.recaption,
                hooks,
            )
            self._failures = {str(item): f"{_NO_CAPTION}: {reason}" for item, reason in report.failures.items()}
            captioned = CaptionFile(self.out / CAPTIONS)  # also by hand
            without = (str(item) for item in self._pictures.missing.to_list() if item not in captioned)
            self._failures |= dict.fromkeys(without, "it has no picture")
            self.explain_report()
        if not report.made + report.kept:
            item = self._pictures.frame["item_id"][0]
            raise DataError(
                f"None of the {len(self._pictures):,} pictures could be described; that of item {shown(item)}: "
                f"{report.failures[item]}."
            )
        return report

    def check_before(self, postprocessing: Postprocessing, update: bool) -> None:
        """Raises :class:`RunError` if the features that are there can't follow captions that are made now.

        Without ``update`` they are made anew; with it, vectors are added to those that are there.
        """
        folder = FeatureFolder(self.out)
        record = folder.record(CAPTION)
        if self.captions.caption is None or self.captions.embed_captions is None or not update or record is None:
            return
        if record.get("postprocessing", {}) != postprocessing.describe():
            raise RunError(
                f"The features of captions in {self.out} went through other steps after the encoding than those that "
                "are asked for now, so that no vectors can be added: make them anew with --overwrite."
            )
        if folder.blocks(CAPTION).settings() is None:
            folder.check_unprocessed(CAPTION)

    def source(self) -> Source | None:
        """What the modality ``caption`` is made of; ``None`` if it was not asked for.

        Raises:
            DataError: if no item has a caption.
            ConfigError: if the encoder can't be loaded.
        """
        if self.captions.embed_captions is None:
            return None
        entries = caption_entries(self._catalogue.ids, self.out / CAPTIONS)
        return Source(CAPTION, entries, self._encoder(self.captions.embed_captions))

    def is_outdated(self, source: Source) -> bool:
        """Whether captions were corrected or added since their features were made."""
        folder = FeatureFolder(self.out)
        made = folder.blocks(CAPTION).settings() or folder.record(CAPTION)
        return made is not None and made.get("catalogue") != source.entries.facts

    def explain_report(self) -> None:
        """Says in the report why items have no caption; encoders know only that they have none."""
        if self.captions.caption is None:
            return
        reasons = {}
        # Where there are features, lines may also be of captions that no model took.
        if FeatureFolder(self.out).record(CAPTION) is not None:
            lines = read_report(self.out).filter(pl.col("modality") == CAPTION)
            captioned = CaptionFile(self.out / CAPTIONS)
            for item, reason in lines.select("item_id", "reason").iter_rows():
                is_old = item in captioned and reason.startswith(_NO_CAPTION)
                reasons[item] = "its caption was made after the features" if is_old else reason
        reasons |= self._failures
        lacking = pl.DataFrame({"item_id": list(reasons), "reason": list(reasons.values())})
        write_report(self.out, CAPTION, lacking.cast(pl.String))

    def _server(self, url: str | None) -> Server:
        config = self.captions
        return Server(url, config.api_key_env, config.caption_concurrency, config.caption_timeout)

    def _captioner(self, model: str) -> Captioner:
        config = self.captions
        if _on_server(config):
            return ServerCaptioner(self._server(config.caption_url), model, max_new_tokens=MAX_NEW_TOKENS)
        return LocalCaptioner(
            model, config.caption_concurrency, self.device, self.features.dtype, max_new_tokens=MAX_NEW_TOKENS
        )

    def _encoder(self, model: str) -> Encoder:
        config, way = self.features, self.captions.embed_captions_by
        if way == "endpoint":
            server = self._server(self.captions.embed_url or self.captions.caption_url)
            return EndpointEncoder(server, model, config.batch_size)
        option = "--embed-captions"
        if way == "sentence":
            return TextEncoder(model, config.batch_size, self.device, config.dtype, config.max_length, option)
        return CausalEncoder(model, way, config.batch_size, self.device, config.dtype, config.max_length, option)

    def _write_record(self, captioner: Captioner) -> None:
        """Puts down how captions are made from now on; those that are there may come from another model or prompt."""
        before = dict(FeatureFolder(self.out).record(CAPTIONS) or {})
        earlier = before.pop("earlier", [])
        record = {
            "file": CAPTIONS,
            "captioner": captioner.describe(),
            "prompt": self._prompt.template,
            "versions": versions(captioner.packages),
        }
        if before and any(before.get(key) != value for key, value in record.items()):
            earlier = [*earlier, before]
        write_record(self.out, CAPTIONS, {**record, "date": now(), **({"earlier": earlier} if earlier else {})})


def _on_server(config: CaptionConfig) -> bool:
    if config.caption_url is not None:
        return True
    return bool(os.environ.get(URL_VARIABLE)) and not os.path.isdir(config.caption or "")


def check_captions(features: FeaturesConfig, captions: CaptionConfig, out: Path) -> None:
    """Raises :class:`ConfigError` if settings don't go together, or ask for what is not there."""
    if captions.caption is not None and features.image_col is None:
        raise ConfigError("--caption describes pictures: name the column of their paths with --image-col.")
    if captions.caption is None:
        if captions.embed_captions is not None and not (out / CAPTIONS).is_file():
            raise ConfigError(f"There is no {out / CAPTIONS} to embed: have captions made with --caption.")
        for option, given in {"--prompt": captions.prompt, "--recaption": captions.recaption}.items():
            if given:
                raise ConfigError(f"{option} is for making captions: name the model with --caption.")
    if captions.embed_captions is None and captions.embed_captions_by != "sentence":
        raise ConfigError("--embed-captions-by says how captions are encoded: name the model with --embed-captions.")
    if captions.embed_url is not None and captions.embed_captions_by != "endpoint":
        raise ConfigError("--embed-url is a server that embeds captions: say --embed-captions-by endpoint.")
