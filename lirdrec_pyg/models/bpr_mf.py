import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import BPRMFConfig
from lirdrec_pyg.models.embedding import EmbeddingModel, bpr, gathered, squared_norms


class BPRMF(EmbeddingModel):
    r"""Matrix factorisation by Bayesian personalised ranking, from `"BPR: Bayesian Personalized Ranking from
    Implicit Feedback" <https://arxiv.org/abs/1205.2618>`_ (Rendle et al., 2009).

    .. math::
        x_{ui} = \mathbf{p}_u^\top \mathbf{q}_i, \qquad
        \mathcal{L} = -\frac{1}{N} \sum_{(u,i,j)} \log \sigma(x_{ui} - x_{uj})
        + \frac{\lambda}{2N} \sum_{(u,i,j)}
        \left( \lVert \mathbf{p}_u \rVert^2 + \lVert \mathbf{q}_i \rVert^2 + \lVert \mathbf{q}_j \rVert^2 \right)

    The paper has a weight of the regulariser for each of the three and descends by single triples; here
    they share one, and Adam takes batches, as for all models.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: width :math:`d` of the vectors.
        reg_weight: :math:`\lambda`.
    """

    def __init__(self, num_users: int, num_items: int, embedding_dim: int = 64, reg_weight: float = 1e-3) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.reg_weight = reg_weight
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: BPRMFConfig, data: HeteroData) -> "BPRMF":
        """The model of ``config`` for the users and items of ``data``."""
        return cls(data["user"].num_nodes, data["item"].num_nodes, config.embedding_dim, config.reg_weight)

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.user)
        nn.init.xavier_normal_(self.item)

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        """Vectors of all users, shape ``(|U|, d)``, and of all items, ``(|I|, d)``."""
        return self.user, self.item

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        """Loss of a batch, see :class:`~lirdrec_pyg.training.Trainable`."""
        rows = gathered((self.user, self.item), triples)
        return weight * (bpr(*rows) + self.reg_weight * squared_norms(*rows))
