"""Whether two rankings differ by more than chance: metrics per user, paired bootstrap, Holm's correction."""

import torch
from torch import Tensor

from lirdrec_pyg.evaluation.metrics import RankingTask
from lirdrec_pyg.nn import Ranker

_BLOCK_COUNTS = 2**22


def metrics_by_user(ranker: Ranker, task: RankingTask, k: int) -> dict[str, Tensor]:
    """Compute Recall and NDCG of each user, whose means are those of :func:`~lirdrec_pyg.evaluation.evaluate_ranker`.

    Args:
        ranker: ranking function on the device of ``task``, such as ``model.ranker(data)``.
        task: users and held-out items.
        k: number of items per user.

    Returns:
        ``{"recall@k": ..., "ndcg@k": ...}``, each float32, shape ``(N,)``, in the order of ``task.user_index``.
    """
    row, item = task.label_index
    pairs = row * task.num_items + item
    count = row.bincount(minlength=len(task.user_index))
    discount = torch.arange(2, k + 2, device=row.device).float().log2().reciprocal()
    hits, gains = [], []
    for block in ranker.top_k(task.user_index, k, task.seen):
        rows = torch.arange(block.rows.start, block.rows.stop, device=row.device).unsqueeze(1)
        # Seen items, which come last, are never held out.
        hit = torch.isin(rows * task.num_items + block.item, pairs).float()
        hits.append(hit.sum(dim=1))
        gains.append(hit @ discount[: hit.size(1)])
    ideal = discount.cumsum(0)[count.clamp(max=k) - 1]
    return {f"recall@{k}": torch.cat(hits) / count, f"ndcg@{k}": torch.cat(gains) / ideal}


def paired_bootstrap(a: Tensor, b: Tensor, num_resamples: int = 10_000, seed: int = 0) -> Tensor:
    r"""Test whether the mean of ``a`` differs from that of ``b``, by a bootstrap over users, two-sided.

    With the differences :math:`d_u = a_u - b_u` of :math:`N` users, their mean :math:`\bar{d}`, and the means
    :math:`\bar{d}^*_r` of :math:`R` resamples of :math:`N` users with replacement ("An Introduction to the Bootstrap",
    Efron and Tibshirani, 1993, chapter 16):

    .. math::
        p = \frac{1 + |\{r : |\bar{d}^*_r - \bar{d}| \geq |\bar{d}|\}|}{1 + R}

    All rows of ``a`` share the resamples, so that a result does not depend on the other rows.

    Args:
        a: metric of each user, averaged over seeds if there are several, shape ``(*, N)``.
        b: metric of the same users for what ``a`` is compared with, shape ``(N,)``.
        num_resamples: :math:`R`.
        seed: random seed of the resamples.

    Returns:
        p-values of at least :math:`1 / (1 + R)`, float64, shape ``(*)``.
    """
    difference = a.double() - b.double()
    num_users = difference.size(-1)
    mean = difference.mean(dim=-1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    extreme = torch.zeros_like(mean[..., 0])
    block = max(1, _BLOCK_COUNTS // num_users)
    for first in range(0, num_resamples, block):
        user = torch.randint(num_users, (min(block, num_resamples - first), num_users), generator=generator)
        # How often a resample has a user: a product with these counts is faster than gathering for each row.
        count = torch.zeros(user.shape, dtype=torch.float64).scatter_(1, user, 1.0, reduce="add").to(mean.device)
        resampled = (difference - mean) @ count.t() / num_users
        extreme += (resampled.abs() >= mean.abs()).sum(dim=-1)
    return (1 + extreme) / (1 + num_resamples)


def holm(p: Tensor) -> Tensor:
    r"""Correct the p-values of several tests by `Holm's method <https://www.jstor.org/stable/4615733>`_.

    With :math:`p_{(1)} \leq \dots \leq p_{(n)}`, it returns
    :math:`\tilde{p}_{(i)} = \max_{j \leq i} \min(1, (n - j + 1) p_{(j)})`. Rejecting where it is at most
    :math:`\alpha` makes any false rejection at most as likely as :math:`\alpha`, however the tests depend.

    Args:
        p: p-values, shape ``(n,)``.

    Returns:
        Corrected p-values in the same order, shape ``(n,)``.
    """
    ascending, order = p.sort()
    steps = torch.arange(len(p), 0, -1, device=p.device)
    corrected = (steps * ascending).cummax(dim=0).values.clamp(max=1)
    return torch.empty_like(p).scatter(0, order, corrected)
