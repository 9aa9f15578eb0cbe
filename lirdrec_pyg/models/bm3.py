from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import field
from lirdrec_pyg.data import item_features
from lirdrec_pyg.models.base import PEER_TRAINING, Model, ModelConfig, embedding_dim_field, num_layers_field
from lirdrec_pyg.models.embedding import mean_of_layers
from lirdrec_pyg.nn import BipartiteConv


@dataclass(frozen=True)
class BM3Config(ModelConfig):
    """Hyperparameters of BM3."""

    model: ClassVar[str] = "bm3"
    training_defaults: ClassVar[Mapping[str, Any]] = PEER_TRAINING

    embedding_dim: int = embedding_dim_field()
    num_layers: int = num_layers_field(1)
    dropout: float = field(0.3, "Dropout rate of the target views.", min=0, max=0.99)
    modality_weight: float = field(2.0, "Weight of the alignment and masking losses of the modalities.", min=0)
    reg_weight: float = field(0.1, "Weight of the mean squared initial embeddings.", min=0)


class BM3(Model):
    r"""BM3 (contrasts two views of each vector, without negatives) from `"Bootstrap Latent Representations for
    Multi-modal Recommendation" <https://arxiv.org/abs/2207.05969>`_ (Zhou et al., 2023).

    .. math::
        \mathbf{H}_U, \bar{\mathbf{H}}_I = \frac{1}{L + 1} \sum_{l=0}^{L} \hat{\mathbf{A}}^l \mathbf{E}, \qquad
        \mathbf{H}_I = \bar{\mathbf{H}}_I + \mathbf{E}_I, \qquad
        \mathbf{H}_m = \mathbf{X}_m \mathbf{W}_m^\top + \mathbf{b}_m

    The target view :math:`\dot{\mathbf{h}}` is :math:`\mathbf{h}` with dropout and without gradient; the online
    view :math:`\tilde{\mathbf{h}} = \mathbf{h} \mathbf{W}_p^\top + \mathbf{b}_p` is the output of the predictor. With
    :math:`C(\mathbf{a}, \mathbf{b}) = 1 - \cos(\mathbf{a}, \mathbf{b})`, over the pairs :math:`(u, i)` of a batch:

    .. math::
        \mathcal{L} = \frac{1}{N} \sum_{(u,i)} \Big( C(\tilde{\mathbf{h}}_u, \dot{\mathbf{h}}_i)
        + C(\tilde{\mathbf{h}}_i, \dot{\mathbf{h}}_u)
        + \lambda_m \sum_m \big( C(\tilde{\mathbf{h}}_{m,i}, \dot{\mathbf{h}}_i)
        + C(\tilde{\mathbf{h}}_{m,i}, \dot{\mathbf{h}}_{m,i}) \big) \Big)
        + \lambda \left( \mathrm{mean}(\mathbf{E}_U \odot \mathbf{E}_U)
        + \mathrm{mean}(\mathbf{E}_I \odot \mathbf{E}_I) \right)

    The score is :math:`\tilde{\mathbf{h}}_u^\top \tilde{\mathbf{h}}_i`. Unlike the released program,
    features are not trained, and the regularizer is the mean square of :math:`\mathbf{E}` instead of the norm of
    :math:`\mathbf{H}` divided by the number of items.

    Args:
        num_users: number of users.
        num_items: number of items.
        in_channels: feature width of each modality.
        embedding_dim: width :math:`d` of the vectors.
        num_layers: :math:`L`.
        dropout: dropout rate of the target views.
        modality_weight: :math:`\lambda_m`.
        reg_weight: :math:`\lambda`.
    """

    config_class = BM3Config

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 1,
        dropout: float = 0.3,
        modality_weight: float = 2.0,
        reg_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.modalities = tuple(in_channels)
        self.user = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.projections = nn.ModuleList(nn.Linear(width, embedding_dim) for width in in_channels.values())
        self.predictor = nn.Linear(embedding_dim, embedding_dim)
        self.bipartite_conv = BipartiteConv(num_layers)
        self.dropout = nn.Dropout(dropout)
        self.modality_weight = modality_weight
        self.reg_weight = reg_weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.user)
        nn.init.xavier_uniform_(self.item)
        for linear in (*self.projections, self.predictor):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _representations(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        """Return the vectors of users and items before the predictor."""
        user, item = mean_of_layers(self.bipartite_conv, self.user, self.item, data)
        return user, item + self.item

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        user, item = self._representations(data)
        return self.predictor(user), self.predictor(item)

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        """Return the loss of a batch; negatives are not used."""
        user, item = (F.embedding(index, x) for index, x in zip(triples[:2], self._representations(data), strict=True))
        user_target, item_target = self._target(user), self._target(item)
        loss = _distance(self.predictor(user), item_target) + _distance(self.predictor(item), user_target)
        for modality, projection in zip(self.modalities, self.projections, strict=True):
            x = projection(F.embedding(triples[1], item_features(data, modality)).to(self.item.dtype))
            online = self.predictor(x)
            aligned, masked = _distance(online, item_target), _distance(online, self._target(x))
            loss = loss + self.modality_weight * (aligned + masked)
        return weight * loss + self.reg_weight * (self.user.square().mean() + self.item.square().mean())

    def _target(self, x: Tensor) -> Tensor:
        return self.dropout(x.detach())


def _distance(online: Tensor, target: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(online, target, dim=1).mean()
