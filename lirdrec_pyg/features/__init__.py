"""Features from a raw catalog: encoders of texts, images and audio, captions, and checks."""

from lirdrec_pyg.features.audio import AudioEncoder
from lirdrec_pyg.features.catalog import Catalog, Entries
from lirdrec_pyg.features.catalog_features import catalog_sources, encode_catalog
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.encoding import Source, make_features
from lirdrec_pyg.features.image import ImageEncoder
from lirdrec_pyg.features.postprocess import Postprocessing
from lirdrec_pyg.features.text import CausalEncoder, TextEncoder

__all__ = [
    "AudioEncoder",
    "Catalog",
    "CausalEncoder",
    "Encoder",
    "Entries",
    "ImageEncoder",
    "Postprocessing",
    "Source",
    "TextEncoder",
    "catalog_sources",
    "encode_catalog",
    "make_features",
]
