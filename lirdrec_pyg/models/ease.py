import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import field
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.models.base import ModelConfig
from lirdrec_pyg.models.closed_form import DenseItemModel, autoencoder_weights, item_gram

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EASEConfig(ModelConfig):
    """Hyperparameters of EASE."""

    model: ClassVar[str] = "ease"
    is_closed_form: ClassVar[bool] = True
    has_vectors: ClassVar[bool] = False
    supports_explanations: ClassVar[bool] = True

    l2: float = field(20.0, "Weight lambda of the squared norm of the item-item weights.", min=0, min_open=True)


class EASE(DenseItemModel):
    r"""Linear autoencoder in closed form from `"Embarrassingly Shallow Autoencoders for Sparse Data"
    <https://arxiv.org/abs/1905.03375>`_ (Steck, 2019).

    .. math::
        \min_{\mathbf{B}} \lVert \mathbf{X} - \mathbf{X} \mathbf{B} \rVert_F^2 + \lambda \lVert \mathbf{B} \rVert_F^2
        \; \text{with} \; \mathrm{diag}(\mathbf{B}) = 0, \qquad
        \mathbf{P} = (\mathbf{X}^\top \mathbf{X} + \lambda \mathbf{I})^{-1}, \qquad
        B_{ij} = -\frac{P_{ij}}{P_{jj}} \; (i \ne j)

    with :math:`\mathbf{X}` the binary interactions; :math:`x_{ui} = \sum_{j \in H_u} B_{ji}`. The weights are solved
    in float64 and stored in float32, shape ``(|I|, |I|)``.

    Args:
        num_items: number of items, at most 20,000 since the matrix is dense.
        l2: :math:`\lambda`.

    Raises:
        DataError: if there are more items.
    """

    config_class = EASEConfig

    def __init__(self, num_items: int, l2: float = 20.0) -> None:
        super().__init__(num_items)
        self.l2 = l2

    def fit(self, data: HeteroData, progress: bool = False) -> None:
        edge_index = data[INTERACTS].edge_index
        gram = item_gram(data, torch.ones(edge_index.size(1), dtype=torch.float64, device=edge_index.device))
        gram.diagonal().add_(self.l2)
        if progress:
            _log.info("Inverting a matrix of %s x %s items", f"{len(gram):,}", f"{len(gram):,}")
        self.weight = autoencoder_weights(gram).float()

    def extra_repr(self) -> str:
        return f"num_items={len(self.weight)}, l2={self.l2}"
