from functools import cached_property
from pathlib import Path

from lirdrec_pyg.data.graph import Split
from lirdrec_pyg.evaluation import (
    Bucket,
    RankingTask,
    check_cold_start,
    evaluate_cold_start,
    evaluate_ranker,
    evaluate_ranker_by_buckets,
)
from lirdrec_pyg.models import Neighbourhood, Vectors, attach_items, layerwise_vectors
from lirdrec_pyg.nn import DotProducts, Ranker
from lirdrec_pyg.training.passes import input_transform
from lirdrec_pyg.training.processes import resolve_device
from lirdrec_pyg.training.run import Run


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
        training_config = self.run.training_config()
        self._sampled = training_config.sampling == "neighbors"
        place = "cpu" if self._sampled else resolve_device(device)
        graph = self.run.graph().to(place)
        self.config = self.run.model_config()
        self.model = self.run.model(graph).to(place)
        self.data = input_transform(self.config, training_config)(graph)

    @cached_property
    def vectors(self) -> Vectors | None:
        """Of the users and the items of the training, from one pass over the graph; ``None`` if the model
        ranks otherwise."""
        return layerwise_vectors(self.model, self.data) if self._sampled else self.model.vectors(self.data)

    @cached_property
    def ranker(self) -> Ranker:
        """What ranks as the model does."""
        if self.vectors is None:
            ranker: Ranker = self.model.ranker(self.data)
            return ranker
        return DotProducts(self.vectors.user, self.vectors.item)

    @cached_property
    def _with_new_items(self) -> Vectors:
        k, vectors = self.run.lirdrec_config().knn_k, self.vectors
        assert vectors is not None
        neighbourhood = Neighbourhood.of(self.model, self.data, vectors)
        return attach_items(self.model, self.data, vectors, neighbourhood, k)

    def metrics(self, split: Split) -> dict[str, float]:
        """All items ranked, see :func:`~lirdrec_pyg.evaluation.evaluate_ranking`."""
        return evaluate_ranker(self.ranker, RankingTask.from_graph(self.data, split))

    def buckets(self, split: Split) -> list[Bucket]:
        """By user activity and item popularity, see :func:`~lirdrec_pyg.evaluation.evaluate_buckets`."""
        return evaluate_ranker_by_buckets(self.data, self.ranker, RankingTask.from_graph(self.data, split))

    def cold_start(self, split: Split) -> dict[str, dict[str, float]]:
        """Warm and new items, see :func:`~lirdrec_pyg.evaluation.evaluate_cold_start`."""
        check_cold_start(self.data)
        return evaluate_cold_start(self.data, self._with_new_items, split)
