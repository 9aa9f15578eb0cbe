"""Neighbourhoods of a batch, for graphs that are too large for a step to pass over the whole."""

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

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, SIMILAR, modalities
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.nn import SparseOperator, degree_scale

# For so many batches at once their pairs are laid out in memory.
_BATCHES_AT_ONCE = 64

_KINDS = ("user", "item")
_NEAR = "near_"
_SEEDS = ("user0", "rated", "item0")


class SampledLevels:
    """Users and items, and the nodes that they are propagated from.

    Level 0 holds the nodes that are represented, level :math:`l` those that are :math:`l` layers of user-item
    propagation away. A node may be in several levels.

    Args:
        user: rows in ``SampledGraph.data["user"]`` of the users of each level, ``L + 1`` tensors.
        item: rows in ``SampledGraph.data["item"]`` of the items of each level, ``L + 1`` tensors.
        to_user: for each level below :math:`L`, its users by the items of the next.
        to_item: for each level below :math:`L`, its items by the users of the next.
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
        """These levels on another device."""
        return SampledLevels(
            user=[rows.to(device) for rows in self.user],
            item=[rows.to(device) for rows in self.item],
            to_user=[operator.to(device) for operator in self.to_user],
            to_item=[operator.to(device) for operator in self.to_item],
        )


# No dataclasses: Fabric would take those apart, for tensors to convert.
class SampledGraph:
    """The part of a graph that the representations of some users and items are computed from.

    Args:
        data: a graph without edges of all nodes that are needed, each once: ``data["user"].n_id`` and
            ``data["item"].n_id`` are their positions in the whole graph, ``data["item"]`` has their features.
        own: levels from the users and items that are represented.
        near: levels from the items that those are similar to, and no users.
        similar: for each layer of the item graph, its items by those of the next layer: from the items of
            ``own`` to those of ``near``. None if there are no such layers.
    """

    def __init__(
        self, data: HeteroData, own: SampledLevels, near: SampledLevels, similar: Sequence[SparseOperator]
    ) -> None:
        self.data, self.own, self.near, self.similar = data, own, near, similar

    def to(self, device: torch.device | str) -> "SampledGraph":
        """This graph on another device."""
        similar = [operator.to(device) for operator in self.similar]
        return SampledGraph(copy.copy(self.data).to(device), self.own.to(device), self.near.to(device), similar)

    def __repr__(self) -> str:
        users, items = (len(self.data[kind].n_id) for kind in ("user", "item"))
        return f"{type(self).__name__}({users} users, {items} items)"


class NeighborSampling:
    r"""Samples the neighbourhoods of triples by :class:`torch_geometric.loader.LinkNeighborLoader`.

    A sum over the neighbours of a node is estimated from some of them, drawn without replacement: their
    weights :math:`e_{u,i}`, which go by the degrees in the whole graph, are divided by the probability to be
    drawn, so that the sum is right on average. Neighbours in the item graph are few, and all taken; but as
    each has one weight among many, so many times fewer are drawn of its own.

    The draws for a batch follow from its seed alone, not from the batches before it.

    Args:
        data: the training graph with the item graph, on the CPU; its features may be memory-mapped.
        fanouts: neighbours to draw of a node in each layer of user-item propagation, at least 2, or ``-1`` for
            all.
        num_item_layers: layers of the item graph.
        num_workers: processes that sample ahead; none by default.

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
        self._features = {key: data["item"][key] for key in _item_inputs(data)}
        self._dct_mode = data["item"].get("dct_mode")
        self._degree = {
            kind: degree(index, data[kind].num_nodes)
            for kind, index in zip(_KINDS, data[INTERACTS].edge_index, strict=True)
        }
        # Where the neighbours of a node begin among all edges.
        self._first = {kind: count.long().cumsum(0) - count.long() for kind, count in self._degree.items()}
        self._graph, self._num_neighbors = self._levels(data)
        with warnings.catch_warnings():
            # PyG would rather have pyg-lib than torch-sparse, but no package index has it.
            warnings.filterwarnings("ignore", "Using 'NeighborSampler' without a 'pyg-lib' installation")
            self._sampler = NeighborSampler(self._graph, self._num_neighbors, is_sorted=True)

    def _levels(self, data: HeteroData) -> tuple[HeteroData, dict[EdgeType, list[int]]]:
        """A graph with a node type for each level, whose edges share the memory of the given ones, and the
        fanouts of its edge types: so as many neighbours of a node are drawn as its level needs."""
        graph, fanout = HeteroData(), {}
        num_items = data["item"].num_nodes
        to_user, to_item = data[INTERACTED_BY].edge_index, data[INTERACTS].edge_index
        to_item = to_item[:, to_item[1].argsort(stable=True)]
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
        """Samples the neighbourhoods of batches, one after the other.

        Args:
            batches: triples (user, positive, negative), int64, ``(3, N)`` each, or with further rows of negatives.
            seeds: of the draws for each batch.

        Yields:
            The sampled graph, and the triples by the rows of what comes out of it.
        """
        for start in range(0, len(batches), _BATCHES_AT_ONCE):
            some = slice(start, start + _BATCHES_AT_ONCE)
            for sample in self._loader(batches[some], seeds[some]):
                user, item = sample[_SEEDS].edge_label_index.unflatten(1, (-1, len(batches[0]) - 1))
                yield self._sampled(sample), torch.cat([user.t()[:1], item.t()])

    def _loader(self, batches: Sequence[Tensor], seeds: Sequence[int]) -> "_SeededLoader":
        user, *items = torch.cat(list(batches), dim=1)
        # The pairs of a triple follow each other.
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
            self._degree[_kind(name)][sample[name].n_id][index]
            for name, index in ((edge_type[0], source), (edge_type[2], target))
        )
        first = self._first[_kind(edge_type[2])][sample[edge_type[2]].n_id][target]
        place = sample[edge_type].e_id - first
        drawn = _drawing_probability(place, target_degree, self._num_neighbors[edge_type][0])
        return _operator(sample, edge_type, degree_scale(source_degree) * degree_scale(target_degree) / drawn)


