"""All models by name. A new model is one file, an import and a name here, and its exports in the package."""

from typing import Any

from lirdrec_pyg.models.base import Model, ModelConfig
from lirdrec_pyg.models.bm3 import BM3
from lirdrec_pyg.models.bpr_mf import BPRMF
from lirdrec_pyg.models.content_knn import ContentKNN
from lirdrec_pyg.models.ease import EASE
from lirdrec_pyg.models.freedom import FREEDOM
from lirdrec_pyg.models.item_knn import ItemKNN
from lirdrec_pyg.models.lightgcn import LightGCN
from lirdrec_pyg.models.lirdrec import LIRDRec
from lirdrec_pyg.models.mgcn import MGCN
from lirdrec_pyg.models.mm_gf import MMGF
from lirdrec_pyg.models.mmhcl import MMHCL
from lirdrec_pyg.models.popularity import Popularity
from lirdrec_pyg.models.vbpr import VBPR

MODELS: dict[str, type[Model]] = {
    kind.config_class.model: kind
    for kind in (LIRDRec, Popularity, ContentKNN, ItemKNN, EASE, BPRMF, LightGCN, VBPR, BM3, FREEDOM, MGCN, MMGF, MMHCL)
}
MODEL_CONFIGS: dict[str, type[ModelConfig]] = {name: kind.config_class for name, kind in MODELS.items()}


def model_class(config: ModelConfig) -> Any:
    """Return the class of the model of ``config``."""
    return MODELS[config.model]
