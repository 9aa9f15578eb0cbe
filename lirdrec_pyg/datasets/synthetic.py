from collections.abc import Callable
from pathlib import Path

from torch_geometric.data import HeteroData

from lirdrec_pyg.data import Dataset
from lirdrec_pyg.data.drawings import draw_items
from lirdrec_pyg.data.generator import generate, true_scores
from lirdrec_pyg.datasets.base import RecommendationDataset

__all__ = ["Synthetic", "synthetic_data", "true_scores"]


def synthetic_data(
    num_users: int = 2000,
    num_items: int = 1000,
    mean_interactions: float = 15.0,
    cold_share: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Generate a data set whose truth is known, see :func:`lirdrec_pyg.data.generator.generate`.

    Its catalog shows that truth, see :func:`lirdrec_pyg.data.drawings.draw_items`.
    """
    graph, users, items, facts = generate(num_users, num_items, mean_interactions, cold_share, seed)
    return Dataset(graph, users, items, catalog=draw_items(graph, items), facts=facts)


class Synthetic(RecommendationDataset):
    """The generated data set of :func:`synthetic_data`; it needs no files.

    Data sets of different sizes or seeds can share one ``root``.

    Args:
        root: folder in which ``processed/`` is created.
        num_users: see :func:`synthetic_data`.
        num_items: see :func:`synthetic_data`.
        seed: seed of all random numbers.
        transform: applied at each access.
        pre_transform: applied once, before saving.
        force_reload: whether to generate the data again.
    """

    def __init__(
        self,
        root: str,
        num_users: int = 2000,
        num_items: int = 1000,
        seed: int = 0,
        transform: Callable[[HeteroData], HeteroData] | None = None,
        pre_transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
    ) -> None:
        self.num_users = num_users
        self.num_items = num_items
        self.seed = seed
        super().__init__(root, transform, pre_transform, force_reload)

    @property
    def raw_file_names(self) -> list[str]:
        return []

    @property
    def processed_file_names(self) -> list[str]:
        key = f"{self.num_users}-{self.num_items}-{self.seed}"
        return [f"{path.stem}-{key}{path.suffix}" for path in map(Path, super().processed_file_names)]

    def download(self) -> None:
        pass

    def read(self) -> Dataset:
        return synthetic_data(self.num_users, self.num_items, seed=self.seed)
