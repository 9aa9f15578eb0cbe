from pathlib import Path

from lirdrec_pyg.data.graph import Split
from lirdrec_pyg.evaluation import Bucket, RankingTask, evaluate_buckets, evaluate_cold_start, evaluate_model
from lirdrec_pyg.models import LIRDRec, model_vectors
from lirdrec_pyg.training.run import Run
from lirdrec_pyg.training.trainer import resolve_device


class RunEvaluator:
    """Figures of the best model of a run, from what the run folder holds.

    Args:
        run: a run, or its folder.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        RunError: if the run is damaged or was changed.
    """

    def __init__(self, run: Run | str | Path, device: str = "auto") -> None:
        self.run = run if isinstance(run, Run) else Run.open(run)
        self.run.check()
        place = resolve_device(device)
        graph = self.run.graph().to(place)
        self.config = self.run.model_config()
        self.model = self.run.model(graph).to(place)
        self.data = LIRDRec.input_transform(self.config, self.run.training_config().sparse_backend)(graph)

    def metrics(self, split: Split) -> dict[str, float]:
        """All items ranked, see :func:`~lirdrec_pyg.evaluation.evaluate_ranking`."""
        return evaluate_model(self.model, self.data, RankingTask.from_graph(self.data, split))

    def buckets(self, split: Split) -> list[Bucket]:
        """By user activity and item popularity, see :func:`~lirdrec_pyg.evaluation.evaluate_buckets`."""
        vectors = self.model.vectors(self.data)
        return evaluate_buckets(self.data, vectors.user, vectors.item, RankingTask.from_graph(self.data, split))

    def cold_start(self, split: Split) -> dict[str, dict[str, float]]:
        """Warm and new items, see :func:`~lirdrec_pyg.evaluation.evaluate_cold_start`."""
        return evaluate_cold_start(self.data, model_vectors(self.model, self.data, self.config.knn_k), split)
