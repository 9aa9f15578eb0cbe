"""Add propagation over the item graph to PyG's LightGCN.

    python examples/lightgcn_with_item_graph.py [--data DATA]

Compared with examples/lightgcn.py, the item graph and the last line of embed are new.
"""

from lightgcn import both_ways, load, train
from torch import Tensor
from torch_geometric.nn import LightGCN

from lirdrec_pyg.data import SIMILAR
from lirdrec_pyg.nn import ItemGraphConv
from lirdrec_pyg.transforms import AddItemKNN

graph = AddItemKNN(k=10)(load())
num_users, num_items = graph["user"].num_nodes, graph["item"].num_nodes
edge_index = both_ways(graph)
model = LightGCN(num_users + num_items, embedding_dim=64, num_layers=2)
item_conv = ItemGraphConv()


def embed() -> tuple[Tensor, Tensor]:
    user, item = model.get_embedding(edge_index).split([num_users, num_items])
    return user, item_conv(item, graph[SIMILAR].edge_index, graph[SIMILAR].edge_weight)


train(embed, model.parameters(), graph)
