"""Rules of recommendations: which items may be recommended, and how the best of them are chosen."""

from dataclasses import dataclass

from lirdrec_pyg.config import Config


@dataclass(frozen=True)
class Rules(Config):
    """Which items may be recommended, and how the best of them are chosen."""
