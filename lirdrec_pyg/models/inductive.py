"""What a trained model makes of items and users that it has not met, without training.

All other representations stay as they are, so the work is that of the new items or users alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce, degree, scatter

from lirdrec_pyg.data import INTERACTS, NEW_ITEM, SIMILAR, feature_mask, has_new_items
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models.lirdrec import LIRDRec
from lirdrec_pyg.models.mode import eval_mode
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import top_k

# Chosen by the validation half of held-out items, on TikTok and on generated data.
_NUM_NEIGHBOURS = 20
_SHARPNESS = 10.0
_RIDGE = 0.1

_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Neighbourhood:
    r"""What new items find their neighbours by, made once for a trained model.

    Attributes:
        center: mean :math:`\boldsymbol{\mu}` of the encoded items with training interactions, ``(B, d)``.
        whitening: :math:`(\mathbf{C} + 0.1 \, \bar{c} \, \mathbf{I})^{-1/2}`, with the covariance of these
            and its mean variance :math:`\bar{c}`, ``(B * d, B * d)``.
        key: whitened unit vectors of all items of the training, ``(|I|, B * d)``.
    """

    center: Tensor
    whitening: Tensor
    key: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: LIRDRec, data: HeteroData, vectors: Vectors) -> "Neighbourhood":
        """That of ``model``, which was trained on ``data``.

        Raises:
            ConfigError: if the model can't encode an item by itself.
        """
        check_inductive(model)
        known = model.split_branches(vectors.item_layers[0, : data["item"].num_nodes])
        clicked = degree(data[INTERACTS].edge_index[1], len(known)) > 0
        center = known[clicked].mean(dim=0)
        start = _with_missing_at(center, model, data, known, "item")
        covariance = torch.zeros(2 * [center.numel()], dtype=torch.float64, device=center.device)
        for rows, kept in zip(start.split(_BLOCK_ROWS), clicked.split(_BLOCK_ROWS), strict=True):
            x = (rows[kept] - center).flatten(start_dim=1).double()
            covariance += x.t() @ x
        variance, direction = torch.linalg.eigh(covariance / clicked.sum())
        # Rounding may leave a variance below zero; all are zero where all items are equal.
        scale = (variance.clamp(min=0) + _RIDGE * variance.mean()).clamp(min=1e-12).rsqrt()
        found = cls(center, (direction * scale @ direction.t()).to(known.dtype), torch.empty_like(start).flatten(1))
        for rows, out in zip(start.split(_BLOCK_ROWS), found.key.split(_BLOCK_ROWS), strict=True):
            out.copy_(found.whitened(rows))
        return found

    def whitened(self, x: Tensor) -> Tensor:
        """Whitened unit vectors of encoded items, ``(N, B, d)`` to ``(N, B * d)``."""
        return F.normalize((x - self.center).flatten(start_dim=1) @ self.whitening, dim=1)


@torch.no_grad()
def attach_items(model: LIRDRec, data: HeteroData, vectors: Vectors, neighbourhood: Neighbourhood, k: int) -> Vectors:
    r"""Encodes new items and attaches them to the graph by their nearest neighbours.

    With :math:`\mathbf{e}^{(0)}` the encoded item, a unit vector in every branch as that of any item,
    :math:`N` the 20 items with training interactions that have the largest :math:`\cos_j` with it, and
    :math:`s = 1 / k` the share that an item has among its own neighbours:

    .. math::
        a_j = \mathrm{softmax}_{j \in N}(10 \cos_j), \qquad
        \mathbf{e}^{(l)} = \sum_{j \in N} a_j \mathbf{e}_j^{(l)} \quad (l = 1, \dots, L), \qquad
        \mathbf{g} = \sum_{l=0}^{L} \mathbf{e}^{(l)}

    .. math::
        \mathbf{v} = \mathbf{g} + (\mathbf{S}^n \mathbf{G})_{new}, \qquad
        S_{new,new} = s, \qquad S_{new,j} = (1 - s) \, a_j

    The cosines are those of :math:`(\mathbf{C} + 0.1 \, \bar{c} \, \mathbf{I})^{-1/2} (\mathbf{e}^{(0)} -
    \boldsymbol{\mu})`, see :class:`Neighbourhood`: directions in which all items differ much tell items
    apart no better than others. A branch whose features an item lacks is at the mean.

    So an item without clicks has the layers that its neighbours' clicks would have brought it. With
    :math:`\mathbf{e}^{(0)}` alone it would stand behind nearly all clicked items, whose vectors are
    longer. New items are no one's neighbours, so it makes no difference in which order, or in how many
    portions, they come.

    Args:
        model: trained on ``data``.
        data: the graph, with the new items in ``data["new_item"]``.
        vectors: of ``model`` and ``data``.
        neighbourhood: of ``model`` and ``data``.
        k: neighbours in the item graph of the training, the item itself among them.

    Returns:
        ``vectors`` with the new items at the end.

    Raises:
        ConfigError: if the model's cosine transform runs over the items too, so that no row of it can
            be computed alone.
    """
    check_inductive(model)
    with eval_mode(model):
        encoded = model.encode_items(data, NEW_ITEM)
    neighbours, weight = _neighbours(model, data, neighbourhood, encoded)
    layers = torch.stack(
        [
            encoded.flatten(start_dim=1),
            *(F.embedding_bag(neighbours, x, mode="sum", per_sample_weights=weight) for x in vectors.item_layers[1:]),
        ]
    )
    start = layers.sum(dim=0)
    if model.item_conv is None:
        return vectors.append_items(start, layers)
    rows, position = neighbours.unique(return_inverse=True)
    x = start
    for hops in range(model.item_conv.num_layers):
        known = _propagated(data, vectors, rows, hops)
        x = x / k + (1 - 1 / k) * F.embedding_bag(position, known, mode="sum", per_sample_weights=weight)
    return vectors.append_items(start + x, layers)


def model_vectors(model: LIRDRec, data: HeteroData, k: int) -> Vectors:
    """Vectors of all items of ``data``, the new ones among them, see :func:`attach_items`."""
    vectors = model.vectors(data)
    if not has_new_items(data):
        return vectors
    return attach_items(model, data, vectors, Neighbourhood.of(model, data, vectors), k)


def check_inductive(model: nn.Module) -> None:
    """Raises :class:`ConfigError` if ``model`` can't encode an item that it was not trained with."""
    if not isinstance(model, LIRDRec):
        raise ConfigError(
            f"{type(model).__name__} has no way to take in new items or new users: train with --model lirdrec for that."
        )
    if model.item_id is not None:
        raise ConfigError(
            "The model was trained with --id-branch, and a new item has no vector there: train without it to add items."
        )
    if model.dct is not None and model.dct.mode == "2d":
        raise ConfigError(
            "The model was trained with --dct 2d, whose cosine transform runs over all items: one more item would "
            "change the input of every other. Train with --dct feature to add items."
        )


