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
    for node_type in _node_types(graph):
        stored, mask = item_features(graph, modality, node_type), feature_mask(graph, modality, node_type)
        here = (positions >= first) & (positions < first + len(stored))
        x[here] = stored[positions[here] - first].float()
        if mask is not None:
            real[here] = mask[positions[here] - first]
        first += len(stored)
    return x, real


def cosine_with_all(graph: HeteroData, modality: str, x: Tensor) -> Tensor:
    """Return the cosine of ``x``, shape ``(1, d_m)``, with every item; minus infinity where features are missing."""
    found = []
    for node_type in _node_types(graph):
        stored, mask = item_features(graph, modality, node_type), feature_mask(graph, modality, node_type)
        cosine = torch.cat([F.cosine_similarity(rows.float(), x) for rows in stored.split(_BLOCK_ROWS)])
        found.append(cosine if mask is None else cosine.masked_fill(~mask, -torch.inf))
    return torch.cat(found)


def nearest_of(graph: HeteroData, item: int, others: Tensor, modality: str, k: int) -> tuple[Tensor, Tensor]:
    """Return places in ``others`` of the ``k`` items most similar to ``item`` by raw features, and their cosines."""
    x, real = feature_rows(graph, modality, torch.cat([others.new_tensor([item]), others]))
    cosine = F.cosine_similarity(x[1:], x[:1]).masked_fill(~(real[1:] & real[0]), -torch.inf)
    return largest(cosine, k)


def largest(cosine: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return places and values of the ``k`` largest entries above minus infinity."""
    best = cosine.topk(min(k, len(cosine)))
    kept = best.values > -torch.inf
    return best.indices[kept], best.values[kept]


def _node_types(graph: HeteroData) -> tuple[str, ...]:
    return ("item", NEW_ITEM) if has_new_items(graph) else ("item",)
