"""Raw features of items by position, where trained and new items lie in two stores."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import NEW_ITEM, feature_mask, has_new_items, item_features

_BLOCK_ROWS = 65_536


def _stores(graph: HeteroData) -> tuple[str, ...]:
    return ("item", NEW_ITEM) if has_new_items(graph) else ("item",)


def feature_rows(graph: HeteroData, modality: str, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Features of some items, float32, shape ``(N, d_m)``, and which of these are real, ``(N,)``."""
    device = item_features(graph, modality).device
    positions = positions.to(device)
    x = torch.empty(len(positions), item_features(graph, modality).size(1), device=device)
    real = torch.ones(len(positions), dtype=torch.bool, device=device)
    first = 0
    for store in _stores(graph):
        stored, mask = item_features(graph, modality, store), feature_mask(graph, modality, store)
        here = (positions >= first) & (positions < first + len(stored))
        x[here] = stored[positions[here] - first].float()
        if mask is not None:
            real[here] = mask[positions[here] - first]
        first += len(stored)
    return x, real


def cosine_with_all(graph: HeteroData, modality: str, x: Tensor) -> Tensor:
    """Cosine of ``x``, shape ``(1, d_m)``, with every item; minus infinity where an item has no features."""
    found = []
    for store in _stores(graph):
        stored, mask = item_features(graph, modality, store), feature_mask(graph, modality, store)
        cosine = torch.cat([F.cosine_similarity(rows.float(), x) for rows in stored.split(_BLOCK_ROWS)])
        found.append(cosine if mask is None else cosine.masked_fill(~mask, -torch.inf))
    return torch.cat(found)
