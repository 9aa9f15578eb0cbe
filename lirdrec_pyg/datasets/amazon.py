from collections.abc import Callable
from typing import Literal, get_args

from torch_geometric.data import HeteroData

from lirdrec_pyg.data import Dataset
from lirdrec_pyg.datasets.base import ManualDownload
from lirdrec_pyg.errors import ConfigError

AmazonName = Literal["baby", "sports", "clothing", "elec"]


class AmazonReviews(ManualDownload):
    """Amazon reviews of one category with image (4,096) and text (384) features, 5-core, split 8:1:1.

    The files are those of the MMRec project: ``<name>.inter``, ``image_feat.npy`` and
    ``text_feat.npy``, all in ``raw/``.

    Args:
        root: folder of this category; it holds ``raw/``.
        name: ``"baby"``, ``"sports"``, ``"clothing"`` or ``"elec"``.
        transform: applied at each access.
        pre_transform: applied once, before saving.
        force_reload: whether to process the raw files again.
    """

    origin = "the data folder that https://github.com/enoche/MMRec links to"

    def __init__(
        self,
        root: str,
        name: AmazonName,
        transform: Callable[[HeteroData], HeteroData] | None = None,
        pre_transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
    ) -> None:
        if name not in get_args(AmazonName):
            raise ConfigError(
                f"AmazonReviews has no category {name!r}. Choose one of {', '.join(get_args(AmazonName))}."
            )
        self.name = name
        super().__init__(root, transform, pre_transform, force_reload)

    @property
    def raw_file_names(self) -> list[str]:
        return [f"{self.name}.inter", "image_feat.npy", "text_feat.npy"]

    def read(self) -> Dataset:
        return Dataset.from_path(self.raw_paths[0])
