"""Published data sets as PyG classes, and generated data."""

from lirdrec_pyg.datasets.amazon import AmazonReviews
from lirdrec_pyg.datasets.microlens import MicroLens
from lirdrec_pyg.datasets.synthetic import Synthetic, synthetic_data, true_scores
from lirdrec_pyg.datasets.tiktok import TikTok

__all__ = ["AmazonReviews", "MicroLens", "Synthetic", "TikTok", "synthetic_data", "true_scores"]