class _SeededLoader(LinkNeighborLoader):
    """Draws by the seed of a batch, whichever process does so."""

    def __init__(self, seeds: dict[int, int], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seeds = seeds  # by the first pair of the batch

    def collate_fn(self, index: list[int]) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seeds[index[0]])
            return super().collate_fn(index)


def check_sampling() -> None:
    """Raises :class:`ConfigError` if what neighbours are sampled by is not installed."""
    if not (pyg.WITH_PYG_LIB or pyg.WITH_TORCH_SPARSE):
        raise ConfigError(
            "--sampling neighbors needs pyg-lib or torch-sparse, and neither is installed: "
            "pip install 'lirdrec-pyg[sparse]', or take --sampling full."
        )


def _drawing_probability(place: Tensor, count: Tensor, fanout: int) -> Tensor:
    """With which a neighbour is drawn that has a place, from 0, among so many.

    torch-sparse draws the last ones less often (https://github.com/rusty1s/pytorch_sparse/issues/385): its
    j-th draw is from j numbers where Floyd's algorithm has j + 1.
    """
    if fanout < 0:
        return torch.ones_like(count)
    if pyg.WITH_PYG_LIB:
        return (fanout / count).clamp_max(1)
    among_the_last = place >= count - fanout
    return ((fanout - among_the_last.float()) / (count - 1)).where(count > fanout, 1.0)


def _item_inputs(data: HeteroData) -> list[str]:
    cached = ["dct"] if "dct" in data["item"] else []
    return [*(f"x_{modality}" for modality in modalities(data)), *cached]


def _kind(node_type: str) -> str:
    return "user" if "user" in node_type else "item"


def _to_user(start: str, level: int) -> EdgeType:
    return f"{start}item{level + 1}", "interacts", f"{start}user{level}"


def _to_item(start: str, level: int) -> EdgeType:
    return f"{start}user{level + 1}", "interacts", f"{start}item{level}"


def _fewer(fanout: int, share: float) -> int:
    return fanout if fanout < 0 else max(2, round(share * fanout))


def _operator(sample: HeteroData, edge_type: EdgeType, weight: Tensor) -> SparseOperator:
    """Targets x sources."""
    source, _, target = edge_type
    size = len(sample[target].n_id), len(sample[source].n_id)
    return SparseOperator(sample[edge_type].edge_index.flip([0]), weight, size)
