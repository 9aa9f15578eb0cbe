"""Experiments: settings search, gradients of IDs and features, weights of the fusion."""

from lirdrec_pyg.experiments.fusion_weights import FusionWeights, fusion_weights
from lirdrec_pyg.experiments.gradient_bias import measure_gradient_bias
from lirdrec_pyg.experiments.search_space import Range, Space
from lirdrec_pyg.experiments.tune import Study, TrialResult, tune

__all__ = [
    "FusionWeights",
    "Range",
    "Space",
    "Study",
    "TrialResult",
    "fusion_weights",
    "measure_gradient_bias",
    "tune",
]
