"""Sampling of training triples."""

from lirdrec_pyg.sampler.bpr import BPRSampler

__all__ = ["BPRSampler"]
