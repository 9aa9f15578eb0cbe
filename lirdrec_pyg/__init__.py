"""LIRDRec on PyTorch Geometric: multimodal recommendation without item IDs."""

import importlib
from typing import TYPE_CHECKING, Any

from lirdrec_pyg._version import __version__

if TYPE_CHECKING:
    from lirdrec_pyg.callback import Callback as Callback
    from lirdrec_pyg.data import DataConfig as DataConfig
    from lirdrec_pyg.data import Dataset as Dataset
    from lirdrec_pyg.data import ItemCatalog as ItemCatalog
    from lirdrec_pyg.data import build_graph as build_graph
    from lirdrec_pyg.data import check_graph as check_graph
    from lirdrec_pyg.evaluation import evaluate_ranking as evaluate_ranking
    from lirdrec_pyg.models import BM3Config as BM3Config
    from lirdrec_pyg.models import BPRMFConfig as BPRMFConfig
    from lirdrec_pyg.models import ContentKNNConfig as ContentKNNConfig
    from lirdrec_pyg.models import EASEConfig as EASEConfig
    from lirdrec_pyg.models import FREEDOMConfig as FREEDOMConfig
    from lirdrec_pyg.models import ItemKNNConfig as ItemKNNConfig
    from lirdrec_pyg.models import LightGCNConfig as LightGCNConfig
    from lirdrec_pyg.models import LIRDRec as LIRDRec
    from lirdrec_pyg.models import LIRDRecConfig as LIRDRecConfig
    from lirdrec_pyg.models import MGCNConfig as MGCNConfig
    from lirdrec_pyg.models import MMGFConfig as MMGFConfig
    from lirdrec_pyg.models import MMHCLConfig as MMHCLConfig
    from lirdrec_pyg.models import PopularityConfig as PopularityConfig
    from lirdrec_pyg.models import VBPRConfig as VBPRConfig
    from lirdrec_pyg.recommender import Recommender as Recommender
    from lirdrec_pyg.recommender.fit import fit as fit
    from lirdrec_pyg.recommender.fit import resume as resume
    from lirdrec_pyg.sampler import BPRSampler as BPRSampler
    from lirdrec_pyg.training import Trainer as Trainer
    from lirdrec_pyg.training import TrainingConfig as TrainingConfig
    from lirdrec_pyg.training import preset as preset

_MODELS = "LIRDRec BM3 BPRMF ContentKNN EASE FREEDOM ItemKNN LightGCN MGCN MMGF MMHCL Popularity VBPR"
_MODULES = {
    "callback": "Callback",
    "data": "DataConfig Dataset ItemCatalog build_graph check_graph",
    "evaluation": "evaluate_ranking",
    "models": " ".join(["LIRDRec", *(f"{name}Config" for name in _MODELS.split())]),
    "recommender": "Recommender fit resume",
    "sampler": "BPRSampler",
    "training": "Trainer TrainingConfig preset",
}
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, which `lirdrec-pyg --help` does not need.
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"lirdrec_pyg.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
