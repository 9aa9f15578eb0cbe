"""Metrics of the recommendations themselves: how popular, novel, personal and diverse they are."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredAveragePopularity,
    LinkPredDiversity,
    LinkPredMetricCollection,
    LinkPredPersonalization,
)
from torch_geometric.utils import degree, scatter

from lirdrec_pyg.data import feature_mask, item_features, modalities, training_interactions
from lirdrec_pyg.evaluation.metrics import CUTOFFS, RankingTask, ranking_metrics
from lirdrec_pyg.nn import Ranker, TopK

LIST_LENGTHS = (10, 20)
_CLUSTERS, _SAMPLE, _ITERATIONS = 32, 1024, 10


class Personalization(LinkPredPersonalization):
    r"""PyG's metric over all pairs of users, in linear time.

    Two lists with :math:`s` common items have a cosine similarity of :math:`s / k`. An item in :math:`e_i` lists is
    common to :math:`e_i (e_i - 1) / 2` pairs, so that for :math:`n` lists

    .. math::
        \text{personalization}@k = 1 - \frac{\sum_i e_i (e_i - 1)}{k \, n (n - 1)}.

    PyG computes the same from a sample of the pairs, in quadratic time.

    Args:
        k: number of items per list.
        num_dst_nodes: number of items.
    """

    exposure: Tensor

    def __init__(self, k: int, num_dst_nodes: int) -> None:
        super().__init__(k, max_src_nodes=None)
        self.register_buffer("exposure", torch.zeros(num_dst_nodes, dtype=torch.long), persistent=False)

    def update(self, pred_index_mat: Tensor, *labels: Tensor) -> None:
        self.exposure += pred_index_mat[:, : self.k].flatten().bincount(minlength=len(self.exposure))
        self.total += len(pred_index_mat)

    def compute(self) -> Tensor:
        """Return the metric, NaN for fewer than two lists."""
        common = (self.exposure * (self.exposure - 1)).sum()
        return 1 - common / (self.k * self.total * (self.total - 1))


def gini(exposure: Tensor) -> float:
    r"""Compute the Gini index of the number of lists that hold each item.

    With :math:`m` items in ascending order of :math:`e_i`, it is :math:`\sum_i (2 i - m - 1) \, e_i / (m \sum_i e_i)`:
    0 if all items are recommended equally often, :math:`1 - 1 / m` if only one is.

    Args:
        exposure: number of lists per item, shape ``(|I|,)``.
    """
    e, m = exposure.sort().values.double(), len(exposure)
    weight = 2 * torch.arange(1, m + 1, device=e.device) - m - 1
    return float((weight * e).sum() / (m * e.sum()))


def item_clusters(data: HeteroData) -> Tensor:
    """Cluster items into 32 categories by the direction of their features, see :class:`BeyondAccuracy`.

    This is spherical k-means with a fixed seed on the modality with the most features, whose centers are found on a
    sample of 1,024 items. Each item without features in that modality is a cluster of its own.

    Returns:
        Number of the cluster of each item, int64, shape ``(|I|,)``.
    """
    modality = max(modalities(data), key=lambda name: item_features(data, name).size(1))
    x, mask = item_features(data, modality), feature_mask(data, modality)
    known = torch.arange(len(x), device=x.device) if mask is None else mask.nonzero().flatten()
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    sample = F.normalize(x[known[order.to(x.device)]].float(), dim=1)
    center = sample[:_CLUSTERS]
    for _ in range(_ITERATIONS):
        nearest = (sample @ center.t()).argmax(dim=1)
        center = F.normalize(scatter(sample, nearest, dim_size=len(center), reduce="sum"), dim=1)
    cluster = torch.cat([(rows.float() @ center.t()).argmax(dim=1) for rows in x.split(_SAMPLE)])
    return cluster if mask is None else cluster.where(mask, -1 - torch.arange(len(x), device=x.device))


class BeyondAccuracy:
    r"""Collects metrics of ranked lists while they pass by.

    They are averages over the users with at least :math:`k` recommendations. A metric that has none is left out.

    * ``average_popularity``: mean number of training interactions of the recommended items, by
      :class:`~torch_geometric.metrics.LinkPredAveragePopularity`.
    * ``novelty``: mean self-information :math:`-\log_2 (p_i / |U|)` of the recommended items in bits, where
      :math:`p_i` is the number of training interactions of item :math:`i`, at least 1.
    * ``diversity``: share of the pairs of items in a list that differ in their category, by
      :class:`~torch_geometric.metrics.LinkPredDiversity`.
    * ``personalization``: mean over all pairs of users of the share of their lists that is not common, see
      :class:`Personalization`.
    * ``gini``: inequality of the number of recommendations per item, over all items, see :func:`gini`.

    Args:
        data: graph with the training interactions.
        category: category of each item, int64, shape ``(|I|,)``; by default :func:`item_clusters`.
        cutoffs: values of :math:`k`, at least 2.
    """

    def __init__(
        self, data: HeteroData, category: Tensor | None = None, cutoffs: tuple[int, ...] = LIST_LENGTHS
    ) -> None:
        edge_index, num_items = training_interactions(data), data["item"].num_nodes
        popularity = degree(edge_index[1], num_items)
        information = -(popularity.clamp_min(1) / data["user"].num_nodes).log2()
        category = item_clusters(data) if category is None else category
        self.metrics = {
            k: LinkPredMetricCollection(
                {
                    "average_popularity": LinkPredAveragePopularity(k, popularity),
                    "novelty": LinkPredAveragePopularity(k, information),
                    "diversity": LinkPredDiversity(k, category),
                    "personalization": Personalization(k, num_items),
                }
            ).to(edge_index.device)
            for k in cutoffs
        }

    def follow(self, blocks: Iterable[TopK]) -> Iterator[TopK]:
        """Yield the rankings unchanged, and collect their metrics."""
        for block in blocks:
            for k, metrics in self.metrics.items():
                if block.item.size(1) >= k:
                    # Excluded items, at minus infinity, come last.
                    metrics.update(block.item[block.score[:, k - 1] > -torch.inf, :k], ())
            yield block

    def compute(self) -> dict[str, float]:
        """Return ``{"diversity@10": ..., ...}``."""
        found: dict[str, float] = {}
        for k, metrics in self.metrics.items():
            exposure = metrics["personalization"].exposure
            if exposure.any():
                found |= {f"{name}@{k}": float(value) for name, value in metrics.compute().items()}
                found[f"gini@{k}"] = gini(exposure)
        return {name: value for name, value in found.items() if value == value}


def evaluate_splits(
    ranker: Ranker, tasks: Mapping[str, RankingTask], data: HeteroData, category: Tensor | None = None
) -> dict[str, Any]:
    """Evaluate a trained model on several splits, each in one pass over its rankings.

    Args:
        ranker: ranking function on the device of the tasks, such as ``model.ranker(data)``.
        tasks: users and held-out items by split.
        data: graph with the training interactions.
        category: category of each item, see :class:`BeyondAccuracy`.

    Returns:
        By split, the metrics of :func:`~lirdrec_pyg.evaluation.evaluate_ranking`; and as ``"beyond_accuracy"`` those of
        :class:`BeyondAccuracy`, also by split. Nothing without tasks.
    """
    if not tasks:
        return {}
    if category is None:
        category = item_clusters(data)
    found: dict[str, Any] = {}
    beyond: dict[str, dict[str, float]] = {}
    for name, task in tasks.items():
        lists = BeyondAccuracy(data, category)
        blocks = ranker.top_k(task.user_index, max(CUTOFFS), task.seen)
        found[name] = ranking_metrics(lists.follow(blocks), task)
        beyond[name] = lists.compute()
    return {**found, "beyond_accuracy": beyond}
