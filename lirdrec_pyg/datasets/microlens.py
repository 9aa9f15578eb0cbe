from lirdrec_pyg.data import Dataset
from lirdrec_pyg.datasets.base import ManualDownload


class MicroLens(ManualDownload):
    """MicroLens, clicks on short videos, in MMRec layout with image and text features.

    ``raw/`` must hold ``microlens.inter``, ``image_feat.npy`` and ``text_feat.npy``; any other
    ``<modality>_feat.npy`` beside them, such as ``video_feat.npy``, is used as well.

    Its arguments are those of :class:`~lirdrec_pyg.datasets.base.RecommendationDataset`.
    """

    origin = "the data folder that https://github.com/enoche/MMRec links to"

    @property
    def raw_file_names(self) -> list[str]:
        return ["microlens.inter", "image_feat.npy", "text_feat.npy"]

    def read(self) -> Dataset:
        return Dataset.from_path(self.raw_paths[0])
