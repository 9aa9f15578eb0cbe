"""The contract of all models: their configuration, what they can do, and what generic code calls."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose

from lirdrec_pyg.config import Config, field
from lirdrec_pyg.data import feature_widths
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models.attribution import Attribution
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import DotProducts, Ranker
from lirdrec_pyg.transforms import CacheAdjacency, LoadFeatures, NormalizeBipartite, SparseBackend

Measure = Callable[[Ranker], float]

# The learning rate of the peers' own programs.
PEER_TRAINING: Mapping[str, Any] = {"lr": 1e-3}


@dataclass(frozen=True)
class ModelConfig(Config):
    """Hyperparameters of a model, and what a model with these hyperparameters can do.

    Training, evaluation and the recommender ask for capabilities only, never for a particular model.

    Attributes:
        model: name of the model, as in ``fit --model``.
        training_defaults: fields of :class:`~lirdrec_pyg.training.TrainingConfig` whose defaults differ for this model.
        is_closed_form: the model is computed in closed form, without training steps.
        has_vectors: scores are dot products of user and item vectors.
        supports_explanations: a score is a sum over the items of the user, see :meth:`Model.attribution`.
        supports_fusion_weights: a score is a sum over branches, each with a weight per user.
    """

    model: ClassVar[str]
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    is_closed_form: ClassVar[bool] = False
    has_vectors: ClassVar[bool] = True
    supports_explanations: ClassVar[bool] = False
    supports_fusion_weights: ClassVar[bool] = False

    @property
    def supports_new_items(self) -> bool:
        """``True`` if the model can encode items that were not part of the training."""
        return False

    @property
    def attaches_unclicked_items(self) -> bool:
        """``True`` if items without training interactions are represented as new items are."""
        return False

    @property
    def supports_new_users(self) -> bool:
        """``True`` if the model can represent new users by the items they interacted with."""
        return False

    @property
    def supports_updates(self) -> bool:
        """``True`` if the model can be trained further with new users and new items."""
        return self.supports_new_items and self.supports_new_users

    @property
    def supports_neighbor_sampling(self) -> bool:
        """``True`` if the model can be trained on sampled neighborhoods, see :class:`~lirdrec_pyg.models.LIRDRec`."""
        return False

    @property
    def supports_negatives(self) -> bool:
        """``True`` if the loss takes several negatives per positive item."""
        return False

    def search_space(self, modalities: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return the values to try by default for settings of the model and its training; empty if there are none."""
        return {}

    def variants(self, modalities: Sequence[str]) -> list[dict[str, Any]]:
        """Return the settings that a race tries besides those given; empty if there are none."""
        return []

    def why_not(self, capability: str) -> str:
        """Return what to change for ``capability``, as a sentence."""
        able = [
            f"`model={kind.model!r}`"
            for kind in ModelConfig.__subclasses__()
            if getattr(kind(), f"supports_{capability}")
        ]
        return f"Models that do: {', '.join(able)}."

    def require(self, capability: str) -> None:
        """Raise :class:`ConfigError` unless the model has ``capability``, such as ``"new_items"``."""
        if not getattr(self, f"supports_{capability}"):
            what = capability.replace("_", " ")
            raise ConfigError(f"`model={self.model!r}` does not support {what}. {self.why_not(capability)}")


