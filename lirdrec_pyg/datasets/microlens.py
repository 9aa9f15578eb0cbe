from lirdrec_pyg.config import DataConfig
from lirdrec_pyg.data import RecommendationData, read_data
from lirdrec_pyg.datasets.base import ManualDownload


class MicroLens(ManualDownload):
    """MicroLens, clicks on short videos, in MMRec layout with image and text features.

    ``raw/`` has to hold ``microlens.inter``, ``image_feat.npy`` and ``text_feat.npy``; any other
    ``<modality>_feat.npy`` beside them, such as ``video_feat.npy``, is taken as well.

    Args:
        root: folder that holds ``raw/``.
        transform: applied at each access.
        pre_transform: applied once, before saving.
        force_reload: processes the raw files again.
    """

    origin = "the data folder that https://github.com/enoche/MMRec links to"

    @property
    def raw_file_names(self) -> list[str]:
        return ["microlens.inter", "image_feat.npy", "text_feat.npy"]

    def read(self) -> RecommendationData:
        return read_data(DataConfig(data=self.raw_paths[0]))
