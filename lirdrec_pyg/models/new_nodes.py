"""Representations of new items and new users, from a trained model without further training.

All other representations stay the same, so the cost is that of the new items or users only.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce, cumsum, degree, scatter

from lirdrec_pyg.data import INTERACTS, NEW_ITEM, SIMILAR, feature_mask, has_new_items
from lirdrec_pyg.models.attribution import PropagatedUsers
from lirdrec_pyg.models.base import Measure, eval_mode
from lirdrec_pyg.models.linear import linear_part, unit_features
from lirdrec_pyg.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import DotProducts, SeenItems, top_k, unit_vectors

_log = logging.getLogger(__name__)

# Tuned on the validation half of held-out items, on TikTok and on generated data.
NUM_NEIGHBORS = 20
SHARPNESS = 10.0
_RIDGE = 0.1
_SCALES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)

_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Neighborhood:
    r"""Whitened space in which new items find their neighbors, computed once per trained model.

    Attributes:
        center: mean :math:`\boldsymbol{\mu}` of the encoded items with training interactions, ``(B, d)``.
        whitening: :math:`(\mathbf{C} + 0.1 \, \bar{c} \, \mathbf{I})^{-1/2}`, with the covariance of these
            and its mean variance :math:`\bar{c}`, ``(B * d, B * d)``.
        key: whitened unit vectors of all training items, ``(|I|, B * d)``.
        linear: ``encoder`` of :class:`~lirdrec_pyg.models.LinearItems`, without columns if there is no linear branch.
    """

    center: Tensor
    whitening: Tensor
    key: Tensor
    linear: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: LIRDRec, data: HeteroData, vectors: Vectors) -> "Neighborhood":
        """Compute the neighborhood of ``model``, which was trained on ``data``."""
        known = model.split_branches(vectors.item_layers[0, : data["item"].num_nodes])
        clicked = degree(data[INTERACTS].edge_index[1], len(known)) > 0
        center = known[clicked].mean(dim=0)
        start = _with_missing_at(center, model, data, known, "item")
        covariance = torch.zeros(2 * [center.numel()], dtype=torch.float64, device=center.device)
        for rows, kept in zip(start.split(_BLOCK_ROWS), clicked.split(_BLOCK_ROWS), strict=True):
            x = (rows[kept] - center).flatten(start_dim=1).double()
            covariance += x.t() @ x
        variance, direction = torch.linalg.eigh(covariance / clicked.sum())
        # Variances can be negative by rounding, and all are zero if all items are equal.
        scale = (variance.clamp(min=0) + _RIDGE * variance.mean()).clamp(min=1e-12).rsqrt()
        whitening = (direction * scale @ direction.t()).to(known.dtype)
        linear = model.linear_items(data).encoder.to(center) if vectors.linear.size(1) else center.new_empty(0, 0)
        found = cls(center, whitening, torch.empty_like(start).flatten(1), linear)
        for rows, out in zip(start.split(_BLOCK_ROWS), found.key.split(_BLOCK_ROWS), strict=True):
            out.copy_(found.whitened(rows))
        return found

    def whitened(self, x: Tensor) -> Tensor:
        """Return whitened unit vectors of encoded items, ``(N, B, d)`` to ``(N, B * d)``."""
        return F.normalize((x - self.center).flatten(start_dim=1) @ self.whitening, dim=1)


@torch.no_grad()
def attach_items(model: LIRDRec, data: HeteroData, vectors: Vectors, neighborhood: Neighborhood) -> Vectors:
    r"""Encode new items and attach them to the graph by their nearest neighbors.

    With :math:`\mathbf{e}^{(0)}` the encoded item, a unit vector in each branch, :math:`N` the 20 items with training
    interactions that have the largest :math:`\cos_j` with it, and :math:`s = 1 / k` the weight of an item among its
    own :math:`k` neighbors in the item graph:

    .. math::
        a_j = \mathrm{softmax}_{j \in N}(10 \cos_j), \qquad
        \mathbf{e}^{(l)} = \sum_{j \in N} a_j \mathbf{e}_j^{(l)} \quad (l = 1, \dots, L), \qquad
        \mathbf{g} = \sum_{l=0}^{L} \mathbf{e}^{(l)}

    .. math::
        \mathbf{v} = \mathbf{g} + (\mathbf{S}^n \mathbf{G})_{new}, \qquad
        S_{new,new} = s, \qquad S_{new,j} = (1 - s) \, a_j

    The cosines are those of :math:`(\mathbf{C} + 0.1 \, \bar{c} \, \mathbf{I})^{-1/2} (\mathbf{e}^{(0)} -
    \boldsymbol{\mu})`, see :class:`Neighborhood`: whitening keeps directions of large variance from dominating. A
    branch without features is at the mean.

    A new item thus has the layers that its neighbors' interactions would give it. With :math:`\mathbf{e}^{(0)}` alone
    it would rank below nearly all items with interactions, whose vectors are longer. New items are not neighbors of
    any item, so the result does not depend on their order or on how they are divided into batches.

    :math:`\mathbf{v}` is then multiplied by ``model.new_item_scale``, and the columns of the linear branch by
    ``model.new_linear_scale``, see :func:`scale_new_items`.

    Args:
        model: model trained on ``data``.
        data: graph with the new items in ``data["new_item"]``.
        vectors: vectors of ``model`` on ``data``.
        neighborhood: neighborhood of ``model`` on ``data``.

    Returns:
        ``vectors`` with the new items at the end.

    Raises:
        ConfigError: if the model cannot encode new items.
    """
    # A model that was built without a config is checked here.
    LIRDRecConfig(dct=model.dct.mode if model.dct else "none", id_branch=model.item_id is not None).require("new_items")
    with eval_mode(model):
        encoded = model.encode_items(data, NEW_ITEM)
    query = neighborhood.whitened(_with_missing_at(neighborhood.center, model, data, encoded, NEW_ITEM))
    linear = _linear(model, data, neighborhood, NEW_ITEM, torch.arange(len(query), device=query.device))
    return vectors.append_items(*_attached(model, data, vectors, neighborhood, encoded, query, linear))


@torch.no_grad()
def attach_unclicked(model: LIRDRec, data: HeteroData, vectors: Vectors, neighborhood: Neighborhood) -> Vectors:
    """Represent the items without training interactions as :func:`attach_items` represents the same items as new ones.

    Their trained vectors are shorter than those of items with interactions, so that they are hardly ever recommended.

    Args:
        model: model trained on ``data``.
        data: the graph.
        vectors: vectors of ``model`` on ``data``, with or without new items.
        neighborhood: neighborhood of ``model`` on ``data``.

    Returns:
        ``vectors`` with another ``item``; ``item_layers`` are the same.
    """
    rows = (degree(data[INTERACTS].edge_index[1], data["item"].num_nodes) == 0).nonzero().view(-1)
    encoded = model.split_branches(vectors.item_layers[0, rows])
    linear = vectors.item[rows, vectors.width :]
    attached, *_ = _attached(model, data, vectors, neighborhood, encoded, neighborhood.key[rows], linear)
    return replace(vectors, item=vectors.item.index_copy(0, rows, attached))


def _linear(model: LIRDRec, data: HeteroData, neighborhood: Neighborhood, node_type: str, rows: Tensor) -> Tensor:
    """Return the vectors of items as new ones in the linear branch."""
    if not neighborhood.linear.size(0):  # no features, or no branch
        return neighborhood.linear.new_zeros(len(rows), neighborhood.linear.size(1))
    names = [name for name, weight in model.linear_content.items() if weight]
    features = torch.cat([unit_features(data, name, node_type, rows) for name in names], dim=1)
    return features.to(neighborhood.linear) @ neighborhood.linear


def _attached(
    model: LIRDRec,
    data: HeteroData,
    vectors: Vectors,
    neighborhood: Neighborhood,
    encoded: Tensor,
    query: Tensor,
    linear: Tensor,
    candidates: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors, layers and messages of items by :func:`attach_items`, from their encoded features, whitened
    vectors, and vectors in the linear branch. Neighbors are ``candidates``, by default all items with interactions."""
    if candidates is None:
        candidates = _clicked(data)
    neighbors, weight = _neighbors(candidates, neighborhood, query)
    layers = torch.stack(
        [
            encoded.flatten(start_dim=1),
            *(F.embedding_bag(neighbors, x, mode="sum", per_sample_weights=weight) for x in vectors.item_layers[1:]),
        ]
    )
    given = vectors.linear.new_empty(len(neighbors), 0)
    if vectors.linear.size(1):  # torch's kernel reads beyond a matrix without columns
        given = F.embedding_bag(neighbors, vectors.linear, mode="sum", per_sample_weights=weight)
    start = layers.sum(dim=0)
    if model.item_conv is None:
        return _scaled(model, model.as_output(start), linear), layers, given
    rows, position = neighbors.unique(return_inverse=True)
    x = start
    for hops in range(model.item_conv.num_layers):
        known = _propagated(data, vectors, rows, hops)
        x = x / model.knn_k + (1 - 1 / model.knn_k) * F.embedding_bag(
            position, known, mode="sum", per_sample_weights=weight
        )
    return _scaled(model, model.as_output(start + x), linear), layers, given


