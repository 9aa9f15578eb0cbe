"""Sampling of training triples and of their neighborhoods."""

from lirdrec_pyg.sampler.bpr import BPRSampler
from lirdrec_pyg.sampler.neighbors import NeighborSampling, SampledGraph, SampledLevels, check_sampling

__all__ = ["BPRSampler", "NeighborSampling", "SampledGraph", "SampledLevels", "check_sampling"]
