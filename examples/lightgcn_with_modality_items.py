"""Replace the free item vectors of PyG's LightGCN with encoded features.

    python examples/lightgcn_with_modality_items.py [--data DATA]

Compared with examples/lightgcn.py, ModalityItems and the line that sets `model.embedding` are new.
"""

import torch
from lightgcn import both_ways, load, train
from torch import Tensor, nn
from torch_geometric.nn import LightGCN

from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.nn import ModalityEncoder, unit_vectors


class ModalityItems(nn.Module):
    """Replaces an Embedding of users and items."""

    def __init__(self, num_users: int, features: Tensor, embedding_dim: int) -> None:
        super().__init__()
        self.user = nn.Embedding(num_users, embedding_dim)
        nn.init.xavier_uniform_(self.user.weight)
        self.encoder = ModalityEncoder(features.size(1), embedding_dim)
        self.register_buffer("features", features)

    @property
    def weight(self) -> Tensor:
        return torch.cat([self.user.weight, self.encoder(self.features)])


graph = load()
num_users, num_items = graph["user"].num_nodes, graph["item"].num_nodes
edge_index = both_ways(graph)
features = torch.cat([unit_vectors(item_features(graph, m).float()) for m in modalities(graph)], dim=1)
model = LightGCN(num_users + num_items, embedding_dim=64, num_layers=2)
model.embedding = ModalityItems(num_users, features, embedding_dim=64)


def embed() -> tuple[Tensor, Tensor]:
    user, item = model.get_embedding(edge_index).split([num_users, num_items])
    return user, item


train(embed, model.parameters(), graph)
