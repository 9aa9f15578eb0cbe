"""A linear branch in closed form beside the branches that are learned."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree
from tqdm import tqdm

from lirdrec_pyg.data import INTERACTS, feature_mask, item_features, modalities, training_interactions
from lirdrec_pyg.data.features import mean_row
from lirdrec_pyg.models.base import Measure
from lirdrec_pyg.models.closed_form import MAX_ITEMS, autoencoder_weights, history_sums, item_gram
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import DotProducts, Scores, SeenItems, unit_vectors

_log = logging.getLogger(__name__)

# Exponent of the degrees by which interactions are divided.
_POWER = 0.25
# Multiplications of the search for settings, which take some minutes on two cores.
_MAX_WORK = 3e13


@dataclass(frozen=True)
class LinearItems:
    r"""Items of a linear autoencoder whose regularizer knows the features, as vectors.

    With :math:`\tilde{\mathbf{X}} = \mathbf{D}_U^{-1/4} \mathbf{X} \mathbf{D}_I^{-1/4}` the normalized training
    interactions, :math:`\mathbf{F}_m` the features of a modality, centered and of unit length, :math:`g` the mean
    diagonal entry of :math:`\tilde{\mathbf{X}}^\top \tilde{\mathbf{X}}`, and :math:`n` the mean number of interactions
    per item,

    .. math::
        \mathbf{P} = \Big( \tilde{\mathbf{X}}^\top \tilde{\mathbf{X}} + \sum_m \gamma_m g \, \mathbf{F}_m
        \mathbf{F}_m^\top + \frac{\lambda g}{n} \mathbf{I} \Big)^{-1}, \qquad
        B_{ij} = -\frac{P_{ij}}{P_{jj}} \; (i \ne j), \qquad
        x_{ui} = \sum_{j \in H_u} \deg(j)^{-1/4} B_{ji}

    This is EASE (`Steck, 2019 <https://arxiv.org/abs/1905.03375>`_) with side information added to the Gram matrix
    (`Jeunen et al., 2020 <https://doi.org/10.1145/3383313.3418480>`_). The scores of all users are reduced to their
    :math:`r` largest singular values, so that a score is a dot product of :math:`\mathbf{q}_u = \sum_{j \in H_u}
    \mathbf{g}_j` and :math:`\mathbf{z}_i`. These vectors are rotated and scaled so that the covariance of
    :math:`\mathbf{z}_i` over the items is :math:`\mathbf{I}`: the standard deviation of a user's scores then is
    :math:`\lVert \mathbf{q}_u \rVert`.

    Attributes:
        given: :math:`\mathbf{g}_i`, what an item adds to the vector of its users, shape ``(|I|, r)``.
        item: :math:`\mathbf{z}_i`, shape ``(|I|, r)``.
    """

    given: Tensor
    item: Tensor

    def scaled(self, weight: float) -> "LinearItems":
        """Return the same with :attr:`item` times ``weight``."""
        return replace(self, item=weight * self.item)


def feature_mean(data: HeteroData, modality: str) -> Tensor:
    """Return the mean of the features of a modality over the trained items that have them, shape ``(d,)``."""
    return mean_row(item_features(data, modality), feature_mask(data, modality)).float()


def unit_features(
    data: HeteroData, modality: str, mean: Tensor, node_type: str = "item", rows: Tensor | slice = slice(None)
) -> Tensor:
    """Return the features of a modality minus ``mean``, as unit vectors, shape ``(N, d)``.

    Missing ones are zero.
    """
    x = item_features(data, modality, node_type)[rows].float()
    x = F.normalize(x - mean.to(x), dim=1)
    missing = feature_mask(data, modality, node_type)
    return x if missing is None else x * missing[rows].unsqueeze(1)


def linear_weights(data: HeteroData, l2: float, content: Mapping[str, float]) -> Tensor:
    r"""Return :math:`\mathbf{B}`, see :class:`LinearItems`.

    Args:
        data: graph with training interactions and features.
        l2: :math:`\lambda`.
        content: :math:`\gamma_m` by modality; others are not used.
    """
    user, item = training_interactions(data)
    size = data["user"].num_nodes, data["item"].num_nodes
    scale = (degree(user, size[0])[user] * degree(item, size[1])[item]) ** -_POWER
    gram = item_gram(data, scale)
    clicked = gram.diagonal() > 0
    mean = gram.diagonal()[clicked].mean()
    for modality, weight in content.items():
        if weight:
            x = unit_features(data, modality, feature_mean(data, modality))
            gram.addmm_(x, x.t(), alpha=float(weight * mean))
    gram.diagonal().add_(l2 * mean * clicked.sum() / len(user))
    return autoencoder_weights(gram)


def damping(data: HeteroData) -> Tensor:
    """Return the factor of each item in the history of a user, shape ``(|I|,)``."""
    return degree(data[INTERACTS].edge_index[1], data["item"].num_nodes).clamp(min=1) ** -_POWER


def linear_items(data: HeteroData, dim: int, l2: float, content: Mapping[str, float]) -> LinearItems:
    """Compute the branch with ``dim`` columns, or one per item if there are fewer; see :func:`linear_weights`."""
    weights = linear_weights(data, l2, content)
    dim, factor = min(dim, len(weights)), damping(data)
    edge_index = training_interactions(data)
    takes = torch.sparse_coo_tensor(edge_index, factor[edge_index[1]], (data["user"].num_nodes, len(weights)))

    def score_gram(x: Tensor) -> Tensor:
        return weights.t() @ torch.sparse.mm(takes.t(), torch.sparse.mm(takes, weights @ x))

    # Subspace iteration: the scores, users x items, are never computed.
    start = torch.Generator(weights.device).manual_seed(0)
    basis = torch.randn(len(weights), min(dim + 32, len(weights)), generator=start, device=weights.device)
    for _ in range(4):
        basis = torch.linalg.qr(score_gram(basis)).Q
    product = score_gram(basis)
    rotation = torch.linalg.eigh(basis.t() @ product).eigenvectors
    columns = basis @ rotation[:, -dim:]
    variance, direction = torch.linalg.eigh(torch.cov(columns.t()).view(dim, dim))
    deviation = variance.clamp(min=1e-12).sqrt()
    whiten = direction / deviation
    given = factor.unsqueeze(1) * (weights @ columns) @ (direction * deviation)
    return LinearItems(given, columns @ whiten)


def linear_part(learned: Tensor, given: Tensor) -> Tensor:
    r"""Return the columns of users in the linear branch, :math:`\lVert \mathbf{u} \rVert \, \mathbf{q} /
    \lVert \mathbf{q} \rVert`, from their learned columns and :math:`\mathbf{q}`."""
    return learned.norm(dim=1, keepdim=True) * unit_vectors(given)


def with_linear(vectors: Vectors, data: HeteroData, linear: LinearItems) -> Vectors:
    """Return ``vectors``, which have no linear branch, with it."""
    edge_index = training_interactions(data)
    given, item = linear.given.to(vectors.user), linear.item.to(vectors.user)
    takes = torch.sparse_coo_tensor(edge_index, given.new_ones(edge_index.size(1)), (len(vectors.user), len(item)))
    user = torch.cat([vectors.user, linear_part(vectors.user, torch.sparse.mm(takes, given))], dim=1)
    return replace(vectors, user=user, item=torch.cat([vectors.item, item], dim=1), linear=given)


def completed(
    config: Any,
    data: HeteroData,
    learned: Vectors,
    measure: Measure | None,
    compute: Callable[[HeteroData, int, float, Mapping[str, float]], LinearItems] = linear_items,
) -> Any:
    """Return the configuration with the settings of the linear branch that are left open.

    Without validation, they are 300 for ``linear_l2``, 1 for ``linear_content`` of each modality, and for
    ``linear_weight`` what makes the scores of both parts vary equally.

    Args:
        config: configuration with ``linear_dim`` above 0.
        data: the graph.
        learned: vectors of the branches that are learned.
        measure: returns the validation Recall@20 of a ranking function.
        compute: as :func:`linear_items`; may keep the result.
    """
    if (num_items := len(learned.item)) > MAX_ITEMS:
        _log.info("no linear branch: %s items are more than %s", f"{num_items:,}", f"{MAX_ITEMS:,}")
        return replace(config, linear_dim=0)
    if config.linear_l2 is None or not config.linear_content:
        l2, content = _regularization(config, data, measure)
        config = replace(config, linear_l2=l2, linear_content=content)
    gain = ""
    if config.linear_weight is None:
        settings = config.linear_dim, config.linear_l2, config.linear_content
        weight, gain = _weight(learned, data, compute(data, *settings), measure)
        config = replace(config, linear_weight=weight)
    _log.info(
        "linear branch: l2 %g, content %s, weight %g%s",
        config.linear_l2,
        ", ".join(f"{name} {value:g}" for name, value in config.linear_content.items()),
        config.linear_weight,
        gain,
    )
    return config


def _regularization(config: Any, data: HeteroData, measure: Measure | None) -> tuple[float, dict[str, float]]:
    """Choose regularization and weights of the features: the modalities first, then their weight, then the other."""
    names = modalities(data)
    l2, content = config.linear_l2 or 300.0, config.linear_content or dict.fromkeys(names, 1.0)
    if measure is None:
        return l2, content
    found: dict[tuple[float, tuple[float, ...]], float] = {}
    most = max(2, int(_MAX_WORK / data["item"].num_nodes ** 3))
    with tqdm(desc="linear branch", unit=" settings", disable=None) as bar:

        def value(l2: float, weights: tuple[float, ...]) -> float:
            if (key := (l2, weights)) not in found:
                if len(found) == most:
                    return float("-inf")
                start = time.perf_counter()
                weight = linear_weights(data, l2, dict(zip(names, weights)))
                found[key] = measure(linear_ranker(data, weight))
                bar.update()
                if len(found) == 1:
                    seconds = time.perf_counter() - start
                    _log.info(
                        "linear branch: choosing its settings by validation, %.1f s for each that is tried", seconds
                    )
            return found[key]

        weights = tuple(content.get(name, 0.0) for name in names)
        if not config.linear_content:
            alone = [tuple(float(name == other) for other in names) for name in names]
            start = [weights, tuple(0.0 for _ in names), *alone]
            weights = max(start, key=lambda weights: value(l2, weights))
            for factor in (10 / 3, 0.3):
                while any(weights) and 0.05 < max(weights) < 30:
                    changed = tuple(float(f"{factor * w:.1g}") for w in weights)
                    if value(l2, changed) <= value(l2, weights):
                        break
                    weights = changed
        if config.linear_l2 is None:
            l2 = max((300.0, 100.0, 1000.0), key=lambda l2: value(l2, weights))
    return l2, dict(zip(names, weights))


def linear_ranker(data: HeteroData, weights: Tensor) -> Scores:
    """Return the ranking function of the branch alone, with all singular values."""
    history = SeenItems.of(data[INTERACTS].edge_index, data["user"].num_nodes)
    damped = damping(data).unsqueeze(1) * weights
    return Scores(lambda user_index: history_sums(history, damped, user_index), len(weights))


def _weight(learned: Vectors, data: HeteroData, linear: LinearItems, measure: Measure | None) -> tuple[float, str]:
    """Return the weight of the branch in the scores, and what it changes in the validation."""
    # Of the scores of a user whose vector has length 1, as those of the linear branch have a deviation of 1.
    spread = (unit_vectors(learned.user) @ torch.cov(learned.item.t()) * unit_vectors(learned.user)).sum(dim=1)
    deviation = float(spread[learned.user.any(dim=1)].clamp(min=0).sqrt().mean())
    if measure is None:
        return float(f"{deviation:.3g}"), ""
    values: dict[float, float] = {}
    for factor in (0, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2.5, 4, 8):
        weight = float(f"{factor * deviation:.3g}")
        vectors = with_linear(learned, data, linear.scaled(weight))
        values[weight] = measure(DotProducts(vectors.user, vectors.item))
    best = max(values, key=lambda weight: values[weight])
    return best, f"; validation Recall@20 {values[0.0]:.4f} without it, {values[best]:.4f} with it"
