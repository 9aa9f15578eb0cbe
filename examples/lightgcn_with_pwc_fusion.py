"""Train one PyG LightGCN per modality, and fuse them per user by progressive weight copying.

    python examples/lightgcn_with_pwc_fusion.py [--data DATA]

Compared with examples/lightgcn.py, one model per modality, the fusion and its start_epoch are new. Each model has free
user vectors, and encodes its items as in examples/lightgcn_with_modality_items.py.
"""

import torch
from lightgcn import both_ways, load, train
from torch import Tensor, nn
from torch_geometric.nn import LightGCN

from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.nn import ModalityEncoder, ProgressiveWeightCopying, unit_vectors

graph = load()
num_users, num_items = graph["user"].num_nodes, graph["item"].num_nodes
edge_index = both_ways(graph)
features = [unit_vectors(item_features(graph, m).float()) for m in modalities(graph)]
models = nn.ModuleList(LightGCN(num_users, embedding_dim=32, num_layers=2) for _ in features)
encoders = nn.ModuleList(ModalityEncoder(x.size(1), 32) for x in features)
fusion = ProgressiveWeightCopying(num_users, len(features), channels=32)


def propagate(model: LightGCN, encoder: nn.Module, x: Tensor) -> Tensor:
    layers = [torch.cat([model.embedding.weight, encoder(x)])]
    for conv in model.convs:
        layers.append(conv(layers[-1], edge_index))
    return sum(alpha * layer for alpha, layer in zip(model.alpha, layers))


def embed() -> tuple[Tensor, Tensor]:
    nodes = torch.stack([propagate(*parts) for parts in zip(models, encoders, features)], dim=1)
    user, item = nodes.split([num_users, num_items])
    return fusion(user), item.flatten(start_dim=1)


parameters = [*models.parameters(), *encoders.parameters(), *fusion.parameters()]
train(embed, parameters, graph, start_epoch=fusion.start_epoch)
for name, weight in zip(modalities(graph), fusion.last_attention.mean(dim=0).tolist()):
    print(f"mean weight of {name}: {weight:.4f}")
