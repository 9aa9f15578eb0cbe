"""Use the layers in PyG's HeteroConv, and convert a homogeneous model with to_hetero.

python examples/hetero_conv.py [--data DATA]
"""

import torch
from lightgcn import load, train
from torch import Tensor, nn
from torch_geometric.nn import HeteroConv, to_hetero

from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, SIMILAR, item_features, modalities
from lirdrec_pyg.nn import BipartiteLGConv, ItemGraphConv, ModalityEncoder, unit_vectors
from lirdrec_pyg.transforms import AddItemKNN

graph = AddItemKNN(k=10)(load())
features = torch.cat([unit_vectors(item_features(graph, m).float()) for m in modalities(graph)], dim=1)


class Propagation(nn.Module):
    """Sum of three layers, written for a homogeneous graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = BipartiteLGConv(), BipartiteLGConv()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x1 = self.conv1(x, edge_index)
        x2 = self.conv2(x1, edge_index)
        return x + x1 + x2


clicks = {kind: graph[kind].edge_index for kind in (INTERACTS, INTERACTED_BY)}
propagation = to_hetero(Propagation(), (["user", "item"], list(clicks)))
neighbors = HeteroConv({SIMILAR: ItemGraphConv()})
user = nn.Embedding(graph["user"].num_nodes, 64)
nn.init.xavier_uniform_(user.weight)
encoder = ModalityEncoder(features.size(1), 64)


def embed() -> tuple[Tensor, Tensor]:
    x = {"user": user.weight, "item": encoder(features)}
    x = propagation(x, clicks)
    weight = {SIMILAR: graph[SIMILAR].edge_weight}
    item = neighbors(x, {SIMILAR: graph[SIMILAR].edge_index}, weight)["item"]
    return x["user"], item


train(embed, [*user.parameters(), *encoder.parameters()], graph)
