"""Vectors of graphs that are too large for one pass."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, SIMILAR
from lirdrec_pyg.models.base import eval_mode
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import BipartiteConv, unit_vectors
from lirdrec_pyg.transforms import CacheAdjacency, NormalizeBipartite

if TYPE_CHECKING:
    from lirdrec_pyg.models.lirdrec import LIRDRec


@torch.no_grad()
def layerwise_vectors(
    model: "LIRDRec",
    data: HeteroData,
    block_rows: int = 65_536,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> Vectors:
    """Compute :meth:`LIRDRec.vectors`, up to rounding, for graphs for which one pass needs too much memory.

    Items are encoded in blocks, directly from features that may be memory-mapped. Every layer then propagates all
    nodes, one branch at a time, and users are fused in blocks. Besides the result, which is on the device of the graph,
    only one block of features and a few columns of one branch are held. The linear branch is left out.

    Args:
        model: model on any device.
        data: as for :meth:`LIRDRec.forward`.
        block_rows: rows per block.
        total: sums a tensor over the processes, if each has a part of the users. ``data`` then has the interactions of
            its users only, with their weights in the whole graph, and the result has the vectors of these users.
    """
    if "adj_t" not in data[INTERACTS]:
        data = NormalizeBipartite()(data)
    data = CacheAdjacency()(data)
    place = data[INTERACTS].edge_index.device
    num_items, num_branches = data["item"].num_nodes, len(model.branches)
    new = partial(torch.empty, dtype=model.user.dtype, device=place)
    user, user_weight = new(model.user.shape), new(len(model.user), num_branches)
    item = new(num_items, num_branches, model.embedding_dim)
    item_layers = new(model.bipartite_conv.num_layers + 1, *item.shape)
    with eval_mode(model):
        for rows in _blocks(num_items, block_rows):
            item_layers[0, rows] = model.encode_items(data, rows=rows)
        for branch in range(num_branches):
            user[:, branch], item[:, branch] = _propagated(model, data, branch, item_layers[:, :, branch], total)
        for rows in _blocks(len(model.user), block_rows):
            x = user[rows].to(model.user.device)
            user_weight[rows] = model.fusion.attention(x, rows)
            user[rows] = model.split_branches(model.fusion(x, rows))
    item = model.as_output(item.flatten(1))
    return Vectors(user.flatten(1), user_weight, item, item_layers.flatten(2), new(num_items, 0))


def _propagated(
    model: "LIRDRec", data: HeteroData, branch: int, item_layers: Tensor, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return users before the fusion and items of one branch; fill all but the first of ``item_layers``."""
    device = model.user.device
    to_item, to_user = (data[edges].adj_t.to(device) for edges in (INTERACTS, INTERACTED_BY))
    x_user, x_item = unit_vectors(model.user[:, branch]), item_layers[0].to(device, copy=True)
    user, item = x_user.clone(), x_item.clone()
    one_layer = BipartiteConv(1)
    for layer in range(1, len(item_layers)):
        *_, (user, item) = one_layer.layers(user, item, to_item, to_user)
        item_layers[layer] = item = total(item)
        x_user += user
        x_item += item
    if model.item_conv is not None:
        x_item = model.item_conv(x_item, data[SIMILAR].adj_t.to(device))
    return x_user, x_item


def _blocks(stop: int, size: int) -> Iterator[slice]:
    for start in range(0, stop, size):
        yield slice(start, min(start + size, stop))
