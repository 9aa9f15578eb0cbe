"""What a training step passes over: the whole graph, or sampled parts of it."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose

from lirdrec_pyg.data import HELD_OUT, INTERACTS, held_out_edges
from lirdrec_pyg.models import ModelConfig, Vectors, eval_mode, model_class
from lirdrec_pyg.nn import RowShards, degree_scale
from lirdrec_pyg.sampler import NeighborSampling, SampledGraph
from lirdrec_pyg.training.config import TrainingConfig
from lirdrec_pyg.transforms import CacheAdjacency, DropEdges, NormalizeBipartite


class FullGraphLoader:
    """Passes the whole graph to every step.

    Attributes:
        data: the graph.
        generator: random generator of the training, on the device of the graph.

    Args:
        data: a graph as :func:`input_transform` leaves it.
        config: settings of the training.
        device: device of the model.
    """

    def __init__(self, data: HeteroData, config: TrainingConfig, device: torch.device) -> None:
        self.data = copy.copy(data).to(device)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self._edge_dropout = config.edge_dropout
        drop = DropEdges(config.edge_dropout, self.generator)
        self._drop_edges = Compose([drop, NormalizeBipartite(), CacheAdjacency(config.sparse_backend)])
        self._kept = self.data

    def start_epoch(self) -> None:
        """Draw what is fixed for an epoch."""
        self._kept = self._drop_edges(self.data) if self._edge_dropout else self.data

    def steps(self, batches: Sequence[Tensor], first: int) -> Iterator[tuple[HeteroData, Tensor]]:
        """Yield graph and triples of each of ``batches``, the first of which is step ``first`` of the epoch."""
        for triples in batches:
            yield self._kept, triples

    def synchronize(self, model: nn.Module, batch: Tensor, part: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Make the user memories of several processes equal after a step on ``batch``, of which this process had
        ``part``; after a full pass they are."""

    @torch.no_grad()
    def represent(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the representations of all users and of all items, in eval mode."""
        with eval_mode(model):
            return model(self.data)

    def vectors(self, model: Any) -> Vectors:
        """Return all that is needed to rank."""
        return model.vectors(self.data)


class SampledGraphLoader:
    """Passes sampled neighborhoods of its triples to every step; methods are those of :class:`FullGraphLoader`.

    The graph stays on the CPU, and its features where they are.

    Raises:
        ConfigError: if the graph cannot be sampled with these settings.
    """

    def __init__(self, model: Any, data: HeteroData, config: TrainingConfig, device: torch.device) -> None:
        self.data = data
        self.generator = torch.Generator().manual_seed(config.seed)
        self._device = device
        num_layers, num_item_layers = model.sampling_depth()
        self._sampling = NeighborSampling(data, config.fanouts(num_layers), num_item_layers, config.sampling_workers)
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
    def synchronize(self, model: Any, batch: Tensor, part: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        users = batch[0].unique()
        known = torch.isin(users, part[0]).to(self._device).unsqueeze(1)
        model.synchronize_users(users.to(self._device), known, total)

    def represent(self, model: Any) -> tuple[Tensor, Tensor]:
        vectors = self.vectors(model)
        return vectors.user, vectors.item

    def vectors(self, model: Any) -> Vectors:
        return model.layerwise_vectors(self.data)


class ShardedGraphLoader(SampledGraphLoader):
    """The same for one of several processes that have some of the users each; it has vectors of its users only.

    Args:
        model: model that is trained, with the rows of its users.
        data: the whole graph, best memory-mapped, so that the processes of a machine share it.
        shards: users of each process.
        total: sums a tensor over the processes.
    """

    def __init__(
        self,
        model: Any,
        data: HeteroData,
        config: TrainingConfig,
        device: torch.device,
        shards: RowShards,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(model, data, config, device)
        self._total, self._shards = total, shards

    def synchronize(self, model: Any, batch: Tensor, part: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Do nothing: the fusion's memory of a user is in one process."""

    def vectors(self, model: Any) -> Vectors:
        # Made anew each time, since it takes as much memory as the graph.
        rows = self._shards.rows
        own = part_of_users(self.data, rows)
        user, item = own[INTERACTS].edge_index
        degree = self._sampling.degree
        own[INTERACTS].edge_weight = degree_scale(degree["user"][rows])[user] * degree_scale(degree["item"])[item]
        return model.layerwise_vectors(CacheAdjacency()(own), total=self._total)


def part_of_users(data: HeteroData, rows: slice) -> HeteroData:
    """Return the graph of some users in a row and all items, with the interactions from users to items only."""
    part = copy.copy(data)
    part["user"].num_nodes = rows.stop - rows.start
    edges = {"edge_index": data[INTERACTS].edge_index}
    edges |= {split.edge_label_key: held_out_edges(data, split) for split in HELD_OUT}
    for key, pairs in edges.items():
        first, last = torch.searchsorted(pairs[0], torch.tensor([rows.start, rows.stop])).tolist()  # sorted by user
        user, item = pairs[:, first:last]
        part[INTERACTS][key] = torch.stack([user - rows.start, item])
    return part


def input_transform(model_config: ModelConfig, config: TrainingConfig) -> BaseTransform:
    """Return the transform that prepares a graph for training and evaluation."""
    kind = model_class(model_config)
    if config.sampling == "neighbors":
        return kind.sampling_transform(model_config)
    return kind.input_transform(model_config, config.sparse_backend)
