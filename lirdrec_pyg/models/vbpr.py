from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import field
from lirdrec_pyg.data import feature_widths, item_features, modalities
from lirdrec_pyg.models.base import PEER_TRAINING, Model, ModelConfig
from lirdrec_pyg.models.embedding import bpr, gathered, squared_norms
from lirdrec_pyg.nn import unit_vectors


@dataclass(frozen=True)
class VBPRConfig(ModelConfig):
    """Hyperparameters of VBPR."""

    model: ClassVar[str] = "vbpr"
    training_defaults: ClassVar[Mapping[str, Any]] = PEER_TRAINING

    embedding_dim: int = field(64, "Width of the free vectors and of the projected features.", min=1)
    reg_weight: float = field(1e-3, "Weight of the squared norms of a batch's vectors and biases.", min=0)
    projection_reg_weight: float = field(0.0, "Weight of the squared norm of the feature projection.", min=0)


class VBPR(Model):
    r"""Matrix factorization with features from `"VBPR: Visual Bayesian Personalized Ranking from Implicit
    Feedback" <https://arxiv.org/abs/1510.01784>`_ (He and McAuley, 2016).

    .. math::
        x_{ui} = \beta_i + \boldsymbol{\gamma}_u^\top \boldsymbol{\gamma}_i
        + \boldsymbol{\theta}_u^\top \mathbf{E} \mathbf{f}_i + \boldsymbol{\beta}^{\prime\top} \mathbf{f}_i

    with :math:`\mathbf{f}_i` the concatenated features of all modalities, each a unit vector (the paper has images
    only, and the authors' program scales them all by one number). It is trained by BPR with the regularizer

    .. math::
        \frac{\lambda}{2N} \sum_{(u,i,j)} \left( \lVert \boldsymbol{\gamma}_u \rVert^2
        + \lVert \boldsymbol{\theta}_u \rVert^2 + \lVert \boldsymbol{\gamma}_i \rVert^2
        + \lVert \boldsymbol{\gamma}_j \rVert^2 + \beta_i^2 + \beta_j^2 \right)
        + \frac{\lambda_E}{2} \left( \lVert \mathbf{E} \rVert_F^2 + \lVert \boldsymbol{\beta}^{\prime} \rVert^2 \right)

    Offsets that all items of a user share do not change a ranking and are left out.

    Args:
        num_users: number of users.
        num_items: number of items.
        in_channels: width of :math:`\mathbf{f}`.
        embedding_dim: width :math:`d` of :math:`\boldsymbol{\gamma}` and of :math:`\boldsymbol{\theta}`.
        reg_weight: :math:`\lambda`.
        projection_reg_weight: :math:`\lambda_E`.
    """

    config_class = VBPRConfig

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: int,
        embedding_dim: int = 64,
        reg_weight: float = 1e-3,
        projection_reg_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.user_gamma = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.user_theta = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item_gamma = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.item_bias = nn.Parameter(torch.empty(num_items, 1))
        self.projection = nn.Linear(in_channels, embedding_dim, bias=False)
        self.feature_bias = nn.Linear(in_channels, 1, bias=False)
        self.reg_weight = reg_weight
        self.projection_reg_weight = projection_reg_weight
        self.reset_parameters()

    @classmethod
    def sizes(cls, config: VBPRConfig, data: HeteroData) -> dict[str, Any]:
        return {**super().sizes(config, data), "in_channels": sum(feature_widths(data).values())}

    def reset_parameters(self) -> None:
        for x in (self.user_gamma, self.user_theta, self.item_gamma, self.projection.weight):
            nn.init.xavier_normal_(x)
        nn.init.zeros_(self.item_bias)
        nn.init.zeros_(self.feature_bias.weight)

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        """Return vectors of all users, shape ``(|U|, 2d + 1)``, and of all items, ``(|I|, 2d + 1)``.

        The last column is 1 for users and the bias for items.
        """
        dtype = self.item_bias.dtype
        f = torch.cat([unit_vectors(item_features(data, modality).to(dtype)) for modality in modalities(data)], dim=1)
        bias = self.item_bias + self.feature_bias(f).to(dtype)
        item = torch.cat([self.item_gamma, self.projection(f).to(dtype), bias], dim=1)
        ones = self.user_gamma.new_ones(len(self.user_gamma), 1)
        return torch.cat([self.user_gamma, self.user_theta, ones], dim=1), item

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        factors = gathered((torch.cat([self.user_gamma, self.user_theta], dim=1), self.item_gamma), triples)
        biases = F.embedding(triples[1:], self.item_bias)
        loss = bpr(*gathered(self(data), triples)) + self.reg_weight * squared_norms(*factors, *biases)
        projection = self.projection.weight.square().sum() + self.feature_bias.weight.square().sum()
        return weight * loss + self.projection_reg_weight / 2 * projection
