import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.config import field
from lirdrec_pyg.data import feature_mask, item_features, modalities, training_interactions
from lirdrec_pyg.models.base import ModelConfig, graph_weights_field
from lirdrec_pyg.models.closed_form import DenseItemModel, item_gram
from lirdrec_pyg.transforms import modality_weights

_log = logging.getLogger(__name__)

# torch.quantile takes at most 2^24 values.
_QUANTILE_VALUES = 2**24


@dataclass(frozen=True)
class MMGFConfig(ModelConfig):
    """Hyperparameters of MM-GF."""

    model: ClassVar[str] = "mm-gf"
    is_closed_form: ClassVar[bool] = True
    has_vectors: ClassVar[bool] = False
    supports_explanations: ClassVar[bool] = True

    alpha: float = field(
        0.5,
        "Exponent a of the normalization: an interaction weighs (items of the user)^-a * (users of the item)^(a-1).",
        min=0,
        max=1,
    )
    power: float = field(0.7, "Exponent of each similarity: below 1 weakens differences.", min=0, min_open=True, max=8)
    order: int = field(
        1,
        "Order of the graph filter of the interactions: P, or 2 P - P^2. The latter suits --alpha 0.5 --power 1, with "
        "which no eigenvalue of P is above 1.",
        min=1,
        max=2,
    )
    modality_weight: float = field(
        1.0, "Weight of the item graph of the features; that of the interactions has 1.", min=0
    )
    graph_weights: dict[str, float] = graph_weights_field()


class MMGF(DenseItemModel):
    r"""MM-GF (multimodal graph filtering) from `"Training-free Graph Filtering via Multimodal Feature Refinement for
    Extremely Fast Multimodal Recommendation" <https://arxiv.org/abs/2503.04406v1>`_ (Roh et al., 2025).

    .. math::
        \tilde{\mathbf{R}} = \mathbf{D}_U^{-\alpha} \mathbf{R} \mathbf{D}_I^{\alpha - 1}, \qquad
        \mathbf{P} = (\tilde{\mathbf{R}}^\top \tilde{\mathbf{R}})^{\circ s}, \qquad
        \tilde{\mathbf{X}}_m = \mathbf{D}_{m,I}^{-\alpha} \mathbf{X}'_m \mathbf{D}_{m,F}^{\alpha - 1}, \qquad
        \mathbf{P}_m = (\tilde{\mathbf{X}}_m \tilde{\mathbf{X}}_m^\top)^{\circ s}

    .. math::
        \mathbf{B} = \mathrm{std}(f(\mathbf{P})) + \beta \sum_m w_m \mathrm{std}(\mathbf{P}_m), \qquad
        f(\mathbf{P}) = \mathbf{P} \;\text{or}\; 2 \mathbf{P} - \mathbf{P}^2

    with :math:`\mathbf{R}` the binary interactions, :math:`\circ s` the power of each entry, :math:`\mathbf{D}` the
    diagonal matrices of row and column sums, and :math:`x_{ui} = \sum_{j \in H_u} B_{ji}`. The refined features
    :math:`\mathbf{X}'_m` are robustly scaled, each column to median 0 and interquartile range 1, and shifted by the
    minimum of the matrix, so that none is negative; missing features are 0.

    Normalization, refinement and :math:`\mathbf{P}_m` are those of the authors' program. Its filter is the linear one;
    the quadratic one is from Turbo-CF (`Park et al., 2024 <https://arxiv.org/abs/2404.14243>`_). The polynomial of the
    features in later versions of the paper is not implemented. The authors tune the weight of each graph for each data
    set (600 and 0.1 on Amazon Baby), since entries of the graphs differ in scale. Here :math:`\mathrm{std}` subtracts
    the mean of each row, divides by the root mean square and sets the diagonal to 0. This changes weights but, with
    these, no ranking of unseen items, and makes the same weights useful for all data sets.

    Args:
        num_items: number of items, at most 20,000 since the matrix is dense.
        alpha: :math:`\alpha`.
        power: :math:`s`.
        order: 1 for the linear filter, 2 for the quadratic one. The latter is a low-pass filter if no eigenvalue of
            :math:`\mathbf{P}` is above 1, as with :math:`\alpha = 1/2` and :math:`s = 1`.
        modality_weight: :math:`\beta`.
        graph_weights: :math:`w_m`, see :class:`~lirdrec_pyg.transforms.AddItemKNN`.

    Raises:
        DataError: if there are more items.
    """

    config_class = MMGFConfig

    def __init__(
        self,
        num_items: int,
        alpha: float = 0.5,
        power: float = 0.7,
        order: int = 1,
        modality_weight: float = 1.0,
        graph_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(num_items)
        self.alpha = alpha
        self.power = power
        self.order = order
        self.modality_weight = modality_weight
        self.graph_weights = graph_weights or {}

    def fit(self, data: HeteroData, progress: bool = False) -> None:
        shares = modality_weights(modalities(data), self.graph_weights)
        if progress:
            _log.info("Filtering a graph of %s x %s items", f"{len(self.weight):,}", f"{len(self.weight):,}")
        graph = self._interaction_graph(data)
        if self.order == 2:
            graph = 2 * graph - graph @ graph
        weight = _standardized(graph)
        for modality, share in shares.items():
            x = _refined(item_features(data, modality), feature_mask(data, modality))
            rows, columns = x.sum(dim=1, keepdim=True), x.sum(dim=0)
            x = x * _inverse_power(rows, self.alpha) * _inverse_power(columns, 1 - self.alpha)
            weight += self.modality_weight * share * _standardized((x @ x.t()).pow_(self.power)).float()
        self.weight = weight

    def _interaction_graph(self, data: HeteroData) -> Tensor:
        user, item = training_interactions(data)
        size = data["user"].num_nodes, len(self.weight)
        value = degree(user, size[0])[user].pow(-self.alpha) * degree(item, size[1])[item].pow(self.alpha - 1)
        return item_gram(data, value).pow_(self.power)

    def extra_repr(self) -> str:
        return (
            f"num_items={len(self.weight)}, alpha={self.alpha}, power={self.power}, order={self.order}, "
            f"modality_weight={self.modality_weight}"
        )


def _refined(x: Tensor, mask: Tensor | None) -> Tensor:
    """Scale features robustly and shift them to be at least 0, float64; missing ones become 0."""
    present = x.double() if mask is None else x[mask].double()
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype, device=x.device).double()
    columns = max(1, _QUANTILE_VALUES // len(present))
    low, median, high = torch.cat([part.quantile(quarters, dim=0) for part in present.split(columns, dim=1)], dim=1)
    spread = high - low
    scaled = (present - median) / spread.where(spread > 0, 1.0)
    scaled -= scaled.min()
    return scaled if mask is None else x.new_zeros(x.shape, dtype=scaled.dtype).masked_scatter(mask[:, None], scaled)


def _inverse_power(total: Tensor, exponent: float) -> Tensor:
    """Return ``total ** -exponent``, and 0 for rows or columns of zeros."""
    return total.pow(-exponent).where(total > 0, 0.0)


def _standardized(graph: Tensor) -> Tensor:
    """Center the rows of a graph, scale it to a root mean square of 1, and set its diagonal to 0."""
    graph.fill_diagonal_(0)
    graph -= graph.sum(dim=1, keepdim=True) / max(1, len(graph) - 1)
    graph.fill_diagonal_(0)
    return graph / graph.square().mean().sqrt().clamp_min(torch.finfo(graph.dtype).tiny)
