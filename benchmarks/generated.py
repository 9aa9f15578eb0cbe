"""Random graphs of any size for benchmarks. Nothing can be learned from their interactions."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import build_graph

# Users, items, interactions, and the width of each modality.
SIZES: dict[str, tuple[int, int, int, dict[str, int]]] = {
    "tiktok": (9_308, 6_710, 59_541, {"audio": 128, "image": 128}),
    "baby": (19_445, 7_050, 118_551, {"image": 4096, "text": 384}),
}
_BLOCK = 100_000
_TOPICS, _FACTORS, _SPREAD, _NOISE = 2000, 32, 0.7, 0.3
_MAX_HELD_OUT = 10_000


def generated_graph(num_users: int, num_items: int, num_interactions: int, widths: Mapping[str, int]) -> HeteroData:
    """Return a graph with about ``num_interactions`` training interactions and a long tail of items.

    Up to 10,000 users have one held-out item.
    """
    generator = torch.Generator().manual_seed(0)
    train, val = random_interactions(num_users, num_items, num_interactions, generator)
    features = {name: clustered_features(num_items, width, generator) for name, width in widths.items()}
    return build_graph(train, features, val=val, test=val, num_users=num_users)


def random_interactions(
    num_users: int, num_items: int, num_interactions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return training and held-out pairs (user, item)."""
    user = torch.randint(num_users, (num_interactions,), generator=generator)
    # Uniform to the power of 3: a tenth of the items have nearly half of the interactions.
    item = (num_items * torch.rand(num_interactions, generator=generator, dtype=torch.double) ** 3).long()
    # Every user and every item has at least one.
    user[: min(num_users, num_interactions)] = torch.arange(min(num_users, num_interactions))
    item[-min(num_items, num_interactions) :] = torch.arange(min(num_items, num_interactions))
    key = (user * num_items + item).unique()
    user, item = key // num_items, key % num_items
    held_out = torch.randperm(num_users, generator=generator)[:_MAX_HELD_OUT].sort().values
    val = torch.stack([held_out, torch.randint(num_items, held_out.shape, generator=generator)])
    return torch.stack([user, item]), val


def clustered_features(num_items: int, width: int, generator: torch.Generator) -> Tensor:
    """Return features like those of encoders: 32 latent factors around 2,000 topics, and noise."""
    topics = torch.randn(_TOPICS, _FACTORS, generator=generator)
    mixing = torch.randn(_FACTORS, width, generator=generator) / _FACTORS**0.5
    x = torch.empty(num_items, width)
    for rows in x.split(_BLOCK):
        topic = topics[torch.randint(_TOPICS, (len(rows),), generator=generator)]
        factor = topic + _SPREAD * torch.randn(len(rows), _FACTORS, generator=generator)
        torch.mm(factor, mixing, out=rows)
        rows += _NOISE * torch.randn(rows.shape, generator=generator)
    return x
