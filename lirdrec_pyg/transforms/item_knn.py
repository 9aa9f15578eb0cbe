from collections.abc import Mapping

import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce

from lirdrec_pyg.config import NeighbourSearch
from lirdrec_pyg.data import SIMILAR, feature_mask, item_features, modalities
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.transforms.neighbours import check_search, knn_edges

# The released program's share of the image graph; pictures are the noisier neighbours.
_IMAGE_SHARE = 0.1


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

    No matrix of items x items is ever held.

    Args:
        k: neighbours of an item, itself among them; at most the number of items is used.
        weights: share of each modality, see :func:`modality_weights`.
        search: how they are found, see :func:`knn_edges`.
        progress: shows a bar for catalogues that take seconds.

    Raises:
        ConfigError: if there can be no such search here.
    """

    def __init__(
        self,
        k: int = 10,
        weights: Mapping[str, float] | None = None,
        search: NeighbourSearch = "auto",
        progress: bool = False,
    ) -> None:
        check_search(search)
        self.k = k
        self.weights = dict(weights or {})
        self.search = search
        self.progress = progress

    def forward(self, data: HeteroData) -> HeteroData:
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
        # It would be that of the item graph before.
        data[SIMILAR].pop("adj_t", None)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, weights={self.weights}, search={self.search!r})"


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
