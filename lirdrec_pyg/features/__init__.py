"""From a raw catalogue to item features: encoders, the writing of their work, and checks."""

from lirdrec_pyg.features.audio import AudioEncoder
from lirdrec_pyg.features.blocks import Source
from lirdrec_pyg.features.caption_source import CaptionWork, check_captions
from lirdrec_pyg.features.captions import Hooks as CaptionHooks
from lirdrec_pyg.features.catalogue import Catalogue, Entries
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.folder import Hooks, check_before, make_features
from lirdrec_pyg.features.image import ImageEncoder
from lirdrec_pyg.features.postprocess import Postprocessing
from lirdrec_pyg.features.sources import catalogue_sources
from lirdrec_pyg.features.text import TextEncoder

__all__ = [
    "AudioEncoder",
    "CaptionHooks",
    "CaptionWork",
    "Catalogue",
    "Encoder",
    "Entries",
    "Hooks",
    "ImageEncoder",
    "Postprocessing",
    "Source",
    "TextEncoder",
    "catalogue_sources",
    "check_before",
    "check_captions",
    "make_features",
]
