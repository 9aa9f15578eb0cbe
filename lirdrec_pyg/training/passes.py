"""What a step of training passes over: the whole graph, or sampled parts of it."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose

from lirdrec_pyg.config import LIRDRecConfig, ModelConfig, TrainingConfig
from lirdrec_pyg.models import LIRDRec, Vectors, layerwise_vectors, model_class
from lirdrec_pyg.models.mode import eval_mode
from lirdrec_pyg.nn import ProgressiveWeightCopying
from lirdrec_pyg.sampler import NeighborSampling, SampledGraph
from lirdrec_pyg.transforms import CacheAdjacency, DropEdges, NormalizeBipartite


class FullPass:
    """Every step passes over the whole graph.

    Attributes:
        data: the graph.
        generator: of all draws of the training, on the device of the graph.

    Args:
        data: a graph as the model's ``input_transform`` leaves it.
        config: of the training.
        device: where the model is.
    """

    def __init__(self, data: HeteroData, config: TrainingConfig, device: torch.device) -> None:
        self.data = copy.copy(data).to(device)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self._edge_dropout = config.edge_dropout
        self._drop_edges = Compose(
            [
                DropEdges(config.edge_dropout, self.generator),
                NormalizeBipartite(),
                CacheAdjacency(config.sparse_backend),
            ]
        )
        self._kept = self.data

    def start_epoch(self) -> None:
        """Draws what holds for an epoch."""
        self._kept = self._drop_edges(self.data) if self._edge_dropout else self.data

    def steps(self, batches: Sequence[Tensor], first: int) -> Iterator[tuple[HeteroData, Tensor]]:
        """What the loss takes, for each of ``batches``, of which the first is step ``first`` of the epoch."""
        for triples in batches:
            yield self._kept, triples

    def agree(self, model: nn.Module, batch: Tensor, part: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Has several processes have the same memory of users after a step on ``batch``, of which this one had
        ``part``; after a full pass they have it."""

    @torch.no_grad()
    def represent(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Representations of all users and of all items, in eval mode."""
        with eval_mode(model):
            user, item = model(self.data)
        return user, item

    def vectors(self, model: LIRDRec) -> Vectors:
        """As :meth:`represent`, and what else is kept of them."""
        return model.vectors(self.data)


class SampledPass:
    """Every step passes over the sampled neighbourhoods of its triples. The graph stays on the CPU, and its
    features where they are; see :class:`FullPass` for what it has and does.

    Args:
        model: that is trained.
        data: a graph as :func:`input_transform` leaves it.
        config: of the training.
        device: where the model is.

    Raises:
        ConfigError: if the graph can't be sampled from, or not so.
    """

    def __init__(self, model: LIRDRec, data: HeteroData, config: TrainingConfig, device: torch.device) -> None:
        self.data = data
        self.generator = torch.Generator().manual_seed(config.seed)
        self._device = device
        self._sampling = NeighborSampling(
            data,
            config.fanouts(model.bipartite_conv.num_layers),
            0 if model.item_conv is None else model.item_conv.num_layers,
            config.sampling_workers,
        )
        self._seed = 0

    def start_epoch(self) -> None:
        self._seed = int(torch.randint(2**62, (), generator=self.generator))

    def steps(self, batches: Sequence[Tensor], first: int) -> Iterator[tuple[SampledGraph, Tensor]]:
        seeds = range(self._seed + first, self._seed + first + len(batches))
        return map(self._on_device, self._sampling.batches(batches, seeds))

    def _on_device(self, batch: tuple[SampledGraph, Tensor]) -> tuple[SampledGraph, Tensor]:
        sample, triples = batch
        return sample.to(self._device), triples.to(self._device)

    @torch.no_grad()
    def agree(self, model: LIRDRec, batch: Tensor, part: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        if not isinstance(model.fusion, ProgressiveWeightCopying):
            return
        users = batch[0].unique()
        known = torch.isin(users, part[0]).to(self._device).unsqueeze(1)
        users = users.to(self._device)
        attention = model.fusion.last_attention
        mine = torch.cat([attention[users].where(known, 0.0), known.to(attention.dtype)], dim=1)
        together = total(mine)
        attention[users] = together[:, :-1] / together[:, -1:]

    def represent(self, model: LIRDRec) -> tuple[Tensor, Tensor]:
        vectors = layerwise_vectors(model, self.data)
        return vectors.user, vectors.item

    def vectors(self, model: LIRDRec) -> Vectors:
        return layerwise_vectors(model, self.data)


def input_transform(model_config: ModelConfig, config: TrainingConfig) -> BaseTransform:
    """What is made ready of a graph before it is trained on, or evaluated."""
    if isinstance(model_config, LIRDRecConfig) and config.sampling == "neighbors":
        return LIRDRec.sampling_transform(model_config)
    transform: BaseTransform = model_class(model_config).input_transform(model_config, config.sparse_backend)
    return transform
