"""The items most similar to each item, by the cosine of their features."""

import logging
import math
from importlib.util import find_spec
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lirdrec_pyg.config import NeighbourSearch
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.nn import top_k, unit_vectors

_log = logging.getLogger(__name__)

# Multiply-adds of an exact search up to which nothing else is worth it: one to two minutes on two
# cores, some seconds on a GPU.
_EXACT_WORK = {"cpu": 10**13, "cuda": 10**15}
# What it costs to pick the best of the cosines, in multiply-adds for each.
_SELECTION = 64
_PROGRESS_FROM = 10**11
_QUERY_ROWS = 8192

# Of the approximate search. Cells are visited until so many of the neighbours are found.
_RECALL = 0.95
_RECALL_SAMPLE = 1000
_FIRST_VISIT, _MOST_VISITED = 8, 256
_MAX_CELLS = 16_384
_TRAINING_ROWS_PER_CELL = 64
_TRAINING_ROUNDS = 10
# Wider features are projected to so many dimensions to find candidates, which are then compared in full.
_INDEX_WIDTH = 256
_PROJECTION_SAMPLE = 20_000
_CANDIDATES_PER_NEIGHBOUR = 4
_COMPARED_BYTES = 256 * 2**20


@torch.no_grad()
def knn_edges(
    x: Tensor,
    k: int,
    mask: Tensor | None = None,
    search: NeighbourSearch = "auto",
    name: str = "features",
    progress: bool = False,
) -> Tensor:
    """Edges (neighbour, item) from the ``k`` most similar items to each item.

    The exact search compares all items with all others in blocks, on the device of ``x``. The
    approximate one, by faiss on the CPU, sorts them into cells, and compares each with those in the
    cells next to it; it visits more of them until 95 % of the true neighbours of a sample of items
    are found, and logs what it came to.

    Args:
        x: features, shape ``(num_items, d_m)``.
        k: neighbours, the item itself among them.
        mask: which items take part; the others get an edge to themselves alone.
        search: ``"auto"`` is exact up to where that takes minutes, and beyond if faiss is not installed.
        name: what the features are called in the log.
        progress: shows a bar where it takes seconds.

    Returns:
        int64, shape ``(2, num_edges)``, sorted by item, then by falling similarity; the items that take
        no part come last.

    Raises:
        ConfigError: if ``search`` is unknown, or it is approximate and faiss is not installed.
    """
    present = torch.arange(len(x), device=x.device) if mask is None else mask.nonzero().view(-1)
    if not len(present):
        return torch.arange(len(x), device=x.device).expand(2, -1)
    unit = unit_vectors((x if mask is None else x[present]).float())
    k = min(k, len(unit))
    find = _approximate if _is_approximate(search, unit, name) else _exact
    neighbours = _with_self(find(unit, k, name, progress))
    found = neighbours >= 0
    edge_index = torch.stack([present[neighbours[found]], present.unsqueeze(1).expand_as(found)[found]])
    if mask is None:
        return edge_index
    absent = (~mask).nonzero().view(-1)
    return torch.cat([edge_index, absent.expand(2, -1)], dim=1)


def check_search(search: NeighbourSearch) -> None:
    """Raises :class:`~lirdrec_pyg.errors.ConfigError` if there can be no such search here."""
    if search not in (known := get_args(NeighbourSearch)):
        raise ConfigError(f"The search for neighbours is {search!r}: choose one of {', '.join(known)}.")
    if search == "approximate" and not find_spec("faiss"):
        raise ConfigError(
            "--knn-search approximate needs faiss: pip install 'lirdrec-pyg[faiss]', or take --knn-search exact."
        )


def _is_approximate(search: NeighbourSearch, unit: Tensor, name: str) -> bool:
    check_search(search)
    work = len(unit) ** 2 * (unit.size(1) + _SELECTION)
    if search != "auto" or work <= _EXACT_WORK["cpu" if unit.device.type == "cpu" else "cuda"]:
        return search == "approximate"
    if find_spec("faiss"):
        return True
    _log.warning(
        "neighbours by %s: %s comparisons of width %d will take long; pip install 'lirdrec-pyg[faiss]' "
        "for an approximate search.",
        name,
        f"{len(unit) ** 2:,}",
        unit.size(1),
    )
    return False


def _exact(unit: Tensor, k: int, name: str, progress: bool) -> Tensor:
    _log.info("neighbours by %s: exact search among %s items", name, f"{len(unit):,}")
    found = torch.empty(len(unit), k, dtype=torch.long, device=unit.device)
    with _bar(len(unit), name, progress and len(unit) ** 2 * unit.size(1) >= _PROGRESS_FROM) as bar:
        for block in top_k(unit, unit, torch.arange(len(unit), device=unit.device), k):
            found[block.rows] = block.item
            bar.update(len(block.item))
    return found


