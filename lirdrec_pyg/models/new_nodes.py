"""Representations of new items and new users, from a trained model without further training.

All other representations stay the same, so the cost is that of the new items or users only.
"""

import logging
import math
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce, degree, scatter

from lirdrec_pyg.data import INTERACTS, NEW_ITEM, has_new_items, training_interactions
from lirdrec_pyg.models.attribution import PropagatedUsers
from lirdrec_pyg.models.base import eval_mode
from lirdrec_pyg.models.linear import feature_mean, linear_part, unit_features
from lirdrec_pyg.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import DotProducts, SeenItems, share_in_lists, unit_vectors

_log = logging.getLogger(__name__)

# Tuned on the validation half of held-out items of real data.
_KERNEL_WIDTH = 0.3
_STRENGTHS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)

# Users whose lists show how often new items are offered.
_MAX_USERS = 2000

# Items of the regression, and of the choice of its strengths: time grows with the cube of their number.
_MAX_ITEMS, _MAX_CHOICE = 8192, 1500
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class ItemRegression:
    r"""Regression by which items get vectors from their features, computed once per trained model.

    With :math:`\mathbf{f}_m` the features of an item in modality :math:`m`, centered and of unit length, and
    :math:`\mathbf{Y}` the vectors of the items with training interactions, the lengths of their learned parts, their
    layers, and what they add to the linear part of their users, side by side, a row per item, of mean
    :math:`\bar{\mathbf{y}}`, this is kernel ridge regression:

    .. math::
        k(i, j) = \sum_m \gamma_m \exp \Big( \frac{\mathbf{f}_{m,i} \cdot \mathbf{f}_{m,j} - 1}{0.3} \Big), \qquad
        \mathbf{y}_i = \bar{\mathbf{y}} + \sum_j k(i, j) \mathbf{C}_j, \qquad
        \mathbf{C} = (\mathbf{K} + \mathbf{I})^{-1} (\mathbf{Y} - \bar{\mathbf{y}})

    It is computed from 8,192 random items if there are more. The strengths :math:`\gamma_m` are those that best
    predict the learned parts of the vectors of a fifth of 1,500 items from the others. A modality that says nothing
    gets 0, but not all of them do.

    Attributes:
        center: mean of the features, side by side.
        key: :math:`\mathbf{f}_m` of the items :math:`j`, side by side, shape ``(N, sum of widths)``.
        strength: :math:`\gamma_m`, one per modality.
        mean: :math:`\bar{\mathbf{y}}`.
        weight: :math:`\mathbf{C}`, a row per item.
    """

    center: Tensor
    key: Tensor
    strength: Tensor
    mean: Tensor
    weight: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: LIRDRec, data: HeteroData, vectors: Vectors, items: Tensor | None = None) -> "ItemRegression":
        """Compute the regression of a model trained on ``data``, by default from all items with interactions."""
        items = _shuffled(_clicked(data) if items is None else items)[:_MAX_ITEMS]
        center = torch.cat([feature_mean(data, modality) for modality in model.in_channels]).to(vectors.item)
        key = _features(model, data, center, "item", items).to(vectors.item)
        item = vectors.item[items]
        length = item[:, : vectors.width].norm(dim=1, keepdim=True)
        target = torch.cat([item, length, *vectors.item_layers[1:, items], vectors.linear[items]], dim=1)
        widths = [*model.in_channels.values()]
        few = key[:_MAX_CHOICE].split(widths, dim=1)
        # Not by the linear columns: they are as long in directions that no feature predicts, which would decide.
        learned = item[:_MAX_CHOICE, : vectors.width]
        strength = key.new_tensor(_strengths([_similarity(x, x) for x in few], learned))
        return cls(center, key, strength, *_regression(kernel(key, key, strength, widths), target))

    def to(self, device: torch.device | str) -> "ItemRegression":
        """Return the same on ``device``."""
        return ItemRegression(**{name: x.to(device) for name, x in vars(self).items()})

    def predict(self, model: LIRDRec, data: HeteroData, node_type: str, items: Tensor) -> Tensor:
        r"""Return :math:`\mathbf{y}` of some items."""
        found = self.mean.repeat(len(items), 1)
        for rows, out in zip(items.split(_BLOCK_ROWS), found.split(_BLOCK_ROWS), strict=True):
            x = _features(model, data, self.center, node_type, rows).to(self.key)
            out += kernel(x, self.key, self.strength, [*model.in_channels.values()]) @ self.weight
        return found


