"""What a training did, measured: the updates that IDs and features get, and the weights of the fusion."""

from lirdrec_pyg.analysis.folder import AnalysisFolder
from lirdrec_pyg.analysis.fusion import FusionWeights, fusion_weights
from lirdrec_pyg.analysis.gradient_bias import measure_gradient_bias

__all__ = ["AnalysisFolder", "FusionWeights", "fusion_weights", "measure_gradient_bias"]
