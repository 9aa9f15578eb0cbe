from lirdrec_pyg.config import DataConfig
from lirdrec_pyg.data import RecommendationData, read_data
from lirdrec_pyg.datasets.base import ManualDownload


class TikTok(ManualDownload):
    """TikTok clicks with image and audio features (128 each), in the form that MMSSL published.

    ``raw/`` has to hold ``trnMat.pkl``, ``valMat.pkl``, ``tstMat.pkl`` (pickled SciPy matrices,
    read without executing what is in them), ``image_feat.npy`` and ``audio_feat.npy``; any other
    ``<modality>_feat.npy``, such as ``text_feat.npy``, is taken as well.

    Args:
        root: folder that holds ``raw/``.
        transform: applied at each access.
        pre_transform: applied once, before saving.
        force_reload: processes the raw files again.
    """

    origin = "the TikTok data that https://github.com/HKUDS/MMSSL links to"

    @property
    def raw_file_names(self) -> list[str]:
        return ["trnMat.pkl", "valMat.pkl", "tstMat.pkl", "image_feat.npy", "audio_feat.npy"]

    def read(self) -> RecommendationData:
        return read_data(DataConfig(data=self.raw_dir))
