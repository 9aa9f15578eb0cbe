from typing import Any

import torch
from torch_geometric.utils import degree

from lirdrec_pyg.data.graph import INTERACTS, feature_mask, held_out_edges, item_features, modalities
from lirdrec_pyg.data.readers import RecommendationData


def summarize(data: RecommendationData) -> dict[str, Any]:
    """Facts about a data set, for people.

    Cold items are those without training interactions, cold users likewise.
    """
    graph = data.graph
    edge_index = graph[INTERACTS].edge_index
    num_users, num_items = graph["user"].num_nodes, graph["item"].num_nodes
    val, test = held_out_edges(graph, "val"), held_out_edges(graph, "test")
    user_degree = degree(edge_index[0], num_users, dtype=torch.long)
    item_degree = degree(edge_index[1], num_items, dtype=torch.long)
    total = edge_index.size(1) + val.size(1) + test.size(1)
    facts: dict[str, Any] = {
        **data.facts,
        "users": num_users,
        "items": num_items,
        "interactions": total,
        "training": edge_index.size(1),
        "validation": val.size(1),
        "test": test.size(1),
        "sparsity": f"{1 - total / (num_users * num_items):.4%}",
        "interactions a user": _spread(user_degree),
        "interactions an item": _spread(item_degree),
        "cold users": int((user_degree == 0).sum()),
        "cold items": int((item_degree == 0).sum()),
        "test pairs with cold items": int((item_degree[test[1]] == 0).sum()),
    }
    for modality in modalities(graph):
        x, mask = item_features(graph, modality), feature_mask(graph, modality)
        missing = 0 if mask is None else int((~mask).sum())
        facts[f"modality {modality}"] = (
            f"width {x.size(1)}, {str(x.dtype).removeprefix('torch.')}, {missing} items without"
        )
    return facts


def _spread(count: torch.Tensor) -> str:
    return f"mean {count.float().mean():.1f}, median {int(count.median())}, largest {int(count.max())} in training"
