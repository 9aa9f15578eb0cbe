"""Sampling of training triples and of their neighborhoods."""

from lirdrec_pyg.sampler.bpr import BPRSampler, known_pairs
from lirdrec_pyg.sampler.neighbors import NeighborSampling, SampledGraph, SampledLevels, check_sampling, sorted_by_item
from lirdrec_pyg.sampler.users import UserSampler

__all__ = [
    "BPRSampler",
    "NeighborSampling",
    "SampledGraph",
    "SampledLevels",
    "UserSampler",
    "check_sampling",
    "known_pairs",
    "sorted_by_item",
]
