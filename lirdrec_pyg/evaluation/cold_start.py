"""Evaluation of the ranking of new items, which were not part of the training."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import scatter

from lirdrec_pyg.data import (
    HELD_OUT,
    INTERACTS,
    NEW_ITEM,
    Split,
    feature_mask,
    held_out_edges,
    item_features,
    known_interactions,
    modalities,
    new_item_edges,
)
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.evaluation.metrics import CUTOFFS, RankingTask, evaluate_ranking, ranking_metrics, trained_users_only
from lirdrec_pyg.models import Vectors
from lirdrec_pyg.nn import DotProducts, SeenItems, TopK, share_in_lists

_RANDOM_WIDTH = 64
_BLOCK_BYTES = 64 * 2**20


def evaluate_cold_start(
    data: HeteroData, vectors: Vectors, split: Split | str, seed: int = 0
) -> dict[str, dict[str, float]]:
    r"""Rank warm and new items, separately and together, for the users with training interactions.

    The candidates are the new items of all splits.

    Args:
        data: graph with new items that were held out by ``split='cold-items'``.
        vectors: vectors of the users and of the items, followed by the new items.
        split: split with the held-out interactions.
        seed: random seed of the random ranking.

    Returns:
        The metrics of :func:`evaluate_ranking` for each of

        * ``warm``: interactions with warm items, ranked among the warm items; missing if there are none;
        * ``warm among all``: the same, ranked among all items; missing if there are none;
        * ``cold``: interactions with new items, ranked among the new items;
        * ``all``: both, ranked among all items;
        * ``cold among all``: interactions with new items, ranked among all items. Besides, ``offered@20`` is the share
          of new items in the 20 best items of the users of ``all``, and ``interacted`` their share of all interactions,
          those for training and held-out ones;
        * ``cold, random``: like ``cold``, for a random ranking;
        * ``cold, content``: like ``cold``, ranked by the similarity to the most similar training item of the user,
          as the mean of the cosines of all modalities.

    Raises:
        DataError: if there are no users to evaluate.
    """
    pairs = _held_out_pairs(data, split)
    num_users, num_warm, num_items = data["user"].num_nodes, data["item"].num_nodes, len(vectors.item)
    seen = SeenItems.of(data[INTERACTS].edge_index, num_users)
    warm = trained_users_only(held_out_edges(data, split), data)
    cold_task = RankingTask.of(pairs, None, num_items - num_warm)
    among_all = torch.stack([pairs[0], pairs[1] + num_warm])
    user, item, new = vectors.user, vectors.item, vectors.item[num_warm:]
    # Rankings by random vectors are random permutations.
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(size, _RANDOM_WIDTH, generator=generator).to(user) for size in (num_users, len(new))]
    warm_metrics = {}
    if warm.numel():
        warm_metrics = {
            "warm": evaluate_ranking(user, item[:num_warm], RankingTask.of(warm, seen, num_warm)),
            "warm among all": evaluate_ranking(user, item, RankingTask.of(warm, seen, num_items)),
        }
    all_task = RankingTask.of(torch.cat([warm, among_all], dim=1), seen, num_items)
    is_new = torch.arange(num_items, device=item.device) >= num_warm
    lists = DotProducts(user, item).top_k(all_task.user_index, 20, seen)
    shares = {
        "offered@20": share_in_lists(lists, is_new),
        "interacted": float(is_new[known_interactions(data)[1]].float().mean()),
    }
    return {
        **warm_metrics,
        "cold": evaluate_ranking(user, new, cold_task),
        "all": evaluate_ranking(user, item, all_task),
        "cold among all": evaluate_ranking(user, item, RankingTask.of(among_all, seen, num_items)) | shares,
        "cold, random": evaluate_ranking(noise[0], noise[1], cold_task),
        "cold, content": ranking_metrics(_rank_by_content(data, cold_task, seen), cold_task),
    }


def check_cold_start(data: HeteroData) -> None:
    """Raise :class:`DataError` if there are no users for :func:`evaluate_cold_start` in one of the splits."""
    for split in HELD_OUT:
        _held_out_pairs(data, split)


def _held_out_pairs(data: HeteroData, split: Split | str) -> Tensor:
    pairs = new_item_edges(data, split)
    if pairs is None:
        raise DataError("The data have no held-out new items to evaluate. Train with `split='cold-items'`.")
    pairs = trained_users_only(pairs, data)
    if not pairs.numel():
        raise DataError(
            f"No user of the {Split(split).title} split has both training interactions and interactions with the "
            "held-out items. Provide more data, or change `cold_fraction`."
        )
    return pairs


def _rank_by_content(data: HeteroData, task: RankingTask, history: SeenItems) -> Iterator[TopK]:
    """Rank the new items by their similarity to the most similar training item of the user."""
    new, warm = _unit_features(data, NEW_ITEM), _unit_features(data, "item")
    mean_history = len(history.item) / data["user"].num_nodes
    block = max(1, int(_BLOCK_BYTES / (4 * len(new) * (1 + mean_history))))
    for first in range(0, len(task.user_index), block):
        rows = slice(first, min(first + block, len(task.user_index)))
        row, item = history.pairs(task.user_index[rows])
        item, position = item.unique(return_inverse=True)
        similarity = warm[item] @ new.t()
        nearest = scatter(similarity[position], row, dim_size=rows.stop - rows.start, reduce="max")
        yield TopK(rows, *nearest.topk(min(max(CUTOFFS), len(new)), dim=1))


def _unit_features(data: HeteroData, node_type: str) -> Tensor:
    """Concatenate all modalities, scaled so that the product of two rows is the mean of their cosines."""
    names = modalities(data)
    units = []
    for modality in names:
        x = F.normalize(item_features(data, modality, node_type).float(), dim=1)
        mask = feature_mask(data, modality, node_type)
        units.append(x if mask is None else x * mask.unsqueeze(1))
    return torch.cat(units, dim=1) / len(names) ** 0.5
