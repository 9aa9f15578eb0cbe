"""Base classes of the data sets."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

from torch_geometric.data import HeteroData, InMemoryDataset

from lirdrec_pyg.data import Dataset, Vocabulary, load_graph, save_graph
from lirdrec_pyg.errors import DataError


class RecommendationDataset(InMemoryDataset):
    """One graph and its vocabularies; processed files are ``.safetensors`` and Parquet, never pickles.

    Args:
        root: folder that holds ``raw/``; ``processed/`` is created beside it.
        transform: applied at each access.
        pre_transform: applied once, before saving.
        force_reload: whether to process the raw files again.

    Attributes:
        users: user IDs by position.
        items: item IDs by position.
    """

    def __init__(
        self,
        root: str,
        transform: Callable[[HeteroData], HeteroData] | None = None,
        pre_transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
    ) -> None:
        super().__init__(root, transform, pre_transform, force_reload=force_reload, log=False)
        graph, users, items = (Path(path) for path in self.processed_paths)
        self._data = load_graph(graph)
        self.users = Vocabulary.load(users, "user")
        self.items = Vocabulary.load(items, "item")

    @property
    def processed_file_names(self) -> list[str]:
        return ["graph.safetensors", "users.parquet", "items.parquet"]

    @abstractmethod
    def read(self) -> Dataset:
        """Read or generate the data."""

    def process(self) -> None:
        data = self.read()
        graph = data.graph if self.pre_transform is None else self.pre_transform(data.graph)
        paths = [Path(path) for path in self.processed_paths]
        save_graph(graph, paths[0])
        data.users.save(paths[1])
        data.items.save(paths[2])


class ManualDownload(RecommendationDataset):
    """A data set that has no stable download URL."""

    origin: str

    def download(self) -> None:
        missing = [name for name in self.raw_file_names if not (Path(self.raw_dir) / name).is_file()]
        raise DataError(
            f"{type(self).__name__} has no {', '.join(missing)}. Download the files from {self.origin}, and put "
            f"them in {self.raw_dir}."
        )