def _features(model: LIRDRec, data: HeteroData, center: Tensor, node_type: str, items: Tensor) -> Tensor:
    means = center.split([*model.in_channels.values()])
    parts = zip(model.in_channels, means, strict=True)
    return torch.cat([unit_features(data, modality, mean, node_type, items) for modality, mean in parts], dim=1)


def kernel(x: Tensor, key: Tensor, strength: Tensor, widths: list[int]) -> Tensor:
    """Return :math:`k` of items with features ``x`` and of those with features ``key``, see :class:`ItemRegression`."""
    pairs = zip(x.split(widths, dim=1), key.split(widths, dim=1), strict=True)
    # In place, since thousands of items by thousands take hundreds of megabytes.
    return reduce(Tensor.add_, (_similarity(*pair).mul_(part) for part, pair in zip(strength, pairs, strict=True)))


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.t()).sub_(1).div_(_KERNEL_WIDTH).exp_()


def _regression(kernel: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of ``target``, and the coefficients; ``kernel`` gets the regularization on its diagonal."""
    mean = target.mean(dim=0)
    kernel.diagonal().add_(1)
    return mean, torch.cholesky_solve(target - mean, torch.linalg.cholesky(kernel))


def _strengths(kernels: list[Tensor], target: Tensor) -> tuple[float, ...]:
    """Choose one strength after the other, twice."""
    held = max(1, len(target) // 5)

    @cache
    def error(strengths: tuple[float, ...]) -> float:
        if not any(strengths):
            return math.inf  # all new items would be alike
        parts = (strength * each[:, held:] for strength, each in zip(strengths, kernels, strict=True))
        kernel = sum(parts, start=target.new_zeros(()))
        mean, weight = _regression(kernel[held:], target[held:])
        return float((target[:held] - mean - kernel[:held] @ weight).square().sum())

    best = (3.0,) * len(kernels)
    for place in [*range(len(kernels))] * 2:
        best = min(((*best[:place], value, *best[place + 1 :]) for value in _STRENGTHS), key=error)
    return best


def _shuffled(items: Tensor) -> Tensor:
    return items[torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).to(items.device)]


@torch.no_grad()
def attach_items(model: LIRDRec, data: HeteroData, vectors: Vectors, regression: ItemRegression) -> Vectors:
    r"""Give new items the vectors that their features predict, by :class:`ItemRegression`.

    Layer 0 is the encoded item itself. The learned part of a vector is scaled to its predicted length, since the mean
    of many vectors is shorter than they are: a shorter one would rank below nearly all items with interactions. The
    whole vector is then multiplied by ``model.new_item_scale``, see :func:`scale_new_items`.

    The result does not depend on the order of new items or on how they are divided into batches.

    Args:
        model: model trained on ``data``.
        data: graph with the new items in ``data["new_item"]``.
        vectors: vectors of ``model`` on ``data``.
        regression: that of ``model`` on ``data``.

    Returns:
        ``vectors`` with the new items at the end.

    Raises:
        ConfigError: if the model cannot encode new items.
    """
    # A model that was built without a config is checked here.
    LIRDRecConfig(dct=model.dct.mode if model.dct else "none", id_branch=model.item_id is not None).require("new_items")
    with eval_mode(model):
        encoded = model.encode_items(data, NEW_ITEM).flatten(start_dim=1)
    found = regression.predict(
        model, data, NEW_ITEM, torch.arange(len(encoded), device=data[INTERACTS].edge_index.device)
    )
    item, layers, linear = split_predictions(found, vectors.width, vectors.linear.size(1))
    item = scaled(item, vectors.width, model.new_item_scale)
    return vectors.append_items(item, torch.cat([encoded.unsqueeze(0), layers]), linear)


@torch.no_grad()
def attach_unclicked(model: LIRDRec, data: HeteroData, vectors: Vectors, regression: ItemRegression) -> Vectors:
    """Represent the items without training interactions as :func:`attach_items` represents the same items as new ones.

    Their trained vectors are shorter than those of items with interactions, so that they are hardly ever recommended.

    Args:
        model: model trained on ``data``.
        data: the graph.
        vectors: vectors of ``model`` on ``data``, with or without new items.
        regression: that of ``model`` on ``data``.

    Returns:
        ``vectors`` with another ``item``; ``item_layers`` are the same.
    """
    rows = (degree(data[INTERACTS].edge_index[1], data["item"].num_nodes) == 0).nonzero().view(-1)
    attached = _predicted(model, data, vectors, regression, rows)
    return replace(vectors, item=vectors.item.index_copy(0, rows, attached))


def _predicted(model: LIRDRec, data: HeteroData, vectors: Vectors, regression: ItemRegression, rows: Tensor) -> Tensor:
    """Return the vectors that some items of the training would have as new ones."""
    found = regression.predict(model, data, "item", rows)
    item, _, _ = split_predictions(found, vectors.width, vectors.linear.size(1))
    return scaled(item, vectors.width, model.new_item_scale)


def split_predictions(found: Tensor, width: int, linear: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors with their lengths at the end, layers from 1 on, and what users get in the linear branch.

    Args:
        found: what :class:`ItemRegression` predicts, a row per item.
        width: columns of the branches that are learned.
        linear: those of the linear branch.
    """
    item, layers, given = found.tensor_split([width + linear + 1, found.size(1) - linear], dim=1)
    return item, layers.unflatten(1, (-1, width)).transpose(0, 1), given


def scaled(item: Tensor, width: int, scale: float) -> Tensor:
    """Return vectors whose learned part has the length in the last column, times a factor."""
    learned, linear, length = item[:, :width], item[:, width:-1], item[:, -1:]
    return scale * torch.cat([length * unit_vectors(learned), linear], dim=1)


def _clicked(data: HeteroData) -> Tensor:
    """Return the items with training interactions."""
    return degree(data[INTERACTS].edge_index[1], data["item"].num_nodes).nonzero().view(-1)


@torch.no_grad()
def scale_new_items(config: Any, model: LIRDRec, data: HeteroData, vectors: Vectors) -> Any:
    """Find the factor of the scores of new items, if it is left open.

    Vectors of new items are predictions. Their scores vary less between users than those of items with interactions,
    so that new items are hardly ever at the top of a list. To find the factor, a fifth of the items with interactions,
    drawn at random, is represented as if they were new, by the others. With the factor, they have a fifth of the places
    in the lists of up to 2,000 random users: new items are offered as often as others. Lists have 20 items, or a tenth
    of the items with interactions if these are few.

    Args:
        config: configuration of ``model``, with ``new_item_scale`` 0 if the factor is left open.
        model: model trained on ``data``, which gets the factor.
        data: the graph.
        vectors: vectors of ``model`` on ``data``, without new items.

    Returns:
        ``config`` with the factor, between 1/8 and 8, or 1 if none between them does that.
    """
    if config.new_item_scale:
        return config
    known = _shuffled(_clicked(data))
    rows, others = known.tensor_split([max(1, len(known) // 5)])
    attached = _predicted(model, data, vectors, ItemRegression.of(model, data, vectors, others), rows)
    edge_index = training_interactions(data)
    is_new = torch.zeros(len(vectors.item), dtype=torch.bool, device=edge_index.device).index_fill(0, rows, True)
    seen = SeenItems.of(edge_index[:, ~is_new[edge_index[1]]], len(vectors.user))
    users = _shuffled(edge_index[0].unique())[:_MAX_USERS]
    # A list of nearly all items has the same share with every factor.
    k = max(1, min(20, len(known) // 10))

    def offered(scale: float) -> float:
        ranker = DotProducts(vectors.user, vectors.item.index_copy(0, rows, scale * attached))
        return share_in_lists(ranker.top_k(users, k, seen), is_new)

    low, high = 1 / 8, 8.0
    for _ in range(8):  # to 1 %
        scale = (low * high) ** 0.5
        low, high = (scale, high) if offered(scale) < len(rows) / len(known) else (low, scale)
    if low == 1 / 8 or high == 8:
        model.new_item_scale = 1.0
        _log.info("scores of new items: unchanged, since no factor offers them as often as others")
    else:
        model.new_item_scale = float(f"{(low * high) ** 0.5:.3g}")
        _log.info("scores of new items: times %g, with which they are offered as often as others", model.new_item_scale)
    return replace(config, new_item_scale=model.new_item_scale)


def model_vectors(model: LIRDRec, data: HeteroData) -> Vectors:
    """Return the vectors of all items of ``data`` including new ones, see :func:`attach_items`."""
    vectors = model.vectors(data)
    if not has_new_items(data):
        return vectors
    return attach_items(model, data, vectors, ItemRegression.of(model, data, vectors))


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
    known = (position >= 0).view(-1, 1, 1)
    items = SeenItems.of(torch.stack([user, item]), len(position))
    return PropagatedUsers(items, weight, model.user[position].where(known, 0), folded)


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
