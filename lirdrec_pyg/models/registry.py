"""The models by their names on the command line."""

from typing import Any

from lirdrec_pyg.config import ModelConfig
from lirdrec_pyg.models.bm3 import BM3
from lirdrec_pyg.models.bpr_mf import BPRMF
from lirdrec_pyg.models.content_knn import ContentKNN
from lirdrec_pyg.models.ease import EASE
from lirdrec_pyg.models.freedom import FREEDOM
from lirdrec_pyg.models.item_knn import ItemKNN
from lirdrec_pyg.models.lightgcn import LightGCN
from lirdrec_pyg.models.lirdrec import LIRDRec
from lirdrec_pyg.models.mgcn import MGCN
from lirdrec_pyg.models.popularity import Popularity
from lirdrec_pyg.models.vbpr import VBPR

# A trained model is a LIRDRec or an EmbeddingModel, one that is computed at once a ClosedFormModel.
MODELS: dict[str, Any] = {
    "lirdrec": LIRDRec,
    "popularity": Popularity,
    "content-knn": ContentKNN,
    "item-knn": ItemKNN,
    "ease": EASE,
    "bpr-mf": BPRMF,
    "lightgcn": LightGCN,
    "vbpr": VBPR,
    "bm3": BM3,
    "freedom": FREEDOM,
    "mgcn": MGCN,
}


def model_class(config: ModelConfig) -> Any:
    """The class of the model that ``config`` has the hyper-parameters of."""
    return MODELS[config.model]
