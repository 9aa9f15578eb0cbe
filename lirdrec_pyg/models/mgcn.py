from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.config import field
from lirdrec_pyg.data import INTERACTED_BY, item_features
from lirdrec_pyg.models.base import (
    PEER_TRAINING,
    Model,
    ModelConfig,
    embedding_dim_field,
    knn_k_field,
    knn_search_field,
    num_layers_field,
)
from lirdrec_pyg.models.embedding import bpr, gathered, mean_of_layers, squared_norms
from lirdrec_pyg.nn import BipartiteConv, BipartiteLGConv, ItemGraphConv, adjacency, unit_vectors
from lirdrec_pyg.transforms import AddModalityKNN, NeighborSearch, similar_by


@dataclass(frozen=True)
class MGCNConfig(ModelConfig):
    """Hyperparameters of MGCN."""

    model: ClassVar[str] = "mgcn"
    training_defaults: ClassVar[Mapping[str, Any]] = PEER_TRAINING

    embedding_dim: int = embedding_dim_field()
    num_layers: int = num_layers_field(2)
    num_item_layers: int = field(1, "Layers of item-item propagation.", min=0)
    knn_k: int = knn_k_field()
    knn_search: NeighborSearch = knn_search_field()
    contrast_weight: float = field(0.001, "Weight of the contrastive loss between behavior and modalities.", min=0)
    temperature: float = field(0.2, "Temperature of the contrastive loss.", min=0, min_open=True)
    reg_weight: float = field(1e-4, "Weight of the squared norms of a batch's vectors.", min=0)


