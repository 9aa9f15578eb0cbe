"""The equations of LIRDRec one by one, in dense float64 matrices, from the weights of a model."""

from collections.abc import Mapping, Sequence

import scipy.fft
import torch
from small_graph import interactions, linear, normalized
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import NEW_ITEM, feature_mask, item_features
from lirdrec_pyg.models import LIRDRec


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def knn(x: Tensor, k: int) -> Tensor:
    similarity = unit(x) @ unit(x).T
    return torch.zeros_like(similarity).scatter(1, similarity.topk(k, dim=1).indices, 1 / (k + 1e-7))


class DenseLIRDRec:
    """Args:
    model: a model of modalities and a shared branch, in float64.
    graph: its graph, as ``graph_transform`` leaves it.
    """

    def __init__(self, model: LIRDRec, graph: HeteroData) -> None:
        self.model, self.graph, self.taken = model, graph, interactions(graph)
        self.num_users, self.num_items = self.taken.shape

    def similar(self, k: int, shares: Mapping[str, float]) -> Tensor:
        """S, from the features."""
        return sum(share * knn(item_features(self.graph, name).double(), k) for name, share in shares.items())

    def encoded(self, node_type: str = "item") -> Tensor:
        """H, shape (|I|, B, d)."""
        xs = [item_features(self.graph, name, node_type).double() for name in self.model.in_channels]
        axes = (1,) if self.model.dct.mode == "feature" else (0, 1)
        xs.append(torch.cat([torch.from_numpy(scipy.fft.dctn(x.numpy(), norm="ortho", axes=axes)) for x in xs], dim=1))
        return torch.stack(
            [unit(leaky(linear(x, e.lin1)) @ e.lin2.weight.T) for x, e in zip(xs, self.model.encoders, strict=True)], 1
        )

    def layers(self) -> list[Tensor]:
        """E of each layer, users above items, branches side by side."""
        layers = [torch.cat([unit(self.model.user), self.encoded()]).flatten(1)]
        for _ in range(self.model.bipartite_conv.num_layers):
            layers.append(normalized(self.taken) @ layers[-1])
        return layers

    def item_layers(self) -> Tensor:
        return torch.stack([layer[self.num_users :] for layer in self.layers()])

    def forward(self, k: int, shares: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        total = sum(self.layers())
        user, item = total[: self.num_users], total[self.num_users :]
        item = item + torch.linalg.matrix_power(self.similar(k, shares), self.model.item_conv.num_layers) @ item
        return self.fused(user, self.model.fusion.theta), item

    def fused(self, user: Tensor, theta: Tensor) -> Tensor:
        fusion, branches = self.model.fusion, user.split(self.model.embedding_dim, dim=1)
        score = torch.cat([linear(leaky(linear(u, a)), b) for u, a, b in zip(branches, fusion.fc1, fusion.fc2)], dim=1)
        alpha = (fusion.network_weight * score + fusion.memory_weight * theta).exp()
        alpha = alpha / alpha.sum(dim=1, keepdim=True)
        return torch.cat([alpha[:, b : b + 1] * u for b, u in enumerate(branches)], dim=1)

    @torch.no_grad()
    def kernel(self, strengths: Sequence[float], node_type: str = "item") -> Tensor:
        """k of the items and of all clicked ones, from the features."""
        clicked, total = self.taken.sum(dim=0) > 0, 0
        for strength, name in zip(strengths, self.model.in_channels, strict=True):
            known, mask = item_features(self.graph, name), feature_mask(self.graph, name)
            mean = (known if mask is None else known[mask]).mean(dim=0)
            units = []
            for kind in (node_type, "item"):
                x, mask = item_features(self.graph, name, kind) - mean, feature_mask(self.graph, name, kind)
                units.append(unit(x) if mask is None else torch.where(mask.unsqueeze(1), unit(x), 0))
            total = total + strength * ((units[0] @ units[1][clicked].T - 1) / 0.3).exp()
        return total.double()

    def attached(self, strengths: Sequence[float], item: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors and layers of the new items, by kernel ridge regression from the clicked ones."""
        clicked = self.taken.sum(dim=0) > 0
        kernel, new = self.kernel(strengths)[clicked], self.kernel(strengths, NEW_ITEM)

        def predicted(known: Tensor) -> Tensor:
            mean = known[clicked].mean(dim=0)
            return mean + new @ torch.linalg.solve(kernel + torch.eye(len(kernel)), known[clicked] - mean)

        layers = [self.encoded(NEW_ITEM).flatten(1), *map(predicted, self.item_layers()[1:])]
        vector = unit(predicted(item)) * predicted(item.norm(dim=1, keepdim=True))
        return vector, torch.stack(layers)

    def folded_in(self, item_layers: Tensor, histories: Sequence[Sequence[int]]) -> Tensor:
        """Users with some items each, by the layers of all items, shape (L + 1, |I|, B * d)."""
        degree = torch.cat([self.taken.sum(dim=0), torch.zeros(item_layers.size(1) - self.num_items)])
        x = torch.zeros(len(histories), item_layers.size(2), dtype=torch.double)
        for row, items in zip(x, map(set, histories), strict=True):
            for i in items:
                row += item_layers[:-1, i].sum(dim=0) / (len(items) ** 0.5 * (degree[i] + 1) ** 0.5)
        return self.fused(x, self.model.fusion.theta.mean(dim=0))
