"""Sampling of the neighborhoods of batches, for graphs that are too large for full-graph training steps."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch_geometric import typing as pyg
from torch_geometric.data import HeteroData
from torch_geometric.loader import LinkNeighborLoader
from torch_geometric.sampler import NeighborSampler
from torch_geometric.typing import EdgeType
from torch_geometric.utils import degree

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, SIMILAR, item_features, modalities
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.nn import SparseOperator, degree_scale

# Number of batches whose pairs are materialized together.
_BATCHES_PER_LOADER = 64

_KINDS = ("user", "item")
_NEAR = "near_"
_SEEDS = ("user0", "rated", "item0")


class SampledLevels:
    """Users and items with their sampled neighborhoods in the user-item graph.

    Level 0 contains the seed nodes, level :math:`l` their neighbors that are :math:`l` layers away. A node may be in
    several levels.

    Args:
        user: rows in ``SampledGraph.data["user"]`` of the users of each level, ``L + 1`` tensors.
        item: rows in ``SampledGraph.data["item"]`` of the items of each level, ``L + 1`` tensors.
        to_user: for each level below :math:`L`, the matrix of its users x the items of the next level.
        to_item: for each level below :math:`L`, the matrix of its items x the users of the next level.
    """

    def __init__(
        self,
        user: Sequence[Tensor],
        item: Sequence[Tensor],
        to_user: Sequence[SparseOperator],
        to_item: Sequence[SparseOperator],
    ) -> None:
        self.user, self.item, self.to_user, self.to_item = user, item, to_user, to_item

    def to(self, device: torch.device | str) -> "SampledLevels":
        """Return these levels on another device."""
        return SampledLevels(
            user=[rows.to(device) for rows in self.user],
            item=[rows.to(device) for rows in self.item],
            to_user=[operator.to(device) for operator in self.to_user],
            to_item=[operator.to(device) for operator in self.to_item],
        )


# These are not dataclasses, since Fabric would convert the tensors in their fields.
class SampledGraph:
    """The part of a graph that is needed to compute the representations of some users and items.

    Args:
        data: a graph without edges that contains each node once: ``data["user"].n_id`` and ``data["item"].n_id`` are
            the indices in the full graph, ``data["item"]`` has the features.
        own: levels of the seed users and seed items.
        near: levels of the neighbors of the seed items in the item graph, without users at level 0.
        similar: for each layer of the item graph, the matrix of its items x the items of the next layer, from the
            items of ``own`` to those of ``near``; empty without such layers.
    """

    def __init__(
        self, data: HeteroData, own: SampledLevels, near: SampledLevels, similar: Sequence[SparseOperator]
    ) -> None:
        self.data, self.own, self.near, self.similar = data, own, near, similar

    def to(self, device: torch.device | str) -> "SampledGraph":
        """Return this graph on another device."""
        similar = [operator.to(device) for operator in self.similar]
        return SampledGraph(copy.copy(self.data).to(device), self.own.to(device), self.near.to(device), similar)

    def __repr__(self) -> str:
        users, items = (len(self.data[kind].n_id) for kind in ("user", "item"))
        return f"{type(self).__name__}({users} users, {items} items)"


class NeighborSampling:
    r"""Sampler of the neighborhoods of triples, based on :class:`torch_geometric.loader.LinkNeighborLoader`.

    The sum over the neighbors of a node is estimated from a sample without replacement. The weights :math:`e_{u,i}`,
    which use the degrees in the full graph, are divided by the inclusion probability, so that the estimate is unbiased.
    Neighbors in the item graph are few, and all of them are used. Since each of them has a small weight, fewer of
    their own neighbors are sampled in return.

    The sample of a batch depends only on its seed, not on previous batches.

    Args:
        data: training graph with the item graph, on the CPU; its features may be memory-mapped.
        fanouts: number of neighbors to sample per node in each layer of user-item propagation, at least 2, or ``-1``
            for all.
        num_item_layers: number of layers of the item graph.
        num_workers: number of processes that sample ahead; by default, batches are sampled in this process.

    Attributes:
        degree: interactions of each node, float32, by kind of node.

    Raises:
        ConfigError: if neither pyg-lib nor torch-sparse is installed.
    """

    def __init__(
        self, data: HeteroData, fanouts: Sequence[int], num_item_layers: int = 1, num_workers: int = 0
    ) -> None:
        check_sampling()
        self.fanouts = tuple(fanouts)
        self.num_item_layers = num_item_layers
        self.num_workers = num_workers
        self._features = {f"x_{modality}": item_features(data, modality) for modality in modalities(data)}
        if "dct" in data["item"]:
            self._features["dct"] = data["item"].dct
        self._dct_mode = data["item"].get("dct_mode")
        self.degree = {
            kind: degree(index, data[kind].num_nodes)
            for kind, index in zip(_KINDS, data[INTERACTS].edge_index, strict=True)
        }
        # Offset of the neighbors of each node among all edges.
        self._first = {kind: count.long().cumsum(0) - count.long() for kind, count in self.degree.items()}
        self._graph, self._num_neighbors = self._levels(data)
        with warnings.catch_warnings():
            # PyG recommends pyg-lib over torch-sparse, but pyg-lib is not on PyPI.
            warnings.filterwarnings("ignore", "Using 'NeighborSampler' without a 'pyg-lib' installation")
            self._sampler = NeighborSampler(self._graph, self._num_neighbors, is_sorted=True)

    def _levels(self, data: HeteroData) -> tuple[HeteroData, dict[EdgeType, list[int]]]:
        """Return a graph with one node type per level, so that each level has its own fanout, and these fanouts.

        Its edges share memory with those of ``data``.
        """
        graph, fanout = HeteroData(), {}
        num_items = data["item"].num_nodes
        to_user, to_item = data[INTERACTED_BY].edge_index, data[INTERACTS].get("by_item")
        if to_item is None:
            to_item = sorted_by_item(data)
        share = num_items / max(1, data[SIMILAR].edge_index.size(1)) if self.num_item_layers else 1.0
        for start, fanouts in (("", self.fanouts), (_NEAR, [_fewer(number, share) for number in self.fanouts])):
            for level in range(len(fanouts) + 1):
                graph[f"{start}user{level}"].num_nodes = data["user"].num_nodes
                graph[f"{start}item{level}"].num_nodes = num_items
            for level, number in enumerate(fanouts):
                graph[_to_user(start, level)].edge_index = to_user
                graph[_to_item(start, level)].edge_index = to_item
                fanout[_to_user(start, level)] = fanout[_to_item(start, level)] = number
        for layer in range(self.num_item_layers):
            edges = self._to_similar(layer)
            graph[edges[2]].num_nodes = num_items
            graph[edges].edge_index, graph[edges].edge_weight = data[SIMILAR].edge_index, data[SIMILAR].edge_weight
            fanout[edges] = -1
        hops = max(1, len(self.fanouts) + self.num_item_layers)
        return graph, {edge_type: [number] * hops for edge_type, number in fanout.items()}

    def _to_similar(self, layer: int) -> EdgeType:
        source = f"similar{layer + 1}" if layer + 1 < self.num_item_layers else f"{_NEAR}item0"
        return source, "similar", f"similar{layer}" if layer else "item0"

    def batches(self, batches: Sequence[Tensor], seeds: Sequence[int]) -> Iterator[tuple[SampledGraph, Tensor]]:
        """Sample the neighborhoods of batches, one after the other.

        Args:
            batches: triples (user, positive, negative), int64, shape ``(2 + num_negatives, N)`` each.
            seeds: random seed of each batch.

        Yields:
            The sampled graph, and the triples as rows of its level 0.
        """
        for start in range(0, len(batches), _BATCHES_PER_LOADER):
            chunk = slice(start, start + _BATCHES_PER_LOADER)
            for sample in self._loader(batches[chunk], seeds[chunk]):
                user, item = sample[_SEEDS].edge_label_index.unflatten(1, (-1, len(batches[0]) - 1))
                yield self._sampled(sample), torch.cat([user.t()[:1], item.t()])

    def _loader(self, batches: Sequence[Tensor], seeds: Sequence[int]) -> "_SeededLoader":
        user, *items = torch.cat(list(batches), dim=1)
        # All pairs of a triple are adjacent.
        pairs = torch.stack([user.repeat_interleave(len(items)), torch.stack(items, dim=1).flatten()])
        stops = [0, *(len(items) * torch.tensor([batch.size(1) for batch in batches])).cumsum(0).tolist()]
        spans = [range(*span) for span in pairwise(stops)]
        return _SeededLoader(
            {span.start: seed for span, seed in zip(spans, seeds, strict=True)},
            self._graph,
            self._num_neighbors,
            (_SEEDS, pairs),
            neighbor_sampler=self._sampler,
            batch_sampler=spans,
            num_workers=self.num_workers,
            filter_per_worker=True,
        )

    def _sampled(self, sample: HeteroData) -> SampledGraph:
        data, starts = HeteroData(), ("", _NEAR)
        names = {kind: [f"{start}{kind}{level}" for start in starts for level in self._range] for kind in _KINDS}
        rows: dict[str, Tensor] = {}
        for kind in _KINDS:
            data[kind].n_id, row = torch.cat([sample[name].n_id for name in names[kind]]).unique(return_inverse=True)
            rows.update(zip(names[kind], row.split([len(sample[name].n_id) for name in names[kind]]), strict=True))
        for key, x in self._features.items():
            data["item"][key] = x.index_select(0, data["item"].n_id)
        if self._dct_mode is not None:
            data["item"].dct_mode = self._dct_mode
        own, near = (
            SampledLevels(
                user=[rows[f"{start}user{level}"] for level in self._range],
                item=[rows[f"{start}item{level}"] for level in self._range],
                to_user=[self._interactions(sample, _to_user(start, level)) for level in self._range[:-1]],
                to_item=[self._interactions(sample, _to_item(start, level)) for level in self._range[:-1]],
            )
            for start in starts
        )
        edges = [self._to_similar(layer) for layer in range(self.num_item_layers)]
        return SampledGraph(data, own, near, [_operator(sample, each, sample[each].edge_weight) for each in edges])

    @property
    def _range(self) -> range:
        return range(len(self.fanouts) + 1)

    def _interactions(self, sample: HeteroData, edge_type: EdgeType) -> SparseOperator:
        source, target = sample[edge_type].edge_index
        source_degree, target_degree = (
            self.degree[_kind(name)][sample[name].n_id][index]
            for name, index in ((edge_type[0], source), (edge_type[2], target))
        )
        first = self._first[_kind(edge_type[2])][sample[edge_type[2]].n_id][target]
        position = sample[edge_type].e_id - first
        probability = _inclusion_probability(position, target_degree, self._num_neighbors[edge_type][0])
        return _operator(sample, edge_type, degree_scale(source_degree) * degree_scale(target_degree) / probability)


class _SeededLoader(LinkNeighborLoader):
    """Loader that samples with the seed of each batch, in any worker process."""

    def __init__(self, seeds: dict[int, int], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seeds = seeds  # keyed by the index of the first pair of the batch

    def collate_fn(self, index: list[int]) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seeds[index[0]])
            return super().collate_fn(index)


def sorted_by_item(data: HeteroData) -> Tensor:
    """Return the interactions (user, item) sorted by item.

    :class:`NeighborSampling` takes them from ``by_item`` of the edges, if it is there already.
    """
    edge_index = data[INTERACTS].edge_index
    return edge_index[:, edge_index[1].argsort(stable=True)]


def check_sampling() -> None:
    """Raise :class:`ConfigError` if no library for neighbor sampling is installed."""
    if not (pyg.WITH_PYG_LIB or pyg.WITH_TORCH_SPARSE):
        raise ConfigError(
            "`sampling='neighbors'` needs pyg-lib or torch-sparse, and neither is installed. Run pip install "
            "'lirdrec-pyg[sparse]' or pass `sampling='full'`."
        )


def _inclusion_probability(position: Tensor, count: Tensor, fanout: int) -> Tensor:
    """Return the probability that the neighbor at ``position`` of ``count`` neighbors is sampled.

    torch-sparse samples the last ones less often (https://github.com/rusty1s/pytorch_sparse/issues/385): its j-th draw
    is from j numbers where Floyd's algorithm has j + 1.
    """
    if fanout < 0:
        return torch.ones_like(count)
    if pyg.WITH_PYG_LIB:
        return (fanout / count).clamp_max(1)
    is_last = position >= count - fanout
    return ((fanout - is_last.float()) / (count - 1)).where(count > fanout, 1.0)


def _kind(node_type: str) -> str:
    return "user" if "user" in node_type else "item"


def _to_user(start: str, level: int) -> EdgeType:
    return f"{start}item{level + 1}", "interacts", f"{start}user{level}"


def _to_item(start: str, level: int) -> EdgeType:
    return f"{start}user{level + 1}", "interacts", f"{start}item{level}"


def _fewer(fanout: int, share: float) -> int:
    return fanout if fanout < 0 else max(2, round(share * fanout))


def _operator(sample: HeteroData, edge_type: EdgeType, weight: Tensor) -> SparseOperator:
    """Return the matrix of targets x sources."""
    source, _, target = edge_type
    size = len(sample[target].n_id), len(sample[source].n_id)
    return SparseOperator(sample[edge_type].edge_index.flip([0]), weight, size)
