"""Train PyG's own LightGCN with a free vector per user and item. The examples lightgcn_with_*.py extend it.

    python examples/lightgcn.py [--data DATA]

DATA is a folder or file, as for `lirdrec-pyg fit`; by default generated data.
"""

import argparse
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData
from torch_geometric.nn import LightGCN

from lirdrec_pyg import Dataset
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.errors import LIRDRecError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.nn import BPRLoss
from lirdrec_pyg.sampler import BPRSampler

Embed = Callable[[], tuple[Tensor, Tensor]]


def load() -> HeteroData:
    """Return the graph of --data."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="synthetic")
    seed_everything(0)
    try:
        return Dataset.from_path(parser.parse_args().data).graph
    except LIRDRecError as error:
        parser.error(str(error))


def both_ways(graph: HeteroData) -> Tensor:
    """Return the interactions as edges of a homogeneous graph with users first, as in LightGCN."""
    user, item = graph[INTERACTS].edge_index
    item = item + graph["user"].num_nodes
    return torch.stack([torch.cat([user, item]), torch.cat([item, user])])


def recall(embed: Embed, graph: HeteroData) -> float:
    """Return Recall@20 on the test split, with all items ranked."""
    with torch.no_grad():
        return evaluate_ranking(*embed(), RankingTask.from_graph(graph, "test"))["recall@20"]


def train(
    embed: Embed,
    parameters: Iterable[Parameter],
    graph: HeteroData,
    start_epoch: Callable[[], object] = lambda: None,
    epochs: int = 5,
) -> None:
    """Train the vectors of users and items that ``embed`` returns with BPR."""
    print(f"test Recall@20 before: {recall(embed, graph):.4f}")
    sampler = BPRSampler(graph[INTERACTS].edge_index, graph["user"].num_nodes, graph["item"].num_nodes)
    loss_function, optimizer = BPRLoss(reg_weight=1e-4), torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(epochs):
        start_epoch()
        for u, i, j in (triples.unbind() for triples in sampler.sample_epoch().split(4096, dim=1)):
            user, item = embed()
            loss = loss_function((user[u] * item[i]).sum(dim=1), (user[u] * item[j]).sum(dim=1), user, item)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"test Recall@20 after:  {recall(embed, graph):.4f}")


if __name__ == "__main__":
    graph = load()
    num_users, num_items = graph["user"].num_nodes, graph["item"].num_nodes
    edge_index = both_ways(graph)
    model = LightGCN(num_users + num_items, embedding_dim=64, num_layers=2)

    def embed() -> tuple[Tensor, Tensor]:
        user, item = model.get_embedding(edge_index).split([num_users, num_items])
        return user, item

    train(embed, model.parameters(), graph)
