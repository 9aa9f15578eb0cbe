"""Generated data with a known truth."""

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data.graph import build_graph
from lirdrec_pyg.data.splits import split_interactions
from lirdrec_pyg.data.vocabulary import Vocabulary

# Latent factors that each modality shows: some in one alone, some in both.
_FACTORS = {"image": slice(0, 5), "text": slice(3, 8)}
_NUM_FACTORS = 8
_FEATURE_DIM = {"image": 64, "text": 48}
_NOISE_DIM = 16
_FEATURE_NOISE = 0.3
_SHARPNESS = 8.0
_POPULARITY_WEIGHT = 0.4
_USER_BLOCK = 1024


def generate(
    num_users: int = 2000,
    num_items: int = 1000,
    mean_interactions: float = 15.0,
    cold_share: float = 0.1,
    seed: int = 0,
) -> tuple[HeteroData, Vocabulary, Vocabulary, dict[str, str | int]]:
    r"""Generate a multimodal data set whose truth is known.

    Each item has 8 latent factors. ``image`` shows the first 5 of them, ``text`` the last 5, so 2 are
    in both; each modality mixes its factors linearly, adds noise, and has 16 further dimensions
    of noise. Each user has a taste over the factors, and trusts the modalities unevenly.
    A user interacts with items with a probability proportional to

    .. math::
        \exp(8 \cos(\mathrm{taste}_u, \mathrm{latent}_i) + 0.4 \log \mathrm{pop}_i)

    with a long-tailed popularity, and without replacement. The last ``cold_share`` of the items are
    cold: all interactions with them are for testing. The others are split 8:1:1 per user.

    The truth is kept as ``data["user"].taste``, ``data["item"].latent`` and
    ``data["item"].log_popularity``; :func:`true_scores` ranks by it.

    Args:
        num_users: number of users.
        num_items: number of items.
        mean_interactions: of a user, at least 6.
        cold_share: share of items without training interactions.
        seed: seed of all draws.

    Returns:
        Graph, user IDs, item IDs, and facts about the data.
    """
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((num_items, _NUM_FACTORS))
    taste = rng.standard_normal((num_users, _NUM_FACTORS))
    trust = rng.beta(0.7, 0.7, size=num_users)
    taste[:, : _FACTORS["text"].start] *= 2 * trust[:, None]
    taste[:, _FACTORS["image"].stop :] *= 2 * (1 - trust[:, None])
    popularity = rng.permutation(1.0 / np.arange(1, num_items + 1) ** 0.8)

    truth = HeteroData()
    truth["user"].taste, truth["item"].latent = (torch.from_numpy(_unit(x)).float() for x in (taste, latent))
    truth["item"].log_popularity = torch.from_numpy(np.log(popularity / popularity.mean())).float()
    count = np.minimum(6 + rng.geometric(1 / max(1.0, mean_interactions - 5), size=num_users) - 1, num_items // 4)
    pairs = _interactions(truth, torch.from_numpy(count), seed)

    cold = pairs[1] >= num_items - int(cold_share * num_items)
    warm = split_interactions(pl.DataFrame({"user": pairs[0, ~cold], "item": pairs[1, ~cold]}), "random", seed)
    warm_label = warm["label"].to_numpy()
    splits = [pairs[:, ~cold][:, warm_label == label] for label in (0, 1, 2)]
    splits[2] = np.concatenate([splits[2], pairs[:, cold]], axis=1)

    graph = build_graph(splits[0], _features(latent, rng), val=splits[1], test=splits[2], num_users=num_users)
    for kind in ("user", "item"):
        graph[kind].update(truth[kind].to_dict())
    facts: dict[str, str | int] = {
        "source": "synthetic",
        "split": f"random, seed {seed}",
        "cold items": int(cold_share * num_items),
    }
    users = Vocabulary(pl.Series([f"user-{n}" for n in range(num_users)]), "user")
    items = Vocabulary(pl.Series([f"item-{n}" for n in range(num_items)]), "item")
    return graph, users, items, facts


def true_scores(data: HeteroData, user_index: Tensor) -> Tensor:
    """Scores of all items by the planted truth, shape ``(len(user_index), num_items)``."""
    affinity = data["user"].taste[user_index] @ data["item"].latent.t()
    return _SHARPNESS * affinity + _POPULARITY_WEIGHT * data["item"].log_popularity


def _interactions(truth: HeteroData, count: Tensor, seed: int) -> np.ndarray:
    """Pairs drawn without replacement, ``count`` a user: the largest of score + Gumbel noise."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for block in torch.arange(len(count)).split(_USER_BLOCK):
        scores = true_scores(truth, block)
        noise = torch.empty_like(scores).exponential_(generator=generator).log().neg()
        order = (scores + noise).topk(int(count[block].max()), dim=1).indices
        kept = torch.arange(order.size(1)) < count[block].unsqueeze(1)
        found.append(torch.stack([block.unsqueeze(1).expand_as(order)[kept], order[kept]]))
    return torch.cat(found, dim=1).numpy()


def _features(latent: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    features = {}
    for modality, factors in _FACTORS.items():
        shown = latent[:, factors]
        mixing = rng.standard_normal((shown.shape[1], _FEATURE_DIM[modality])) / shown.shape[1] ** 0.5
        signal = shown @ mixing + _FEATURE_NOISE * rng.standard_normal((len(latent), _FEATURE_DIM[modality]))
        noise = rng.standard_normal((len(latent), _NOISE_DIM))
        features[modality] = np.concatenate([signal, noise], axis=1).astype(np.float32)
    return features


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)
