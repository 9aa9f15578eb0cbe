"""Data sets as PyG classes, and the one place that turns ``--data`` into a graph."""

from dataclasses import fields

from lirdrec_pyg.config import DataConfig, option_name
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
        untouched = DataConfig(data="synthetic")
        for field in fields(config):
            if getattr(config, field.name) != getattr(untouched, field.name):
                raise ConfigError(f"{option_name(field)} goes with files: --data synthetic takes no data options.")
        return synthetic_data()
    return read_data(config, seed)


__all__ = ["AmazonReviews", "MicroLens", "Synthetic", "TikTok", "load_data", "synthetic_data", "true_scores"]
