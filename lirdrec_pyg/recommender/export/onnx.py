"""Encoders of new items and new users for ONNX Runtime, which need neither torch nor the graph."""

import copy
import logging
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from lirdrec_pyg.errors import check_extra
from lirdrec_pyg.log_level import log_level
from lirdrec_pyg.models import ItemRegression
from lirdrec_pyg.models.linear import linear_part
from lirdrec_pyg.models.new_nodes import kernel, scaled, split_predictions
from lirdrec_pyg.nn import unit_vectors
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
    r"""Vectors of new items by :func:`~lirdrec_pyg.models.attach_items`, and their messages.

    A message is the sum of the layers that represent a user who clicked the item. Both parts of vectors and messages
    that :class:`~lirdrec_pyg.models.ItemRegression` predicts are linear in the similarities, so that two tables hold
    them.
    """

    center: Tensor
    key: Tensor
    strength: Tensor
    vector_weight: Tensor
    vector_mean: Tensor
    message_weight: Tensor
    message_mean: Tensor

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        model = recommender.model
        vectors = recommender.vectors.items_until(recommender.num_trained_items)
        regression = recommender.regression or ItemRegression.of(model, recommender.graph, vectors)
        self.components, self.encoders = copy.deepcopy(model.components), copy.deepcopy(model.encoders)
        self.width, self.scale = vectors.width, model.new_item_scale
        self.has_shared_branch = model.dct is not None
        if model.dct is not None:
            weight = self.encoders[-1].lin1.weight
            weight.data = model.dct.fold_into(weight.data, model.widths)
        self.widths = [*model.in_channels.values()]
        self.register_buffer("center", regression.center)
        self.register_buffer("key", regression.key)
        self.register_buffer("strength", regression.strength)
        for name, table in (("weight", regression.weight), ("mean", regression.mean.unsqueeze(0))):
            vector, layers, linear = split_predictions(table, self.width, vectors.linear.size(1))
            self.register_buffer(f"vector_{name}", vector)
            self.register_buffer(f"message_{name}", torch.cat([layers[:-1].sum(dim=0), linear], dim=1))

    def forward(self, features: list[Tensor], present: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return vectors and messages, both of shape ``(N, B * d + r)``, see the documentation of the export."""
        mean = self.center.split(self.widths)
        x = [torch.where(mask.unsqueeze(1), x, row) for x, mask, row in zip(features, present, mean)]
        reduced = [components(x) for components, x in zip(self.components, x)]
        inputs = [*reduced, torch.cat(reduced, dim=1)] if self.has_shared_branch else reduced
        encoded = torch.cat([unit_vectors(encoder(x)) for x, encoder in zip(inputs, self.encoders)], dim=1)
        # Missing features are at the mean, and so zero.
        unit = torch.cat([unit_vectors(x - row) for x, row in zip(x, mean)], dim=1)
        similarity = kernel(unit, self.key, self.strength, self.widths)
        vector = self.vector_mean + similarity @ self.vector_weight
        message = self.message_mean + similarity @ self.message_weight
        return scaled(vector, self.width, self.scale), torch.cat(
            [encoded + message[:, : self.width], message[:, self.width :]], dim=1
        )


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
    # They list operators of packages that are not installed, and of what is not simplified.
    with (
        log_level("torch.onnx", logging.ERROR),
        log_level("onnxscript", logging.ERROR),
        warnings.catch_warnings(),
    ):
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
    assert program is not None
    program.save(path, external_data=True)
