from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce
from tqdm import tqdm

from lirdrec_pyg.data import SIMILAR, feature_mask, item_features, modalities
from lirdrec_pyg.errors import ConfigError

# The released program's share of the image graph; pictures are the noisier neighbours.
_IMAGE_SHARE = 0.1
_QUERY_BLOCK = 4096
_PROGRESS_FROM = 20_000


class AddItemKNN(BaseTransform):
    r"""Adds the item graph ``data["item", "similar", "item"]`` (paper, section 4.3).

    .. math::
        \mathbf{S} = \sum_m w_m \mathbf{S}_m, \qquad
        S_m[i, j] = \frac{1}{\deg_m(i) + 10^{-7}} \text{ if } j \text{ is among the } k
        \text{ most similar to } i

    by the cosine of the raw features, the item itself among the :math:`k`. The graph is directed and
    not symmetrised: an edge runs from a neighbour :math:`j` to the item :math:`i` that it informs.
    Equal neighbours in several modalities make one edge with the sum of the weights. An item without
    features of its own in a modality has itself as only neighbour there, and is no one else's.

    The search is exact, in blocks; no matrix of items x items is ever held.

    Args:
        k: neighbours of an item, itself among them; at most the number of items is used.
        weights: share of each modality, see :func:`modality_weights`.
        progress: shows a bar for catalogues that take seconds.
    """

    def __init__(self, k: int = 10, weights: Mapping[str, float] | None = None, progress: bool = False) -> None:
        self.k = k
        self.weights = dict(weights or {})
        self.progress = progress

    def forward(self, data: HeteroData) -> HeteroData:
        shares = modality_weights(modalities(data), self.weights)
        edge_indices, edge_weights = [], []
        for modality, share in shares.items():
            if share == 0:
                continue
            edge_index = knn_edges(
                item_features(data, modality), self.k, feature_mask(data, modality), modality if self.progress else None
            )
            degree = torch.bincount(edge_index[1], minlength=data["item"].num_nodes)
            edge_indices.append(edge_index)
            edge_weights.append(share / (degree[edge_index[1]].float() + 1e-7))
        data[SIMILAR].edge_index, data[SIMILAR].edge_weight = coalesce(
            torch.cat(edge_indices, dim=1), torch.cat(edge_weights), sort_by_row=False
        )
        # It would be that of the item graph before.
        data[SIMILAR].pop("adj_t", None)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, weights={self.weights})"


def modality_weights(names: tuple[str, ...], given: Mapping[str, float]) -> dict[str, float]:
    """Shares of the modalities in the item graph; they sum to 1.

    Args:
        names: all modalities.
        given: the shares that are set. The others share the rest evenly; if all are set, they are
            scaled to sum to 1. If none is, ``image`` beside other modalities has 0.1.

    Raises:
        ConfigError: if a name is unknown, a share negative, or the shares can't sum to 1.
    """
    if unknown := [m for m in given if m not in names]:
        raise ConfigError(f"--graph-weights names {unknown[0]!r}, but the modalities are {', '.join(names)}.")
    if wrong := [m for m, w in given.items() if not 0 <= w < float("inf")]:
        raise ConfigError(f"--graph-weights gives {wrong[0]!r} the weight {given[wrong[0]]}: it has to be 0 or more.")
    if not given and "image" in names and len(names) > 1:
        given = {"image": _IMAGE_SHARE}
    total = sum(given.values())
    open_names = [m for m in names if m not in given]
    if not open_names:
        if total == 0:
            raise ConfigError("--graph-weights gives every modality the weight 0: leave one above it.")
        return {m: given[m] / total for m in names}
    if total > 1:
        raise ConfigError(f"--graph-weights sums to {total:g}, which leaves nothing for {', '.join(open_names)}.")
    return {m: given.get(m, (1 - total) / len(open_names)) for m in names}


def knn_edges(x: Tensor, k: int, mask: Tensor | None = None, progress: str | None = None) -> Tensor:
    """Edges (neighbour, item) from the ``k`` most similar items to each item.

    Args:
        x: features, shape ``(num_items, d_m)``.
        k: neighbours, the item itself among them.
        mask: which items take part; the others get an edge to themselves alone.
        progress: what to call a progress bar, ``None`` for none.

    Returns:
        int64, shape ``(2, num_edges)``, sorted by item, then by falling similarity.
    """
    present = torch.arange(len(x), device=x.device) if mask is None else mask.nonzero().view(-1)
    # On unit vectors the order by Euclidean distance is the order by cosine.
    unit = F.normalize(x[present].float(), dim=-1).cpu().numpy()
    k = min(k, len(unit))
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit)
    starts = range(0, len(unit), _QUERY_BLOCK)
    bar = tqdm(starts, desc=f"neighbours by {progress}", disable=progress is None or len(unit) < _PROGRESS_FROM)
    neighbours = np.concatenate(
        [search.kneighbors(unit[start : start + _QUERY_BLOCK], return_distance=False) for start in bar]
    )
    _keep_self(neighbours)
    source = present[torch.from_numpy(neighbours)].view(-1)
    edge_index = torch.stack([source, present.repeat_interleave(k)])
    if mask is None:
        return edge_index
    absent = (~mask).nonzero().view(-1)
    return torch.cat([edge_index, absent.expand(2, -1)], dim=1)


def _keep_self(neighbours: np.ndarray) -> None:
    """Among more than ``k`` equal vectors the item itself may be cut off: it takes the last place's."""
    own = np.arange(len(neighbours))
    lost = ~(neighbours == own[:, None]).any(axis=1)
    neighbours[lost, -1] = own[lost]