class Model(nn.Module):
    """Base of all recommenders.

    A subclass has ``config_class``, and :meth:`forward` and :meth:`loss`, or ``fit`` of
    :class:`~lirdrec_pyg.models.ClosedFormModel`.

    Attributes:
        config_class: class of its hyperparameters.
    """

    config_class: ClassVar[type[ModelConfig]]

    @property
    def is_capturable(self) -> bool:
        """``True`` if :meth:`loss` does the same work for all batches of a shape and never waits for the device.

        Its steps then can be replayed as a CUDA graph.
        """
        return False

    @property
    def samples_negatives(self) -> bool:
        """``True`` if :meth:`loss` takes triples; else it takes pairs (user, positive), in which the interactions of a
        user follow each other."""
        return True

    @classmethod
    def from_config(cls, config: Any, data: HeteroData, **others: Any) -> Any:
        """Build the model for the users, items and modalities of ``data``, as :meth:`graph_transform` leaves it.

        By default, arguments of the constructor are fields of ``config``, those of :meth:`sizes`, and ``others``.
        """
        arguments = {**vars(config), **cls.sizes(config, data), **others}
        return cls(**{name: arguments[name] for name in inspect.signature(cls).parameters})

    @classmethod
    def sizes(cls, config: Any, data: HeteroData) -> dict[str, Any]:
        """Return the arguments of the constructor that are not fields of ``config``: by default ``num_users``,
        ``num_items``, and ``in_channels``, the feature width of each modality."""
        return {
            "num_users": data["user"].num_nodes,
            "num_items": data["item"].num_nodes,
            "in_channels": feature_widths(data),
        }

    @staticmethod
    def graph_transform(config: Any, progress: bool = False) -> BaseTransform:
        """Return the transform that adds what the model needs to the stored graph; by default nothing."""
        return Compose([])

    @staticmethod
    def input_transform(config: Any, backend: SparseBackend = "torch") -> BaseTransform:
        """Return the transform that precomputes the inputs of all calls, on the device of the graph."""
        return Compose([LoadFeatures(), NormalizeBipartite(), CacheAdjacency(backend)])

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        """Return vectors of all users, shape ``(|U|, F)``, and of all items, ``(|I|, F)``.

        Args:
            data: a graph as :meth:`input_transform` leaves it.
        """
        raise NotImplementedError

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            data: as for :meth:`forward`.
            triples: users, positive items and negative items, int64, shape ``(3, N)``; with further rows of negatives
                if the model supports them.
            weight: factor of the terms that depend on ``triples``.
        """
        raise NotImplementedError

    def prepare(self, data: HeteroData) -> None:
        """Compute what is computed from the data before the training; by default nothing.

        Args:
            data: a graph as :meth:`input_transform` leaves it, to which inputs of all calls may be added.
        """

    def complete(self, config: Any, data: HeteroData, measure: Measure | None) -> Any:
        """Complete the model after the training, with the weights of the best epoch; return what its configuration is
        then. By default, there is nothing to complete.

        Args:
            config: configuration of the model, in which settings may be left open.
            data: a graph as :meth:`input_transform` leaves it.
            measure: returns the validation Recall@20 of a ranking function; ``None`` without a validation split.
        """
        return config

    def start_epoch(self) -> None:
        """Called once before each epoch of training; does nothing by default."""

    def vectors(self, data: HeteroData) -> Vectors | None:
        """Return all that is needed to rank, computed in eval mode; ``None`` if the model has no vectors."""
        with torch.no_grad(), eval_mode(self):
            user, item = self(data)
        return Vectors.of(user.detach(), item.detach())

    def attribution(self, data: HeteroData, vectors: Vectors) -> Attribution:
        """Return the function that splits scores by the training items of a user; needed for explanations.

        Args:
            data: the graph.
            vectors: vectors of the model on ``data``, with or without new items.
        """
        raise NotImplementedError

    def ranker(self, data: HeteroData) -> Ranker:
        """Return the ranking function of the model with its current weights."""
        vectors = self.vectors(data)
        assert vectors is not None
        return DotProducts(vectors.user, vectors.item)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode temporarily, then restore the mode of each module."""
    # Some of the modules may be frozen in eval mode.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def embedding_dim_field() -> Any:
    return field(64, "Width d of the vectors.", min=1)


def num_layers_field(default: int) -> Any:
    return field(default, "Layers of user-item propagation.", min=0)


def knn_k_field() -> Any:
    return field(10, "Neighbors of each item in the item graph, including itself.", min=1)


def knn_search_field() -> Any:
    return field(
        "auto",
        "Neighbor search: 'exact' compares all pairs of items, 'approximate' uses faiss (extra 'faiss'), 'auto' is "
        "exact if that takes a few minutes at most.",
    )


def graph_weights_field() -> Any:
    return field(
        {},
        "MODALITY=WEIGHT, repeatable: weight of a modality in the item graph. The others share the rest equally. By "
        "default, 'image' has 0.1 if there are other modalities.",
    )
