"""LIRDRec on PyTorch Geometric: multimodal recommendation without item IDs."""

import importlib
from typing import TYPE_CHECKING, Any

from lirdrec_pyg._version import __version__

if TYPE_CHECKING:
    from lirdrec_pyg.data import build_graph, check_graph, read_data
    from lirdrec_pyg.evaluation import evaluate_ranking
    from lirdrec_pyg.models import LIRDRec
    from lirdrec_pyg.sampler import BPRSampler
    from lirdrec_pyg.serving import Recommender
    from lirdrec_pyg.training import Trainer, fit

_EXPORTS = {
    "BPRSampler": "lirdrec_pyg.sampler",
    "LIRDRec": "lirdrec_pyg.models",
    "Recommender": "lirdrec_pyg.serving",
    "Trainer": "lirdrec_pyg.training",
    "build_graph": "lirdrec_pyg.data",
    "check_graph": "lirdrec_pyg.data",
    "evaluate_ranking": "lirdrec_pyg.evaluation",
    "fit": "lirdrec_pyg.training",
    "read_data": "lirdrec_pyg.data",
}

__all__ = [
    "BPRSampler",
    "LIRDRec",
    "Recommender",
    "Trainer",
    "__version__",
    "build_graph",
    "check_graph",
    "evaluate_ranking",
    "fit",
    "read_data",
]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, which `lirdrec-pyg --help` need not spend.
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
