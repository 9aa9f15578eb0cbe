from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import degree

from lirdrec_pyg.config import field
from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, training_interactions
from lirdrec_pyg.models.base import (
    PEER_TRAINING,
    Model,
    ModelConfig,
    embedding_dim_field,
    knn_search_field,
    num_layers_field,
)
from lirdrec_pyg.models.embedding import bpr, gathered, mean_of_layers, squared_norms
from lirdrec_pyg.nn import BipartiteConv, BipartiteLGConv, adjacency, degree_scale, reverse, unit_vectors
from lirdrec_pyg.transforms import AddItemHypergraph, NeighborSearch, similar_by


@dataclass(frozen=True)
class MMHCLConfig(ModelConfig):
    """Hyperparameters of MMHCL."""

    model: ClassVar[str] = "mmhcl"
    # The batch size of the released program; its learning rate, 1e-4, is slow where an epoch has few steps.
    training_defaults: ClassVar[Mapping[str, Any]] = {**PEER_TRAINING, "batch_size": 1024}

    embedding_dim: int = embedding_dim_field()
    num_layers: int = num_layers_field(2)
    num_user_layers: int = field(3, "Layers of propagation over the users' hypergraph.", min=0)
    num_item_layers: int = field(2, "Layers of propagation over the items' hypergraph.", min=0)
    knn_k: int = field(5, "Neighbors of each item per modality, including itself.", min=1)
    knn_search: NeighborSearch = knn_search_field()
    user_contrast_weight: float = field(0.03, "Weight of the contrastive loss of users.", min=0)
    item_contrast_weight: float = field(0.07, "Weight of the contrastive loss of items.", min=0)
    temperature: float = field(0.6, "Temperature of the contrastive losses.", min=0, min_open=True)
    reg_weight: float = field(1e-3, "Weight of the squared norms of a batch's vectors.", min=0)


