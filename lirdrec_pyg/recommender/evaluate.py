import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lirdrec_pyg.data import HELD_OUT, Split, held_out_edges
from lirdrec_pyg.devices import resolve_device
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.evaluation import (
    Bucket,
    RankingTask,
    check_cold_start,
    evaluate_buckets,
    evaluate_cold_start,
    evaluate_ranker,
    evaluate_splits,
)
from lirdrec_pyg.models import ItemRegression, Vectors, attach_items
from lirdrec_pyg.nn import DotProducts, Ranker
from lirdrec_pyg.recommender.columns import numbered
from lirdrec_pyg.training import input_transform

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender


class Evaluator:
    """Computes metrics of a recommender from the weights of its model.

    Args:
        recommender: recommender to evaluate.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        category: column of the item catalog with the categories of the diversity; by default clusters of the features,
            see :func:`~lirdrec_pyg.evaluation.item_clusters`.

    Raises:
        ConfigError: if there is no such column.
        DataError: if the model was trained on all interactions.
    """

    def __init__(self, recommender: "Recommender", device: str = "cpu", category: str | None = None) -> None:
        if not any(held_out_edges(recommender.graph, split).numel() for split in HELD_OUT):
            refit = recommender.training_config.refit
            raise DataError(
                "The model was trained on all interactions, so none are left to evaluate it on."
                f"{' The metrics in metrics.json are those of the training before, which held some out.' * refit}"
            )
        self._category = None
        if category is not None:
            self._category = numbered(recommender, [category], "category")[0, : recommender.num_trained_items]
        config = recommender.training_config
        self._sampled = config.sampling == "neighbors"
        place = "cpu" if self._sampled else resolve_device(device)
        self.model = recommender.model_on(place)
        self._regression = recommender.regression and recommender.regression.to(place)
        self.data = input_transform(recommender.model_config, config)(copy.copy(recommender.graph).to(place))

    @cached_property
    def vectors(self) -> Vectors | None:
        """Vectors of users and trained items, from one pass; ``None`` if scores are not dot products."""
        return self.model.layerwise_vectors(self.data) if self._sampled else self.model.vectors(self.data)

    @cached_property
    def ranker(self) -> Ranker:
        """Ranking function of the model."""
        if self.vectors is None:
            return self.model.ranker(self.data)
        return DotProducts(self.vectors.user, self.vectors.item)

    @cached_property
    def _with_new_items(self) -> Vectors:
        vectors = self.vectors
        assert vectors is not None
        regression = self._regression or ItemRegression.of(self.model, self.data, vectors)
        return attach_items(self.model, self.data, vectors, regression)

    def metrics(self, split: Split | str) -> dict[str, float]:
        """Rank all items, see :func:`~lirdrec_pyg.evaluation.evaluate_ranking`."""
        return evaluate_ranker(self.ranker, RankingTask.from_graph(self.data, split))

    def all_metrics(self, split: Split | str) -> dict[str, Any]:
        """Rank all items, see :func:`~lirdrec_pyg.evaluation.evaluate_splits`."""
        task = RankingTask.from_graph(self.data, split)
        category = None if self._category is None else self._category.to(task.user_index.device)
        return evaluate_splits(self.ranker, {Split(split).value: task}, self.data, category)

    def buckets(self, split: Split | str) -> list[Bucket]:
        """Compute metrics by user activity and item popularity, see :class:`~lirdrec_pyg.evaluation.Bucket`."""
        return evaluate_buckets(self.data, self.ranker, RankingTask.from_graph(self.data, split))

    def cold_start(self, split: Split | str) -> dict[str, dict[str, float]]:
        """Rank warm and new items, see :func:`~lirdrec_pyg.evaluation.evaluate_cold_start`."""
        check_cold_start(self.data)
        return evaluate_cold_start(self.data, self._with_new_items, split)