def _clicked(data: HeteroData) -> Tensor:
    """Return the items with training interactions."""
    return degree(data[INTERACTS].edge_index[1], data["item"].num_nodes).nonzero().view(-1)


def _scaled(model: LIRDRec, learned: Tensor, linear: Tensor) -> Tensor:
    return torch.cat([model.new_item_scale * learned, model.new_linear_scale * linear], dim=1)


@torch.no_grad()
def scale_new_items(
    config: Any,
    model: LIRDRec,
    data: HeteroData,
    vectors: Vectors,
    neighborhood: Neighborhood,
    measure: Measure | None,
) -> Any:
    """Choose the factors of the scores of new items by validation, if they are left open.

    Vectors of new items are averages. Their scores vary less between users than those of items with interactions, so
    that new items are hardly ever at the top of a list. To find the factors, a fifth of the items with interactions,
    drawn at random, is represented as if they were new, and not by each other. With the best factors, the validation
    finds most of what users clicked among all items. Larger ones offer more new items than users want.

    Args:
        config: configuration of ``model``, with ``new_item_scale`` 0 if the factors are left open.
        model: model trained on ``data``, which gets the factors.
        data: the graph.
        vectors: vectors of ``model`` on ``data``, without new items.
        neighborhood: neighborhood of ``model`` on ``data``.
        measure: returns the validation Recall@20 of a ranking function; without it, both factors are 1.

    Returns:
        ``config`` with the factors.
    """
    if config.new_item_scale:
        return config
    scales = 1.0, 1.0
    if measure is not None:
        known = _clicked(data)
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0)).to(known.device)
        rows, others = known[order].tensor_split([max(1, len(known) // 5)])
        encoded = model.split_branches(vectors.item_layers[0, rows])
        linear = _linear(model, data, neighborhood, "item", rows)
        attached, *_ = _attached(model, data, vectors, neighborhood, encoded, neighborhood.key[rows], linear, others)
        found: dict[tuple[float, float], float] = {}

        def value(scales: tuple[float, float]) -> float:
            if scales not in found:
                scaled = [scale * x for scale, x in zip(scales, attached.split([vectors.width, linear.size(1)], dim=1))]
                item = vectors.item.index_copy(0, rows, torch.cat(scaled, dim=1))
                found[scales] = measure(DotProducts(vectors.user, item))
            return found[scales]

        for _ in range(2):
            scales = max(((scale, scales[1]) for scale in _SCALES), key=value)
            if linear.size(1):
                scales = max(((scales[0], scale) for scale in _SCALES), key=value)
        _log.info("scores of new items: times %g, of the linear branch times %g", *scales)
    model.new_item_scale, model.new_linear_scale = scales
    return replace(config, new_item_scale=scales[0], new_linear_scale=scales[1])


def model_vectors(model: LIRDRec, data: HeteroData) -> Vectors:
    """Return the vectors of all items of ``data`` including new ones, see :func:`attach_items`."""
    vectors = model.vectors(data)
    if not has_new_items(data):
        return vectors
    return attach_items(model, data, vectors, Neighborhood.of(model, data, vectors))


def _neighbors(candidates: Tensor, neighborhood: Neighborhood, query: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most similar items among ``candidates`` and their weights, both of shape ``(len(query), N)``."""
    index = torch.arange(len(query), device=query.device)
    blocks = list(top_k(query, neighborhood.key, index, NUM_NEIGHBORS, candidates=candidates))
    cosine = torch.cat([block.score for block in blocks])
    return torch.cat([block.item for block in blocks]), (SHARPNESS * cosine).softmax(dim=1)


def _with_missing_at(center: Tensor, model: LIRDRec, data: HeteroData, encoded: Tensor, node_type: str) -> Tensor:
    """Return ``encoded`` with branches of missing features set to ``center``."""
    for branch, modality in enumerate(model.in_channels):
        mask = feature_mask(data, modality, node_type)
        if mask is not None:
            encoded = encoded.clone()
            encoded[~mask, branch] = center[branch]
    return encoded


def _propagated(data: HeteroData, vectors: Vectors, rows: Tensor, hops: int) -> Tensor:
    r"""Return some rows, sorted and unique, of :math:`\mathbf{S}^{hops} \mathbf{G}`, from their inputs only."""
    if hops == 0:
        return vectors.item_layers[:, rows].sum(dim=0)
    source, target = data[SIMILAR].edge_index.as_subclass(Tensor)
    into = torch.isin(target, rows)
    source, position = source[into].unique(return_inverse=True)
    below = _propagated(data, vectors, source, hops - 1)
    message = data[SIMILAR].edge_weight[into].unsqueeze(1) * below[position]
    return scatter(message, torch.searchsorted(rows, target[into]), dim_size=len(rows))


@torch.no_grad()
def fold_in_users(
    model: LIRDRec, vectors: Vectors, trained: SeenItems, popularity: Tensor, history: Tensor, position: Tensor
) -> Vectors:
    r"""Represent users by the items they interacted with since the training.

    One step of propagation from the items :math:`H` of a user, as if their edges were part of the trained graph. For a
    new user, :math:`H` are the items of ``history``, :math:`\mathbf{p}_b = 0` since only training can find the free
    vector, and :math:`\boldsymbol{\theta}` is the mean memory of the trained users. For a user of the training, they
    are the training items and those of ``history``, with the user's own :math:`\mathbf{p}` and
    :math:`\boldsymbol{\theta}`:

    .. math::
        \mathbf{u}_b = \mathrm{norm}(\mathbf{p}_b) + \sum_{l=0}^{L-1} \sum_{i \in H}
        \frac{\mathbf{E}_{i,b}^{(l)}}{\sqrt{|H|} \sqrt{\deg(i) + n_i}}, \qquad
        \boldsymbol{\alpha} = \mathrm{softmax}_b(w_{net} \mathbf{s} + w_{mem} \boldsymbol{\theta}),
        \qquad \mathbf{u} = \mathop{\Vert}_b \alpha_b \mathbf{u}_b

    :math:`\deg(i)` counts the training interactions, and :math:`n_i` is 1 for an edge that is not one of them. Without
    such an edge, the result for a user of the training is the trained vector.

    Args:
        model: the trained model.
        vectors: its vectors, with or without new items.
        trained: training items of the trained users, on any device.
        popularity: training interactions of each item of ``vectors``, int64, shape ``(|I|,)``.
        history: pairs (row in ``position``, item), int64, shape ``(2, num_pairs)``.
        position: positions of the users in ``trained``, -1 for new ones, int64, shape ``(N,)``.

    Returns:
        ``vectors`` with these ``N`` users instead of the trained ones.

    Raises:
        ConfigError: if the model has no layer of user-item propagation.
    """
    LIRDRecConfig(num_layers=model.bipartite_conv.num_layers).require("new_users")
    return _folded(model, vectors, *_fold_in_edges(trained, popularity, history, position), position)


def _folded(model: LIRDRec, vectors: Vectors, user: Tensor, item: Tensor, weight: Tensor, position: Tensor) -> Vectors:
    """Return the result of :func:`fold_in_users` by its edges and their weights."""
    known = position >= 0
    message = weight.unsqueeze(1) * vectors.item_layers[:-1, item].sum(dim=0)
    x = model.split_branches(scatter(message, user, dim_size=len(position)))
    alpha = model.fusion.attention_of_new_users(x).clone()
    x[known] += unit_vectors(model.user[position[known]])
    alpha[known] = model.fusion.attention(x[known], position[known])
    learned = (alpha.unsqueeze(-1) * x).flatten(start_dim=1)
    given = scatter(vectors.linear[item], user, dim_size=len(position))
    both = torch.cat([learned, linear_part(learned, given)], dim=1)
    return replace(vectors, user=both, user_weight=alpha)


@torch.no_grad()
def continue_from(model: LIRDRec, trained: LIRDRec, learned: Tensor, folded: Tensor) -> None:
    r"""Give a model of a larger graph the weights of a trained model, whose users are the first of its own.

    All weights and the memory of the learned users are copied. Others start at the mean memory, and with a free vector
    in the direction of their fold-in, in each branch as long as those of the learned users are on average; without a
    fold-in, their free vector stays random.

    Args:
        model: model to change.
        trained: model trained on a part of its graph.
        learned: which users of ``model`` had interactions in that part, bool, shape ``(|U|,)``.
        folded: vectors of the other users, in their order, see :func:`fold_in_users`, shape ``(N, B * d)``; zero
            without interactions.
    """
    state = trained.state_dict()
    for name, value in model.state_dict().items():
        old = state[name]
        (value if value.shape == old.shape else value[: len(old)]).copy_(old)
    model.fusion.forget_users(~learned)
    length = model.user[learned].norm(dim=-1, keepdim=True).mean(dim=0)
    start = length * unit_vectors(model.split_branches(folded[:, : model.user[0].numel()]))
    found = start.flatten(1).any(dim=1)
    model.user[(~learned).nonzero().view(-1)[found]] = start[found]


@torch.no_grad()
def attribution_of_history(
    model: LIRDRec, vectors: Vectors, trained: SeenItems, popularity: Tensor, history: Tensor, position: Tensor
) -> PropagatedUsers:
    """Return the attribution for the users of :func:`fold_in_users`, whose arguments are the same."""
    user, item, weight = _fold_in_edges(trained, popularity, history, position)
    folded = _folded(model, vectors, user, item, weight, position)
    start = cumsum(degree(user, len(position), dtype=torch.long))
    known = (position >= 0).view(-1, 1, 1)
    return PropagatedUsers(SeenItems(start, item), weight, model.user[position].where(known, 0), folded)


def _fold_in_edges(
    trained: SeenItems, popularity: Tensor, history: Tensor, position: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges (user, item) of :func:`fold_in_users`, sorted, and their weights."""
    known = (position >= 0).nonzero().view(-1)
    row, item = (x.to(position.device) for x in trained.pairs(position[known].to(trained.item.device)))
    pairs = torch.cat([torch.stack([known[row], item]), history], dim=1)
    is_new = torch.arange(pairs.size(1), device=pairs.device) >= len(item)
    (user, item), is_new = coalesce(pairs, is_new.long(), reduce="min")  # no edge counts twice
    return user, item, (degree(user, len(position))[user] * (popularity[item] + is_new)).rsqrt()