class MMHCL(Model):
    r"""MMHCL (hypergraphs of users by common items and of items by content, contrasted with the interactions) from
    `"MMHCL: Multi-Modal Hypergraph Contrastive Learning for Recommendation" <https://arxiv.org/abs/2504.16576>`_
    (Guo et al., 2025).

    .. math::
        \mathbf{H}_U = \Big( \mathbf{D}_U^{-1}
        \big( \mathbf{R} \mathbf{R}^\top - \mathrm{diag}(\mathbf{R} \mathbf{R}^\top) \big) \Big)^{n_U} \mathbf{Z}_U,
        \qquad
        \mathbf{H}_I = \mathbf{S}^{n_I} \mathbf{Z}_I, \qquad
        \bar{\mathbf{E}}_U, \bar{\mathbf{E}}_I = \frac{1}{L + 1} \sum_{l=0}^{L} \hat{\mathbf{A}}^l \mathbf{E}

    .. math::
        \mathbf{u} = \bar{\mathbf{e}}_u + \frac{\mathbf{h}_u}{\lVert \mathbf{h}_u \rVert}, \qquad
        \mathbf{v}_i = \bar{\mathbf{e}}_i + \frac{\mathbf{h}_i}{\lVert \mathbf{h}_i \rVert}

    .. math::
        \mathcal{L} = \mathcal{L}_{BPR}(\mathbf{U}, \mathbf{V})
        + \alpha \, \mathcal{L}_c(\mathbf{U}, \mathbf{H}_U) + \beta \, \mathcal{L}_c(\mathbf{V}, \mathbf{H}_I)
        + \frac{\lambda}{2N} \sum_{(u,i,j)} \left( \lVert \mathbf{u} \rVert^2 + \lVert \mathbf{v}_i \rVert^2
        + \lVert \mathbf{v}_j \rVert^2 \right)

    with :math:`\mathbf{R}` the binary interactions, :math:`\mathbf{D}_U` the row sums of the matrix that it normalizes,
    :math:`\mathbf{S}` of :class:`~lirdrec_pyg.transforms.AddItemHypergraph`, :math:`\mathbf{E}` and :math:`\mathbf{Z}`
    trained, and :math:`\mathcal{L}_c` of :func:`two_view_info_nce`. A user who shares no item with another has
    :math:`\mathbf{h}_u = \mathbf{0}`.

    Neither :math:`\mathbf{R} \mathbf{R}^\top` nor :math:`\mathbf{S}` is ever computed, so memory stays linear in the
    interactions and items. Differences from the released program: :math:`\mathcal{L}_c` is over the distinct users, and
    the distinct positive and negative items, of a batch in place of all users and items (with several processes, each
    contrasts its own part); triples are drawn by interaction instead of by user; the learning rate is constant, 1e-3
    instead of 1e-4 by default.

    Args:
        num_users: number of users.
        num_items: number of items.
        in_channels: feature width of each modality.
        embedding_dim: width :math:`d` of the vectors.
        num_layers: :math:`L`.
        num_user_layers: :math:`n_U`.
        num_item_layers: :math:`n_I`.
        user_contrast_weight: :math:`\alpha`.
        item_contrast_weight: :math:`\beta`.
        temperature: :math:`\tau` of :math:`\mathcal{L}_c`.
        reg_weight: :math:`\lambda`.
    """

    config_class = MMHCLConfig

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_user_layers: int = 3,
        num_item_layers: int = 2,
        user_contrast_weight: float = 0.03,
        item_contrast_weight: float = 0.07,
        temperature: float = 0.6,
        reg_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        self.modalities = tuple(in_channels)
        self.user = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.hyper_user = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.hyper_item = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.bipartite_conv = BipartiteConv(num_layers)
        self.conv = BipartiteLGConv()
        self.num_user_layers = num_user_layers
        self.num_item_layers = num_item_layers
        self.user_contrast_weight = user_contrast_weight
        self.item_contrast_weight = item_contrast_weight
        self.temperature = temperature
        self.reg_weight = reg_weight
        self.reset_parameters()

    @staticmethod
    def graph_transform(config: MMHCLConfig, progress: bool = False) -> BaseTransform:
        """Return the transform that adds the hypergraph of items."""
        return AddItemHypergraph(config.knn_k, config.knn_search, progress)

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter)

    def _hyper_users(self, data: HeteroData) -> Tensor:
        r"""Return :math:`\mathbf{H}_U`."""
        user, item = training_interactions(data)
        num_users, num_items = len(self.user), len(self.item)
        taken, takers = degree(user, num_users, self.user.dtype), degree(item, num_items, self.user.dtype)
        others = torch.bincount(user, takers[item] - 1, minlength=num_users).to(taken.dtype)
        share = others.reciprocal().where(others > 0, 0.0)
        # The edges have the weights of R normalized, which are undone.
        from_user, from_item = (1 / degree_scale(x)[:, None] for x in (taken, takers))
        x: Tensor = self.hyper_user
        for _ in range(self.num_user_layers):
            common = self.conv((from_user * x, self.item), *adjacency(data[INTERACTS]))
            common = self.conv((from_item.square() * common, x), *adjacency(data[INTERACTED_BY]))
            x = share[:, None] * (from_user * common - taken[:, None] * x)
        return x

    def _hyper_items(self, data: HeteroData) -> Tensor:
        r"""Return :math:`\mathbf{H}_I`."""
        edges = [adjacency(data[similar_by(modality)]) for modality in self.modalities]
        x: Tensor = self.hyper_item
        for _ in range(self.num_item_layers):
            parts = [self.conv(self.conv(x, reverse(edge), weight), edge, weight) for edge, weight in edges]
            x = torch.stack(parts).sum(dim=0)
        return x

    def _views(self, data: HeteroData) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        r"""Return :math:`\mathbf{U}, \mathbf{V}`, and :math:`\mathbf{H}_U, \mathbf{H}_I`."""
        user, item = mean_of_layers(self.bipartite_conv, self.user, self.item, data)
        hyper_user, hyper_item = self._hyper_users(data), self._hyper_items(data)
        return (user + unit_vectors(hyper_user), item + unit_vectors(hyper_item)), (hyper_user, hyper_item)

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        return self._views(data)[0]

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        vectors, hyper = self._views(data)
        rows = gathered(vectors, triples)
        loss = bpr(*rows) + self.reg_weight * squared_norms(*rows)
        nodes, factors = (triples[0], triples[1:]), (self.user_contrast_weight, self.item_contrast_weight)
        for index, x, y, factor in zip(nodes, vectors, hyper, factors, strict=True):
            index = index.unique()
            loss = loss + factor * two_view_info_nce(F.embedding(index, x), F.embedding(index, y), self.temperature)
        return weight * loss


def two_view_info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    r"""Return the InfoNCE with negatives of both views, of rows of shape ``(N, d)``.

    .. math::
        -\frac{1}{N} \sum_i \log \frac{\exp(\cos(\mathbf{x}_i, \mathbf{y}_i) / \tau)}{
        \sum_j \exp(\cos(\mathbf{x}_i, \mathbf{y}_j) / \tau)
        + \sum_{j \neq i} \exp(\cos(\mathbf{x}_i, \mathbf{x}_j) / \tau)}
    """
    x, y = unit_vectors(x), unit_vectors(y)
    similarity = x / temperature @ torch.cat([y, x]).t()
    similarity[:, len(x) :].fill_diagonal_(-torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(x), device=x.device))