def _approximate(unit: Tensor, k: int, name: str, progress: bool) -> Tensor:
    index = _Index.of(unit.cpu())
    sample = torch.from_numpy(np.random.default_rng(0).permutation(len(unit))[:_RECALL_SAMPLE]).to(unit.device)
    floor = torch.cat([block.score[:, -1:] for block in top_k(unit, unit, sample, k)])
    visited, recall = min(_FIRST_VISIT, index.num_cells), 0.0
    while True:
        index.visit(visited)
        found = index.search(sample.cpu(), k).to(unit.device)
        recall = _recall(unit, sample, found, floor)
        if recall >= _RECALL or visited >= min(_MOST_VISITED, index.num_cells):
            break
        visited = min(2 * visited, index.num_cells)
    _log.log(
        logging.INFO if recall >= _RECALL else logging.WARNING,
        "neighbours by %s: approximate search among %s items, %d of %s cells each; "
        "%.1f %% of the exact neighbours of %s items found",
        name,
        f"{len(unit):,}",
        visited,
        f"{index.num_cells:,}",
        100 * recall,
        f"{len(sample):,}",
    )
    result = torch.empty(len(unit), k, dtype=torch.long)
    with _bar(len(unit), name, progress) as bar:
        for rows in torch.arange(len(unit)).split(_QUERY_ROWS):
            result[rows] = index.search(rows, k)
            bar.update(len(rows))
    return result.to(unit.device)


def _recall(unit: Tensor, sample: Tensor, found: Tensor, floor: Tensor) -> float:
    """Share of the ``found`` that are as similar as the last of the exact neighbours. The item itself,
    which any search finds, does not count."""
    if found.size(1) == 1:
        return 1.0
    similarity = _similarity(unit, sample, found)
    # Rounding differs between the searches.
    good = (similarity >= floor - 1e-6) & (found != sample.unsqueeze(1)) & (found >= 0)
    # Among equal vectors the item itself may be cut off, and another one is found in its place.
    counted = good.sum(dim=1).clamp_max(found.size(1) - 1)
    return float(counted.sum() / (len(sample) * (found.size(1) - 1)))


def _similarity(unit: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Cosines of ``rows`` with ``others``, shape ``(N, K)``, in blocks of bounded memory."""
    block = max(1, _COMPARED_BYTES // (4 * unit.size(1) * max(1, others.size(1))))
    return torch.cat(
        [
            torch.einsum("nkd,nd->nk", unit[some], unit[row])
            for row, some in zip(rows.split(block), others.split(block), strict=True)
        ]
    )


class _Index(NamedTuple):
    """An inverted file of the items.

    Attributes:
        unit: unit vectors, shape ``(num_items, d_m)``.
        key: what the index compares, shape ``(num_items, d)``.
        faiss: the index. By Euclidean distance, whose order on unit vectors is that of the cosine,
            and which a projection about the mean keeps where it can.
    """

    unit: Tensor
    key: Tensor
    faiss: Any

    @classmethod
    def of(cls, unit: Tensor) -> "_Index":
        import faiss

        key = unit if unit.size(1) <= _INDEX_WIDTH else _projected(unit)
        # Cells as many as items in them are compared.
        num_cells = max(1, min(_MAX_CELLS, 4 * math.isqrt(len(unit)), len(unit) // 40))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(key.size(1)), key.size(1), num_cells, faiss.METRIC_L2)
        index.cp.niter, index.cp.seed = _TRAINING_ROUNDS, 0
        # It would warn of a single cell of few items.
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = _TRAINING_ROWS_PER_CELL
        index.train(key.numpy())
        index.add(key.numpy())
        return cls(unit, key, index)

    @property
    def num_cells(self) -> int:
        return self.faiss.nlist

    def visit(self, cells: int) -> None:
        """Has searches look into so many cells."""
        self.faiss.nprobe = cells

    def search(self, rows: Tensor, k: int) -> Tensor:
        """The ``k`` items found for each of ``rows``, most similar first; -1 where there are too few."""
        if self.key is self.unit:
            return torch.from_numpy(self.faiss.search(self.key[rows].numpy(), k)[1])
        candidates = min(len(self.key), _CANDIDATES_PER_NEIGHBOUR * k)
        found = torch.from_numpy(self.faiss.search(self.key[rows].numpy(), candidates)[1])
        similarity = _similarity(self.unit, rows, found.clamp_min(0)).masked_fill(found < 0, -torch.inf)
        return found.gather(1, similarity.topk(k, dim=1).indices)


def _projected(unit: Tensor) -> Tensor:
    """Coordinates along the principal axes, as many as the index compares."""
    from sklearn.decomposition import PCA

    sample = np.sort(np.random.default_rng(0).permutation(len(unit))[:_PROJECTION_SAMPLE])
    axes = PCA(min(_INDEX_WIDTH, len(sample)), svd_solver="covariance_eigh").fit(unit[torch.from_numpy(sample)].numpy())
    mean, components = torch.from_numpy(axes.mean_), torch.from_numpy(axes.components_)
    return torch.cat([(rows - mean) @ components.t() for rows in unit.split(_QUERY_ROWS)])


def _with_self(neighbours: Tensor) -> Tensor:
    """Among more than ``k`` equal vectors the item itself may be cut off: it takes the last place's."""
    own = torch.arange(len(neighbours), device=neighbours.device)
    lost = ~(neighbours == own.unsqueeze(1)).any(dim=1)
    neighbours[lost, -1] = own[lost]
    return neighbours


def _bar(total: int, name: str, shown: bool) -> tqdm:
    return tqdm(total=total, desc=f"neighbours by {name}", unit=" items", unit_scale=True, disable=not shown)
