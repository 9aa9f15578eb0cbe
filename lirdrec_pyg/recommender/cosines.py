"""Cosines of items by the raw features of a modality."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import NEW_ITEM, feature_mask, has_new_items, item_features

_BLOCK_ROWS = 65_536


def feature_rows(graph: HeteroData, modality: str, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return features of some items, trained or new, float32, shape ``(N, d_m)``, and which are real, ``(N,)``."""
    device = item_features(graph, modality).device
    positions = positions.to(device)
    x = torch.empty(len(positions), item_features(graph, modality).size(1), device=device)
    real = torch.ones(len(positions), dtype=torch.bool, device=device)
    first = 0
    for node_type in ("item", NEW_ITEM) if has_new_items(graph) else ("item",):
        stored, mask = item_features(graph, modality, node_type), feature_mask(graph, modality, node_type)
        here = (positions >= first) & (positions < first + len(stored))
        x[here] = stored[positions[here] - first].float()
        if mask is not None:
            real[here] = mask[positions[here] - first]
        first += len(stored)
    return x, real


def feature_cosines(graph: HeteroData, modality: str, item: Tensor, others: Tensor) -> Tensor:
    """Return the cosines of an item, shape ``(1,)``, with others; minus infinity where features are missing."""
    x, is_real = feature_rows(graph, modality, item)
    blocks = (feature_rows(graph, modality, rows) for rows in others.split(_BLOCK_ROWS))
    return torch.cat([F.cosine_similarity(y, x).masked_fill(~(real & is_real), -torch.inf) for y, real in blocks])


def largest(cosine: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return places and values of the ``k`` largest entries above minus infinity."""
    best = cosine.topk(min(k, len(cosine)))
    kept = best.values > -torch.inf
    return best.indices[kept], best.values[kept]
