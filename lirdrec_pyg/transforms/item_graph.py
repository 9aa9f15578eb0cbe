from collections.abc import Mapping, Sequence

import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce

from lirdrec_pyg.data import SIMILAR, feature_mask, item_features, modalities
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.transforms.knn_search import NeighborSearch, check_search, knn_edges

# Weight of the image graph in the released program, since neighbors by image are noisier.
_IMAGE_SHARE = 0.1


class AddItemKNN(BaseTransform):
    r"""Add the item graph ``data["item", "similar", "item"]`` (LIRDRec paper, section 4.3).

    .. math::
        \mathbf{S} = \sum_m w_m \mathbf{S}_m, \qquad
        S_m[i, j] = \frac{1}{\deg_m(i) + 10^{-7}} \text{ if } j \text{ is among the } k
        \text{ most similar to } i

    by cosine similarity of the raw features, where the :math:`k` neighbors include the item itself. The graph is
    directed: an edge points from a neighbor :math:`j` to the item :math:`i`. Neighbors in several modalities form one
    edge with the sum of the weights. An item whose features are missing in a modality has only itself as a neighbor
    there, and is a neighbor of no other item.

    Memory stays linear in the number of items.

    Args:
        k: number of neighbors per item, itself included; at most the number of items is used.
        weights: weight :math:`w_m` of each modality, see :func:`modality_weights`.
        search: search strategy, see :func:`knn_edges`.
        progress: whether to show a progress bar for large catalogs.

    Raises:
        ConfigError: if the search strategy is unknown or needs a package that is not installed.
    """

    def __init__(
        self,
        k: int = 10,
        weights: Mapping[str, float] | None = None,
        search: NeighborSearch = "auto",
        progress: bool = False,
    ) -> None:
        check_search(search)
        if k < 1:
            raise ConfigError(f"`k` is {k}. Pass a number of neighbors of at least 1.")
        self.k = k
        self.weights = dict(weights or {})
        self.search = search
        self.progress = progress

    def forward(self, data: HeteroData) -> HeteroData:
        if not modalities(data):
            raise DataError("The graph has no features of items. Set `data['item'].x_image`, for example.")
        shares = modality_weights(modalities(data), self.weights)
        edge_indices, edge_weights = [], []
        for modality, share in shares.items():
            if share == 0:
                continue
            x, mask = item_features(data, modality), feature_mask(data, modality)
            edge_index = knn_edges(x, self.k, mask, self.search, modality, self.progress)
            degree = torch.bincount(edge_index[1], minlength=data["item"].num_nodes)
            edge_indices.append(edge_index)
            edge_weights.append(share / (degree[edge_index[1]].float() + 1e-7))
        data[SIMILAR].edge_index, data[SIMILAR].edge_weight = coalesce(
            torch.cat(edge_indices, dim=1), torch.cat(edge_weights), sort_by_row=False
        )
        # A cached adjacency belongs to the old item graph.
        data[SIMILAR].pop("adj_t", None)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, weights={self.weights}, search={self.search!r})"


def modality_weights(names: tuple[str, ...], given: Mapping[str, float]) -> dict[str, float]:
    """Complete the weights of the modalities in the item graph, so that they sum to 1.

    Args:
        names: all modalities.
        given: weights of some modalities. The others share the rest evenly. If all are given, they are scaled to
            sum to 1. If none is given, ``image`` beside other modalities has 0.1.

    Raises:
        ConfigError: if a name is unknown, a weight is negative, or the weights cannot sum to 1.
    """
    check_weights(given, names, "graph_weights")
    if not given and "image" in names and len(names) > 1:
        given = {"image": _IMAGE_SHARE}
    total = sum(given.values())
    open_names = [m for m in names if m not in given]
    if not open_names:
        if total == 0:
            raise ConfigError("All weights in `graph_weights` are 0. Pass a positive weight for at least one modality.")
        return {m: given[m] / total for m in names}
    if total > 1:
        raise ConfigError(
            f"`graph_weights` sums to {total:g}, which is above 1, and has no weight for {', '.join(open_names)}. Pass "
            "weights of all modalities, or smaller ones."
        )
    return {m: given.get(m, (1 - total) / len(open_names)) for m in names}


def check_weights(weights: Mapping[str, float], names: Sequence[str], setting: str) -> None:
    """Raise :class:`ConfigError` if ``weights`` in a setting are not of the modalities ``names``, or below 0."""
    if unknown := [m for m in weights if m not in names]:
        raise ConfigError(f"Unknown modality {unknown[0]!r} in `{setting}`. Choose from {', '.join(names)}.")
    if wrong := [m for m, w in weights.items() if not 0 <= w < float("inf")]:
        raise ConfigError(f"The weight of {wrong[0]!r} in `{setting}` is {weights[wrong[0]]}. It must be at least 0.")