def _neighbours(
    model: LIRDRec, data: HeteroData, neighbourhood: Neighbourhood, encoded: Tensor
) -> tuple[Tensor, Tensor]:
    """The most similar items with training interactions, and their weights, both of shape ``(num_new, N)``."""
    clicked = degree(data[INTERACTS].edge_index[1], data["item"].num_nodes).nonzero().view(-1)
    query = neighbourhood.whitened(_with_missing_at(neighbourhood.center, model, data, encoded, NEW_ITEM))
    index = torch.arange(len(query), device=query.device)
    blocks = list(top_k(query, neighbourhood.key, index, _NUM_NEIGHBOURS, candidates=clicked))
    cosine = torch.cat([block.score for block in blocks])
    return torch.cat([block.item for block in blocks]), (_SHARPNESS * cosine).softmax(dim=1)


def _with_missing_at(center: Tensor, model: LIRDRec, data: HeteroData, encoded: Tensor, node_type: str) -> Tensor:
    """``encoded``, with the branches whose features an item lacks at ``center``."""
    for branch, modality in enumerate(model.in_channels):
        mask = feature_mask(data, modality, node_type)
        if mask is not None:
            encoded = encoded.clone()
            encoded[~mask, branch] = center[branch]
    return encoded


def _propagated(data: HeteroData, vectors: Vectors, rows: Tensor, hops: int) -> Tensor:
    r""":math:`\mathbf{S}^{hops} \mathbf{G}` for some rows, sorted and each once, from what they depend on alone."""
    if hops == 0:
        return vectors.item_layers[:, rows].sum(dim=0)
    source, target = data[SIMILAR].edge_index.as_subclass(Tensor)
    into = torch.isin(target, rows)
    source, position = source[into].unique(return_inverse=True)
    below = _propagated(data, vectors, source, hops - 1)
    message = data[SIMILAR].edge_weight[into].unsqueeze(1) * below[position]
    return scatter(message, torch.searchsorted(rows, target[into]), dim_size=len(rows))


@torch.no_grad()
def fold_in_users(model: LIRDRec, data: HeteroData, vectors: Vectors, history: Tensor, num_users: int) -> Vectors:
    r"""Represents new users by the items they took.

    One step of propagation from the items :math:`H` of a user, as if the user had joined the trained
    graph, and the fusion with the mean memory of the trained users:

    .. math::
        \mathbf{u}_b = \sum_{l=0}^{L-1} \sum_{i \in H}
        \frac{\mathbf{E}_{i,b}^{(l)}}{\sqrt{|H|} \sqrt{\deg(i) + 1}}, \qquad
        \boldsymbol{\alpha} = \mathrm{softmax}_b(w_{net} \mathbf{s} + w_{mem} \bar{\boldsymbol{\theta}}),
        \qquad \mathbf{u} = \mathop{\Vert}_b \alpha_b \mathbf{u}_b

    :math:`\deg(i)` counts the training interactions; the one beside it is the new user's. The
    user's own free vector, which only training could find, is left out.

    Args:
        model: trained on ``data``.
        data: the graph.
        vectors: of ``model`` and ``data``, with new items or without.
        history: pairs (new user, item), int64, shape ``(2, num_pairs)``.
        num_users: number of new users.

    Returns:
        ``vectors`` with the new users in the place of the trained ones.

    Raises:
        ConfigError: if the model has no user-item layer by which a user could be found.
    """
    if len(vectors.item_layers) == 1:
        raise ConfigError("The model was trained with --num-layers 0, so items say nothing about a new user.")
    user, item = coalesce(history)
    num_items = vectors.item.size(0)
    item_degree = degree(data[INTERACTS].edge_index[1].as_subclass(Tensor), num_items) + 1
    weight = (degree(user, num_users)[user] * item_degree[item]).rsqrt()
    message = weight.unsqueeze(1) * vectors.item_layers[:-1, item].sum(dim=0)
    x = model.split_branches(scatter(message, user, dim_size=num_users))
    alpha = model.fusion.attention_of_new_users(x)
    return Vectors((alpha.unsqueeze(-1) * x).flatten(start_dim=1), alpha, vectors.item, vectors.item_layers)
