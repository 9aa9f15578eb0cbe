"""Nearest neighbors of all items by cosine similarity, exact or approximate."""

import logging
import math
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.nn import top_k, unit_vectors

NeighborSearch = Literal["auto", "exact", "approximate"]

_log = logging.getLogger(__name__)

# Multiply-adds up to which "auto" is exact: one to two minutes on two CPU cores, some seconds on a GPU.
_EXACT_WORK = {"cpu": 10**13, "cuda": 10**15}
# Cost of the top-k selection per cosine, in multiply-adds.
_SELECTION = 64
_PROGRESS_FROM = 10**11
_QUERY_ROWS = 8192

# Approximate search: more cells are visited until this recall is reached.
_RECALL = 0.95
_RECALL_SAMPLE = 1000
_FIRST_VISIT, _MOST_VISITED = 8, 256
_MAX_CELLS = 16_384
_TRAINING_ROWS_PER_CELL = 64
_TRAINING_ROUNDS = 10
# Wider features are projected to this width to find candidates, which are then ranked by all features.
_INDEX_WIDTH = 256
_PROJECTION_SAMPLE = 20_000
_CANDIDATES_PER_NEIGHBOR = 4
_COMPARED_BYTES = 256 * 2**20


@torch.no_grad()
def knn_edges(
    x: Tensor,
    k: int,
    mask: Tensor | None = None,
    search: NeighborSearch = "auto",
    name: str = "features",
    progress: bool = False,
) -> Tensor:
    """Compute edges (neighbor, item) from the ``k`` nearest neighbors of each item by cosine similarity.

    The exact search compares all pairs of items in blocks, on the device of ``x``. The approximate search uses an
    inverted file index of faiss on the CPU. It visits more cells until it finds 95 % of the exact neighbors of a sample
    of items, and logs the recall.

    Args:
        x: features, shape ``(num_items, d_m)``.
        k: number of neighbors per item, itself included.
        mask: items with features, bool, shape ``(num_items,)``; the others get a self-loop only.
        search: ``"exact"``, ``"approximate"``, or ``"auto"``: exact as long as that takes at most a few minutes or
            faiss is not installed.
        name: name of the features in log messages.
        progress: whether to show a progress bar for large catalogs.

    Returns:
        Edges, int64, shape ``(2, num_edges)``, sorted by item, then by descending similarity; masked items are last.

    Raises:
        ConfigError: if ``search`` is unknown or needs faiss, which is not installed.
    """
    present = torch.arange(len(x), device=x.device) if mask is None else mask.nonzero().view(-1)
    if not len(present):
        return torch.arange(len(x), device=x.device).expand(2, -1)
    unit = unit_vectors((x if mask is None else x[present]).float())
    k = min(k, len(unit))
    find = _approximate if _is_approximate(search, unit, name) else _exact
    neighbors = _with_self(find(unit, k, name, progress))
    found = neighbors >= 0
    edge_index = torch.stack([present[neighbors[found]], present.unsqueeze(1).expand_as(found)[found]])
    if mask is None:
        return edge_index
    absent = (~mask).nonzero().view(-1)
    return torch.cat([edge_index, absent.expand(2, -1)], dim=1)


def check_search(search: NeighborSearch) -> None:
    """Raise :class:`~lirdrec_pyg.errors.ConfigError` if ``search`` is unknown or needs a missing package."""
    if search not in (known := get_args(NeighborSearch)):
        raise ConfigError(f"`knn_search` is {search!r}. Choose one of {', '.join(known)}.")
    if search == "approximate" and not find_spec("faiss"):
        raise ConfigError(
            "`knn_search='approximate'` needs faiss. Run pip install 'lirdrec-pyg[faiss]' or pass `knn_search='exact'`."
        )


def _is_approximate(search: NeighborSearch, unit: Tensor, name: str) -> bool:
    check_search(search)
    work = len(unit) ** 2 * (unit.size(1) + _SELECTION)
    if search != "auto" or work <= _EXACT_WORK["cpu" if unit.device.type == "cpu" else "cuda"]:
        return search == "approximate"
    if find_spec("faiss"):
        return True
    _log.warning(
        "neighbors by %s: %s comparisons of width %d will take long; pip install 'lirdrec-pyg[faiss]' "
        "for an approximate search.",
        name,
        f"{len(unit) ** 2:,}",
        unit.size(1),
    )
    return False


