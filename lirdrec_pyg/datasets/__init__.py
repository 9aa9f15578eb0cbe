"""Data sets as PyG classes, and the one place that turns ``--data`` into a graph."""

from dataclasses import fields

from lirdrec_pyg.config import DataConfig
from lirdrec_pyg.data import RecommendationData, read_data
from lirdrec_pyg.datasets.amazon import AmazonReviews
from lirdrec_pyg.datasets.microlens import MicroLens
from lirdrec_pyg.datasets.synthetic import Synthetic, synthetic_data, true_scores
from lirdrec_pyg.datasets.tiktok import TikTok
from lirdrec_pyg.errors import ConfigError


def load_data(config: DataConfig, seed: int = 999) -> RecommendationData:
    """What ``config.data`` names: files, see :func:`~lirdrec_pyg.data.read_data`, or ``"synthetic"``.

    Raises:
        DataError: of :func:`~lirdrec_pyg.data.read_data`.
        ConfigError: if options of files are set for generated data.
    """
    if config.data == "synthetic":
        if config != DataConfig(data="synthetic"):
            names = [f.name for f in fields(config) if getattr(config, f.name) != getattr(DataConfig(), f.name)]
            option = next(name for name in names if name != "data").replace("_", "-")
            raise ConfigError(f"--{option} goes with files: --data synthetic takes no data options.")
        return synthetic_data()
    return read_data(config, seed)


__all__ = ["AmazonReviews", "MicroLens", "Synthetic", "TikTok", "load_data", "synthetic_data", "true_scores"]
