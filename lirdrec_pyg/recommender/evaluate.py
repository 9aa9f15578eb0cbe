import copy
from functools import cached_property
from typing import TYPE_CHECKING

from lirdrec_pyg.data import Split
from lirdrec_pyg.devices import resolve_device
from lirdrec_pyg.evaluation import (
    Bucket,
    RankingTask,
    check_cold_start,
    evaluate_buckets,
    evaluate_cold_start,
    evaluate_ranker,
)
from lirdrec_pyg.models import Neighborhood, Vectors, attach_items
from lirdrec_pyg.nn import DotProducts, Ranker
from lirdrec_pyg.training import input_transform

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender


class Evaluator:
    """Computes metrics of a recommender from the weights of its model.

    Args:
        recommender: recommender to evaluate.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, recommender: "Recommender", device: str = "cpu") -> None:
        self.config = recommender.model_config
        self._sampled = recommender.training_config.sampling == "neighbors"
        place = "cpu" if self._sampled else resolve_device(device)
        self.model = recommender.model_on(place)
        self.data = input_transform(self.config, recommender.training_config)(copy.copy(recommender.graph).to(place))

    @cached_property
    def vectors(self) -> Vectors | None:
        """Vectors of users and trained items, from one pass; ``None`` if scores are not dot products."""
        return self.model.layerwise_vectors(self.data) if self._sampled else self.model.vectors(self.data)

    @cached_property
    def ranker(self) -> Ranker:
        """Ranking function of the model."""
        if self.vectors is None:
            ranker: Ranker = self.model.ranker(self.data)
            return ranker
        return DotProducts(self.vectors.user, self.vectors.item)

    @cached_property
    def _with_new_items(self) -> Vectors:
        vectors = self.vectors
        assert vectors is not None
        return attach_items(self.model, self.data, vectors, Neighborhood.of(self.model, self.data, vectors))

    def metrics(self, split: Split | str) -> dict[str, float]:
        """Rank all items, see :func:`~lirdrec_pyg.evaluation.evaluate_ranking`."""
        return evaluate_ranker(self.ranker, RankingTask.from_graph(self.data, split))

    def buckets(self, split: Split | str) -> list[Bucket]:
        """Compute metrics by user activity and item popularity, see :class:`~lirdrec_pyg.evaluation.Bucket`."""
        return evaluate_buckets(self.data, self.ranker, RankingTask.from_graph(self.data, split))

    def cold_start(self, split: Split | str) -> dict[str, dict[str, float]]:
        """Rank warm and new items, see :func:`~lirdrec_pyg.evaluation.evaluate_cold_start`."""
        check_cold_start(self.data)
        return evaluate_cold_start(self.data, self._with_new_items, split)