def _exact(unit: Tensor, k: int, name: str, progress: bool) -> Tensor:
    _log.info("neighbors by %s: exact search among %s items", name, f"{len(unit):,}")
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
    visited = min(_FIRST_VISIT, index.num_cells)
    while True:
        index.visit(visited)
        found = index.search(sample.cpu(), k).to(unit.device)
        recall = _recall(unit, sample, found, floor)
        if recall >= _RECALL or visited >= min(_MOST_VISITED, index.num_cells):
            break
        visited = min(2 * visited, index.num_cells)
    _log.log(
        logging.INFO if recall >= _RECALL else logging.WARNING,
        "neighbors by %s: approximate search among %s items, %d of %s cells each; "
        "%.1f %% of the exact neighbors of %s items found",
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
    """Return the fraction of ``found`` that are at least as similar as the last exact neighbor.

    The item itself, which every search finds, does not count.
    """
    if found.size(1) == 1:
        return 1.0
    similarity = _similarity(unit, sample, found)
    # The two searches round differently.
    good = (similarity >= floor - 1e-6) & (found != sample.unsqueeze(1)) & (found >= 0)
    # With duplicate vectors, another item may be found instead of the item itself.
    counted = good.sum(dim=1).clamp_max(found.size(1) - 1)
    return float(counted.sum() / (len(sample) * (found.size(1) - 1)))


def _similarity(unit: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Compute the cosine similarities of ``rows`` and ``others``, shape ``(N, K)``, in blocks of bounded memory."""
    block = max(1, _COMPARED_BYTES // (4 * unit.size(1) * max(1, others.size(1))))
    return torch.cat(
        [
            torch.einsum("nkd,nd->nk", unit[some], unit[row])
            for row, some in zip(rows.split(block), others.split(block), strict=True)
        ]
    )


class _Index(NamedTuple):
    """Inverted file index of the items.

    Attributes:
        unit: unit vectors, shape ``(num_items, d_m)``.
        key: indexed vectors, the unit vectors or a projection of them, shape ``(num_items, d)``.
        faiss: index by Euclidean distance, which is equivalent to the cosine for unit vectors and is approximately
            preserved by a projection about the mean.
    """

    unit: Tensor
    key: Tensor
    faiss: Any

    @classmethod
    def of(cls, unit: Tensor) -> "_Index":
        import faiss

        key = unit if unit.size(1) <= _INDEX_WIDTH else _projected(unit)
        # About as many cells as items per visited cells.
        num_cells = max(1, min(_MAX_CELLS, 4 * math.isqrt(len(unit)), len(unit) // 40))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(key.size(1)), key.size(1), num_cells, faiss.METRIC_L2)
        index.cp.niter, index.cp.seed = _TRAINING_ROUNDS, 0
        # By default, faiss warns about small cells.
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = _TRAINING_ROWS_PER_CELL
        index.train(key.numpy())
        index.add(key.numpy())
        return cls(unit, key, index)

    @property
    def num_cells(self) -> int:
        return self.faiss.nlist

    def visit(self, cells: int) -> None:
        """Set the number of cells that a search visits."""
        self.faiss.nprobe = cells

    def search(self, rows: Tensor, k: int) -> Tensor:
        """Return the ``k`` items found for each of ``rows``, most similar first, padded with -1."""
        if self.key is self.unit:
            return torch.from_numpy(self.faiss.search(self.key[rows].numpy(), k)[1])
        candidates = min(len(self.key), _CANDIDATES_PER_NEIGHBOR * k)
        found = torch.from_numpy(self.faiss.search(self.key[rows].numpy(), candidates)[1])
        similarity = _similarity(self.unit, rows, found.clamp_min(0)).masked_fill(found < 0, -torch.inf)
        return found.gather(1, similarity.topk(k, dim=1).indices)


def _projected(unit: Tensor) -> Tensor:
    """Project vectors onto their principal axes."""
    from sklearn.decomposition import PCA

    sample = np.sort(np.random.default_rng(0).permutation(len(unit))[:_PROJECTION_SAMPLE])
    axes = PCA(min(_INDEX_WIDTH, len(sample)), svd_solver="covariance_eigh").fit(unit[torch.from_numpy(sample)].numpy())
    mean, components = torch.from_numpy(axes.mean_), torch.from_numpy(axes.components_)
    return torch.cat([(rows - mean) @ components.t() for rows in unit.split(_QUERY_ROWS)])


def _with_self(neighbors: Tensor) -> Tensor:
    """Replace the last neighbor by the item itself where it is missing, due to more than ``k`` duplicate vectors."""
    own = torch.arange(len(neighbors), device=neighbors.device)
    missing = ~(neighbors == own.unsqueeze(1)).any(dim=1)
    neighbors[missing, -1] = own[missing]
    return neighbors


def _bar(total: int, name: str, shown: bool) -> tqdm:
    return tqdm(
        total=total, desc=f"neighbors by {name}", unit=" items", unit_scale=True, disable=None if shown else True
    )
