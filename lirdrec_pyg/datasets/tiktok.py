from lirdrec_pyg.data import Dataset
from lirdrec_pyg.datasets.base import ManualDownload


class TikTok(ManualDownload):
    """TikTok clicks with image and audio features (128 each), in the form that MMSSL published.

    ``raw/`` must hold ``trnMat.pkl``, ``valMat.pkl``, ``tstMat.pkl`` (pickled SciPy matrices,
    of which nothing is executed), ``image_feat.npy`` and ``audio_feat.npy``; any other
    ``<modality>_feat.npy``, such as ``text_feat.npy``, is used as well.

    Its arguments are those of :class:`~lirdrec_pyg.datasets.base.RecommendationDataset`.
    """

    origin = "the TikTok data that https://github.com/HKUDS/MMSSL links to"

    @property
    def raw_file_names(self) -> list[str]:
        return ["trnMat.pkl", "valMat.pkl", "tstMat.pkl", "image_feat.npy", "audio_feat.npy"]

    def read(self) -> Dataset:
        return Dataset.from_path(self.raw_dir)
