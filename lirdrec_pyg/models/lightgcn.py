from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.nn import LightGCN as PyGLightGCN
from torch_geometric.utils import to_torch_csr_tensor

from lirdrec_pyg.config import field
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.edge_index import plain
from lirdrec_pyg.models.base import PEER_TRAINING, Model, ModelConfig, embedding_dim_field, num_layers_field
from lirdrec_pyg.models.embedding import bpr, gathered, squared_norms
from lirdrec_pyg.nn import bipartite_norm


@dataclass(frozen=True)
class LightGCNConfig(ModelConfig):
    """Hyperparameters of LightGCN."""

    model: ClassVar[str] = "lightgcn"
    training_defaults: ClassVar[Mapping[str, Any]] = PEER_TRAINING

    embedding_dim: int = embedding_dim_field()
    num_layers: int = num_layers_field(3)
    reg_weight: float = field(1e-4, "Weight of the squared norms of a batch's initial embeddings.", min=0)


class LightGCN(Model):
    r"""PyG's :class:`torch_geometric.nn.LightGCN` from `"LightGCN: Simplifying and Powering Graph
    Convolution Network for Recommendation" <https://arxiv.org/abs/2002.02126>`_ (He et al., 2020).

    .. math::
        \mathbf{E} = \frac{1}{L + 1} \sum_{l=0}^{L} \hat{\mathbf{A}}^l \mathbf{E}^{(0)}, \qquad
        x_{ui} = \mathbf{e}_u^\top \mathbf{e}_i

    .. math::
        \mathcal{L} = -\frac{1}{N} \sum_{(u,i,j)} \log \sigma(x_{ui} - x_{uj})
        + \frac{\lambda}{2N} \sum_{(u,i,j)} \left( \lVert \mathbf{e}_u^{(0)} \rVert^2
        + \lVert \mathbf{e}_i^{(0)} \rVert^2 + \lVert \mathbf{e}_j^{(0)} \rVert^2 \right)

    It always uses torch CSR matrices, regardless of ``sparse_backend``.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: width :math:`d` of the vectors.
        num_layers: :math:`L`.
        reg_weight: :math:`\lambda`.
    """

    config_class = LightGCNConfig

    def __init__(
        self, num_users: int, num_items: int, embedding_dim: int = 64, num_layers: int = 3, reg_weight: float = 1e-4
    ) -> None:
        super().__init__()
        self.num_users = num_users
        # Edges are passed with normalized weights.
        self.gcn = PyGLightGCN(num_users + num_items, embedding_dim, num_layers, normalize=False)
        self.reg_weight = reg_weight
        self._adjacency: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # torch cannot copy a CSR matrix.
        return {**self.__dict__, "_adjacency": None}

    def reset_parameters(self) -> None:
        self.gcn.reset_parameters()

    def adjacency(self, data: HeteroData) -> Tensor:
        r"""Return :math:`\hat{\mathbf{A}}` of users and items, users first, as a CSR matrix."""
        edge_index = data[INTERACTS].edge_index
        # Cached for these edges; edge dropout changes them in each epoch.
        if self._adjacency is None or self._adjacency[0] is not edge_index:
            self._adjacency = edge_index, self._normalized(edge_index, data["item"].num_nodes)
        return self._adjacency[1]

    def _normalized(self, edge_index: Tensor, num_items: int) -> Tensor:
        weight = bipartite_norm(edge_index, self.num_users, num_items).to(self.gcn.embedding.weight.dtype)
        shifted = plain(edge_index) + edge_index.new_tensor([[0], [self.num_users]])
        both = torch.cat([shifted, shifted.flip([0])], dim=1)
        num_nodes = self.num_users + num_items
        return to_torch_csr_tensor(both, weight.repeat(2), (num_nodes, num_nodes))

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        # All products are sparse, which torch does not support in half precision on every device.
        with torch.autocast(self.gcn.embedding.weight.device.type, enabled=False):
            x = self.gcn.get_embedding(self.adjacency(data))
        return x[: self.num_users], x[self.num_users :]

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        # PyG's recommendation_loss, but its gradients are summed in a fixed order.
        nodes = triples + triples.new_tensor([[0], [self.num_users], [self.num_users]])
        start = F.embedding(nodes, self.gcn.embedding.weight)
        return weight * (bpr(*gathered(self(data), triples)) + self.reg_weight * squared_norms(*start))
