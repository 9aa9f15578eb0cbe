from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.config import field
from lirdrec_pyg.data import SIMILAR, item_features
from lirdrec_pyg.models.base import (
    PEER_TRAINING,
    Model,
    ModelConfig,
    embedding_dim_field,
    graph_weights_field,
    knn_k_field,
    knn_search_field,
    num_layers_field,
)
from lirdrec_pyg.models.embedding import bpr, gathered, mean_of_layers
from lirdrec_pyg.nn import BipartiteConv, ItemGraphConv, adjacency
from lirdrec_pyg.transforms import AddItemKNN, NeighborSearch


@dataclass(frozen=True)
class FREEDOMConfig(ModelConfig):
    """Hyperparameters of FREEDOM; its share of dropped edges is ``edge_dropout`` of the training."""

    model: ClassVar[str] = "freedom"
    training_defaults: ClassVar[Mapping[str, Any]] = {**PEER_TRAINING, "edge_dropout": 0.8}

    embedding_dim: int = embedding_dim_field()
    num_layers: int = num_layers_field(2)
    num_item_layers: int = field(1, "Layers of item-item propagation.", min=0)
    knn_k: int = knn_k_field()
    knn_search: NeighborSearch = knn_search_field()
    graph_weights: dict[str, float] = graph_weights_field()
    modality_weight: float = field(1e-3, "Weight of the BPR losses of the modalities.", min=0)


class FREEDOM(Model):
    r"""FREEDOM (a frozen item graph, a sparsified user-item graph) from `"A Tale of Two Graphs: Freezing and
    Denoising Graph Structures for Multimodal Recommendation" <https://arxiv.org/abs/2211.06924>`_ (Zhou and
    Shen, 2023).

    .. math::
        \bar{\mathbf{E}}_U, \bar{\mathbf{E}}_I = \frac{1}{L + 1} \sum_{l=0}^{L} \hat{\mathbf{A}}_\rho^l \mathbf{E},
        \qquad
        \mathbf{U} = \bar{\mathbf{E}}_U, \qquad \mathbf{V} = \bar{\mathbf{E}}_I + \mathbf{S}^n \mathbf{E}_I

    .. math::
        \mathcal{L} = \mathcal{L}_{BPR}(\mathbf{U}, \mathbf{V})
        + \lambda \sum_m \mathcal{L}_{BPR}(\mathbf{U}, \mathbf{X}_m \mathbf{W}_m^\top + \mathbf{b}_m)

    :math:`\mathbf{S}` is the item graph of :class:`~lirdrec_pyg.transforms.AddItemKNN`, and
    :math:`\hat{\mathbf{A}}_\rho` drops a share :math:`\rho` of the edges in each epoch of training, preferably those of
    popular nodes: :class:`~lirdrec_pyg.transforms.DropEdges` with ``edge_dropout`` of the training (0.8, as in the
    released program). Unlike in that program, features are not trained.

    Args:
        num_users: number of users.
        num_items: number of items.
        in_channels: feature width of each modality.
        embedding_dim: width :math:`d` of the vectors.
        num_layers: :math:`L`.
        num_item_layers: :math:`n`.
        modality_weight: :math:`\lambda`.
    """

    config_class = FREEDOMConfig

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        modality_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        self.modalities = tuple(in_channels)
        self.user = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.projections = nn.ModuleList(nn.Linear(width, embedding_dim) for width in in_channels.values())
        self.bipartite_conv = BipartiteConv(num_layers)
        self.item_conv = ItemGraphConv(num_item_layers)
        self.modality_weight = modality_weight
        self.reset_parameters()

    @staticmethod
    def graph_transform(config: FREEDOMConfig, progress: bool = False) -> BaseTransform:
        """Return the transform that adds the item graph."""
        return AddItemKNN(config.knn_k, config.graph_weights, config.knn_search, progress)

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.user)
        nn.init.xavier_uniform_(self.item)
        for projection in self.projections:
            projection.reset_parameters()  # type: ignore[operator]

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        user, item = mean_of_layers(self.bipartite_conv, self.user, self.item, data)
        return user, item + self.item_conv.neighbors_only(self.item, *adjacency(data[SIMILAR]))

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        user, positive, negative = gathered(self(data), triples)
        loss = bpr(user, positive, negative)
        for modality, projection in zip(self.modalities, self.projections, strict=True):
            x = F.embedding(triples[1:], item_features(data, modality)).to(self.item.dtype)
            loss = loss + self.modality_weight * bpr(user, *projection(x))
        return weight * loss
