from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import cumsum, degree

from lirdrec_pyg.config import field
from lirdrec_pyg.data import feature_mask, item_features, modalities
from lirdrec_pyg.models.base import ModelConfig, knn_search_field
from lirdrec_pyg.models.closed_form import NeighborModel
from lirdrec_pyg.nn import unit_vectors
from lirdrec_pyg.transforms import NeighborSearch, check_search, edge_cosines, knn_edges


@dataclass(frozen=True)
class ContentKNNConfig(ModelConfig):
    """Hyperparameters of content-based item kNN."""

    model: ClassVar[str] = "content-knn"
    is_closed_form: ClassVar[bool] = True
    has_vectors: ClassVar[bool] = False
    supports_explanations: ClassVar[bool] = True

    knn_k: int = field(20, "Neighbors of each item by its features.", min=1)
    knn_search: NeighborSearch = knn_search_field()


class ContentKNN(NeighborModel):
    r"""Content-based item kNN: recommends items whose features are similar to those of the user's items.

    .. math::
        x_{ui} = \sum_{j \in N(i) \cap H_u} s_{ij}, \qquad
        s_{ij} = \cos(\mathbf{x}_i, \mathbf{x}_j), \qquad
        \mathbf{x}_i = \mathop{\Vert}_m \mathrm{norm}(\mathbf{x}_{m,i})

    with :math:`N(i)` the :math:`k` other items most similar to :math:`i` and :math:`H_u` the training items of the
    user. The similarity is the mean of the cosines in all modalities; missing features are 0. Negative similarities
    count as 0.

    Args:
        num_items: number of items.
        k: number of neighbors per item.
        search: search method, see :func:`~lirdrec_pyg.transforms.knn_edges`.
    """

    config_class = ContentKNNConfig

    def __init__(self, num_items: int, k: int = 20, search: NeighborSearch = "auto") -> None:
        super().__init__(num_items, k)
        check_search(search)
        self.search = search

    @classmethod
    def sizes(cls, config: ContentKNNConfig, data: HeteroData) -> dict[str, Any]:
        return {**super().sizes(config, data), "k": config.knn_k, "search": config.knn_search}

    def fit(self, data: HeteroData, progress: bool = False) -> None:
        x = joined_features(data)
        present = x.square().sum(dim=1) > 0
        # The item itself is the first of its neighbors; leave it out.
        edge_index = knn_edges(x, self.k + 1, present, self.search, "content", progress)
        source, target = edge_index[:, edge_index[0] != edge_index[1]]
        similarity = edge_cosines(x, torch.stack([source, target]))
        place = torch.arange(len(target), device=x.device) - cumsum(degree(target, len(x), dtype=torch.long))[target]
        self.neighbor = torch.arange(len(x), device=x.device).unsqueeze(1).repeat(1, self.k)
        self.similarity = x.new_zeros(len(x), self.k)
        self.neighbor[target, place] = source
        self.similarity[target, place] = similarity.clamp_min(0)


def joined_features(data: HeteroData) -> Tensor:
    """Return the concatenated unit vectors of all modalities, 0 for missing features."""
    parts = []
    for modality in modalities(data):
        x, mask = unit_vectors(item_features(data, modality).float()), feature_mask(data, modality)
        parts.append(x if mask is None else x * mask.unsqueeze(1))
    return torch.cat(parts, dim=1)
