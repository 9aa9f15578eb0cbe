"""Nearest neighbors by brute force."""

import numpy as np
from torch import Tensor


def nearest_by_cosine(x: Tensor, k: int, mask: Tensor | None = None) -> list[list[int]]:
    """The k nearest items of each item by cosine, nearest first; items outside of ``mask`` have only themselves."""
    vectors = x.double().numpy()
    present = range(len(x)) if mask is None else [i for i in range(len(x)) if mask[i]]
    nearest = []
    for i, a in enumerate(vectors):
        cosine = {j: a @ vectors[j] / np.linalg.norm(a) / np.linalg.norm(vectors[j]) for j in present}
        cosine[i] = 2.0
        ranked = sorted(cosine, key=lambda j: -cosine[j])[:k]
        nearest.append(ranked if i in present else [i])
    return nearest