class MGCN(Model):
    r"""MGCN (features purified and fused by behavior) from `"Multi-View Graph Convolutional Network for
    Multimedia Recommendation" <https://arxiv.org/abs/2308.03588>`_ (Yu et al., 2023).

    .. math::
        \dot{\mathbf{E}}_{m,I} = \mathbf{E}_I \odot \sigma(g_m(f_m(\mathbf{X}_m))), \qquad
        \mathbf{E}_{m,I} = \mathbf{S}_m^n \dot{\mathbf{E}}_{m,I}, \qquad
        \mathbf{E}_{m,U} = \hat{\mathbf{R}} \mathbf{E}_{m,I}, \qquad
        \mathbf{E}_{id} = \frac{1}{L + 1} \sum_{l=0}^{L} \hat{\mathbf{A}}^l \mathbf{E}

    .. math::
        \alpha_m = \mathrm{softmax}_m(\mathbf{q}^\top \tanh(\mathbf{W} \mathbf{e}_m + \mathbf{b})), \qquad
        \mathbf{E}_s = \sum_m \alpha_m \mathbf{E}_m, \qquad
        \mathbf{E}_f = \frac{1}{|M| + 1} \Big( \mathbf{E}_s
        + \sum_m \sigma(p_m(\mathbf{E}_{id})) \odot (\mathbf{E}_m - \mathbf{E}_s) \Big)

    .. math::
        [\mathbf{U}; \mathbf{V}] = \mathbf{E}_{id} + \mathbf{E}_f, \qquad
        \mathcal{L} = \mathcal{L}_{BPR}(\mathbf{U}, \mathbf{V}) + \lambda_c \mathcal{L}_c
        + \frac{\lambda}{2N} \sum_{(u,i,j)} \left( \lVert \mathbf{u} \rVert^2 + \lVert \mathbf{v}_i \rVert^2
        + \lVert \mathbf{v}_j \rVert^2 \right)

    with :math:`f, g, p` affine, :math:`\hat{\mathbf{R}}` the users' rows of :math:`\hat{\mathbf{A}}`,
    :math:`\mathbf{S}_m` of :class:`~lirdrec_pyg.transforms.AddModalityKNN`, and :math:`\mathcal{L}_c` the InfoNCE
    between the rows of :math:`\mathbf{E}_f` and :math:`\mathbf{E}_{id}` of the users, and of the positive items, of a
    batch. Users and items count as often as they occur in the batch, as in the released program; with several
    processes, each contrasts its own part. Unlike in that program, features are not trained.

    Args:
        num_users: number of users.
        num_items: number of items.
        in_channels: feature width of each modality.
        embedding_dim: width :math:`d` of the vectors.
        num_layers: :math:`L`.
        num_item_layers: :math:`n`.
        contrast_weight: :math:`\lambda_c`.
        temperature: of the InfoNCE.
        reg_weight: :math:`\lambda`.
    """

    config_class = MGCNConfig

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        contrast_weight: float = 0.001,
        temperature: float = 0.2,
        reg_weight: float = 1e-4,
    ) -> None:
        super().__init__()
        self.modalities = tuple(in_channels)
        self.user = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item = nn.Parameter(torch.empty(num_items, embedding_dim))

        def affine() -> nn.Linear:
            return nn.Linear(embedding_dim, embedding_dim)

        self.projections = nn.ModuleList(nn.Linear(width, embedding_dim) for width in in_channels.values())
        self.purifiers = nn.ModuleList(affine() for _ in in_channels)
        self.preferences = nn.ModuleList(affine() for _ in in_channels)
        self.query = nn.Sequential(affine(), nn.Tanh(), nn.Linear(embedding_dim, 1, bias=False))
        self.bipartite_conv = BipartiteConv(num_layers)
        self.item_conv = ItemGraphConv(num_item_layers)
        self.to_users = BipartiteLGConv()
        self.contrast_weight = contrast_weight
        self.temperature = temperature
        self.reg_weight = reg_weight
        self.reset_parameters()

    @staticmethod
    def graph_transform(config: MGCNConfig, progress: bool = False) -> BaseTransform:
        """Return the transform that adds one item graph per modality."""
        return AddModalityKNN(config.knn_k, config.knn_search, progress)

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.user)
        nn.init.xavier_uniform_(self.item)
        for module in (*self.projections, *self.purifiers, *self.preferences, self.query[0], self.query[2]):
            module.reset_parameters()

    def _content(self, data: HeteroData) -> list[Tensor]:
        r"""Return :math:`\mathbf{E}_m` of each modality, users first."""
        found = []
        for modality, projection, purifier in zip(self.modalities, self.projections, self.purifiers, strict=True):
            gate = purifier(projection(item_features(data, modality).to(self.item.dtype))).sigmoid()
            x = self.item_conv.neighbors_only(self.item * gate, *adjacency(data[similar_by(modality)]))
            found.append(torch.cat([self.to_users((x, self.user), *adjacency(data[INTERACTED_BY])), x]))
        return found

    def _views(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        r"""Return :math:`\mathbf{E}_{id}` and :math:`\mathbf{E}_f`, users first."""
        behavior = torch.cat(mean_of_layers(self.bipartite_conv, self.user, self.item, data))
        content = self._content(data)
        alpha = torch.cat([self.query(x) for x in content], dim=1).softmax(dim=1)
        shared = (alpha.unsqueeze(-1) * torch.stack(content, dim=1)).sum(dim=1)
        own = [
            preference(behavior).sigmoid() * (x - shared)
            for preference, x in zip(self.preferences, content, strict=True)
        ]
        return behavior, sum(own, shared) / (len(content) + 1)

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        behavior, fused = self._views(data)
        return self._split(behavior + fused)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[: len(self.user)], x[len(self.user) :]

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        behavior, fused = self._views(data)
        rows = gathered(self._split(behavior + fused), triples)
        contrast = torch.zeros((), device=behavior.device)
        for index, x, y in zip(triples[:2], self._split(fused), self._split(behavior), strict=True):
            contrast = contrast + info_nce(F.embedding(index, x), F.embedding(index, y), self.temperature)
        return weight * (bpr(*rows) + self.reg_weight * squared_norms(*rows) + self.contrast_weight * contrast)


def info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    r"""Return :math:`-\frac{1}{N} \sum_i \log \frac{\exp(\cos(\mathbf{x}_i, \mathbf{y}_i) / \tau)}{\sum_j
    \exp(\cos(\mathbf{x}_i, \mathbf{y}_j) / \tau)}` for rows of shape ``(N, d)``."""
    similarity = unit_vectors(x) @ unit_vectors(y).t() / temperature
    return F.cross_entropy(similarity, torch.arange(len(x), device=x.device))
