"""Encoders of new items and new users for ONNX Runtime, which need neither torch nor the graph."""

import copy
import logging
import math
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec_pyg.data import SIMILAR, feature_mask, item_features
from lirdrec_pyg.data.features import mean_row
from lirdrec_pyg.errors import check_extra
from lirdrec_pyg.models import Neighborhood
from lirdrec_pyg.models.linear import linear_part
from lirdrec_pyg.models.new_nodes import NUM_NEIGHBORS, SHARPNESS
from lirdrec_pyg.nn import ItemGraphConv, adjacency, unit_vectors
from lirdrec_pyg.recommender.recommender import Recommender

_log = logging.getLogger(__name__)

# Large tensors are beside each graph, since a file of ONNX cannot exceed 2 GB.
ENCODER_FILES = ("item_encoder.onnx", "item_encoder.onnx.data", "fold_in.onnx", "fold_in.onnx.data")


def check_encoders(recommender: Recommender) -> None:
    """Raise :class:`ConfigError` if the model has no encoders of new items and users, or a package is missing."""
    for capability in ("new_items", "new_users"):
        recommender.model_config.require(capability)
    check_extra("onnx", "onnx", "onnxscript", purpose="ONNX")


class ItemEncoder(nn.Module):
    r"""Vectors of new items by :func:`~lirdrec_pyg.models.attach_items`, from tables of the clicked items only.

    All layers and hops of that formula are linear in the neighbors, so that two tables hold their sums:

    .. math::
        \mathbf{m} = \mathbf{e}^{(0)} + \sum_j a_j \mathbf{M}_j, \qquad
        \mathbf{v} = c \, \mathbf{e}^{(0)} + \sum_j a_j \mathbf{V}_j

    with :math:`\mathbf{M} = \sum_{l=1}^{L-1} \mathbf{E}^{(l)}`, :math:`c = 1 + s^n`, and :math:`\mathbf{V} =
    c \sum_{l=1}^{L} \mathbf{E}^{(l)} + (1 - s) \sum_{h=0}^{n-1} s^{n-1-h} \mathbf{S}^h \mathbf{G}`; without an item
    graph, :math:`c = 1` and there is no second sum. The message :math:`\mathbf{m}` is the sum of the layers that
    represent a user who clicked the item.

    With a softmax loss, :math:`\mathbf{v}` is scaled to unit length, and always by ``new_item_scale``. With a linear
    branch, its columns follow those of both.
    """

    key: Tensor
    center: Tensor
    whitening: Tensor
    message: Tensor
    vector: Tensor
    linear: Tensor

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        model, data, num_items = recommender.model, recommender.graph, recommender.num_trained_items
        vectors = recommender.vectors.items_until(num_items)
        neighborhood = recommender.neighborhood or Neighborhood.of(model, data, vectors)
        clicked = recommender.popularity[:num_items].nonzero().view(-1)
        self.components, self.encoders = copy.deepcopy(model.components), copy.deepcopy(model.encoders)
        self.as_output, self.scale = model.as_output, model.new_item_scale
        self.has_shared_branch = model.dct is not None
        if model.dct is not None:
            weight = self.encoders[-1].lin1.weight
            weight.data = model.dct.fold_into(weight.data, model.widths)
        for number, modality in enumerate(model.in_channels):
            mean = mean_row(item_features(data, modality), feature_mask(data, modality))
            self.register_buffer(f"mean_{number}", mean.float())

        layers, self.factor = vectors.item_layers, 1.0
        table = layers[1:].sum(dim=0)
        if model.item_conv is not None:
            own, hops = 1 / model.knn_k, model.item_conv.num_layers
            self.factor = 1 + own**hops
            table, known, conv = self.factor * table, layers.sum(dim=0), ItemGraphConv(1)
            for hop in range(hops):
                table = table + (1 - own) * own ** (hops - 1 - hop) * known
                known = conv.neighbors_only(known, *adjacency(data[SIMILAR]))
        self.register_buffer("key", neighborhood.key[clicked].t())
        self.register_buffer("center", neighborhood.center)
        self.register_buffer("whitening", neighborhood.whitening)
        self.register_buffer("message", torch.cat([layers[1:-1].sum(dim=0), vectors.linear], dim=1)[clicked])
        self.register_buffer("vector", table[clicked])
        # Of all modalities, those without a weight are zero.
        linear = {
            name: vectors.linear.new_zeros(size, vectors.linear.size(1)) for name, size in model.in_channels.items()
        }
        names = [name for name, weight in model.linear_content.items() if weight] if neighborhood.linear.size(1) else []
        linear |= zip(names, neighborhood.linear.split([model.in_channels[name] for name in names]), strict=True)
        self.register_buffer("linear", model.new_linear_scale * torch.cat([*linear.values()]))

    def forward(self, features: list[Tensor], present: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return vectors and messages, both of shape ``(N, B * d + r)``, see the documentation of the export."""
        mean = [getattr(self, f"mean_{number}") for number in range(len(features))]
        x = [torch.where(mask.unsqueeze(1), x, row) for x, mask, row in zip(features, present, mean)]
        reduced = [components(x) for components, x in zip(self.components, x)]
        inputs = [*reduced, torch.cat(reduced, dim=1)] if self.has_shared_branch else reduced
        encoded = torch.stack([unit_vectors(encoder(x)) for x, encoder in zip(inputs, self.encoders)], dim=1)
        known = [
            encoded[:, branch]
            if branch >= len(present)
            else torch.where(present[branch].unsqueeze(1), encoded[:, branch], self.center[branch])
            for branch in range(encoded.size(1))
        ]
        query = F.normalize((torch.stack(known, dim=1) - self.center).flatten(start_dim=1) @ self.whitening, dim=1)
        cosine, neighbor = (query @ self.key).topk(min(NUM_NEIGHBORS, self.key.size(1)), dim=1)
        weight = (SHARPNESS * cosine).softmax(dim=1).unsqueeze(1)
        start = encoded.flatten(start_dim=1)
        vector = self.scale * self.as_output(self.factor * start + (weight @ self.vector[neighbor]).squeeze(1))
        message = (weight @ self.message[neighbor]).squeeze(1)
        if not self.linear.size(1):
            return vector, start + message
        # Missing features are at the mean, and so zero.
        unit = torch.cat([unit_vectors(x - row) for x, row in zip(x, mean)], dim=1)
        width = start.size(1)
        message = torch.cat([start + message[:, :width], message[:, width:]], dim=1)
        return torch.cat([vector, unit @ self.linear], dim=1), message


class FoldIn(nn.Module):
    """Vectors of new users by :func:`~lirdrec_pyg.models.fold_in_users`."""

    message: Tensor
    degree: Tensor

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        model = recommender.model
        self.size = len(model.branches), model.embedding_dim
        self.fusion = copy.deepcopy(model.fusion)
        if hasattr(self.fusion, "theta"):  # of new users, who share the mean memory
            self.fusion.theta = nn.Parameter(self.fusion.theta.mean(dim=0, keepdim=True))
        vectors = recommender.vectors
        self.register_buffer("message", torch.cat([vectors.item_layers[:-1].sum(dim=0), vectors.linear], dim=1))
        self.register_buffer("degree", recommender.popularity.float())

    def forward(self, history: Tensor, new_messages: Tensor) -> Tensor:
        """Return vectors of users, shape ``(N, B * d + r)``, see the documentation of the export."""
        num_items = self.message.size(0)
        # A row that is never used, so that a position past the last message is valid.
        new = torch.cat([new_messages, new_messages.new_zeros(1, new_messages.size(1))])
        is_new, is_item = history >= num_items, history >= 0
        position = history.clamp(0, num_items - 1)
        message = torch.where(is_new.unsqueeze(-1), new[(history - num_items).clamp(min=0)], self.message[position])
        degree = torch.where(is_new, torch.zeros(()), self.degree[position]) + 1
        weight = (is_item.sum(dim=1, keepdim=True) * degree).rsqrt()
        weight = torch.where(is_item, weight, torch.zeros(()))
        width = math.prod(self.size)
        x = (weight.unsqueeze(1) @ message[..., :width]).view(-1, *self.size)
        learned = (self.fusion.attention_of_new_users(x).unsqueeze(-1) * x).flatten(start_dim=1)
        if width == message.size(-1):
            return learned
        given = (message[..., width:] * is_item.unsqueeze(-1)).sum(dim=1)
        return torch.cat([learned, linear_part(learned, given)], dim=1)


def save_encoders(recommender: Recommender, folder: Path) -> None:
    """Write :data:`ENCODER_FILES` into ``folder``: the graphs of :class:`ItemEncoder` and :class:`FoldIn`."""
    _log.info("tracing the encoders")
    modalities = recommender.model.in_channels
    users, items, length, added = (torch.export.Dim(name) for name in ("users", "items", "length", "added"))
    features = [torch.zeros(2, width) for width in modalities.values()]
    present = [torch.ones(2, dtype=torch.bool) for _ in modalities]
    rows = [{0: items} for _ in modalities]
    _save(
        ItemEncoder(recommender),
        (features, present),
        (rows, rows),
        [*modalities, *(f"has_{modality}" for modality in modalities)],
        ["vector", "message"],
        folder / "item_encoder.onnx",
    )
    width = recommender.vectors.item.size(1)
    _save(
        FoldIn(recommender),
        (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, width)),
        ({0: users, 1: length}, {0: added}),
        ["history", "new_messages"],
        ["vector"],
        folder / "fold_in.onnx",
    )


def _save(
    module: nn.Module, inputs: tuple, dynamic_shapes: tuple, input_names: list[str], output_names: list[str], path: Path
) -> None:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it lists operators of packages that are not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval().requires_grad_(False),
                inputs,
                dynamo=True,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert program is not None
    program.save(path, external_data=True)
