"""Data sets as PyG classes, and the one place that turns ``--data`` into a graph."""

from lirdrec_pyg.config import DataConfig
from lirdrec_pyg.data import RecommendationData, read_data
from lirdrec_pyg.datasets.amazon import AmazonReviews
from lirdrec_pyg.datasets.microlens import MicroLens
from lirdrec_pyg.datasets.synthetic import Synthetic, synthetic_data, true_scores
from lirdrec_pyg.datasets.tiktok import TikTok


def load_data(config: DataConfig, seed: int = 999) -> RecommendationData:
    """What ``config.data`` names: files, see :func:`~lirdrec_pyg.data.read_data`, or ``"synthetic"``."""
    if config.data == "synthetic":
        return synthetic_data()
    return read_data(config, seed)


__all__ = ["AmazonReviews", "MicroLens", "Synthetic", "TikTok", "load_data", "synthetic_data", "true_scores"]
