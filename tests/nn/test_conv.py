from collections.abc import Callable
from typing import Any

import pytest
import torch
from adjacencies import FORMS, Form, dense_adjacency, operator
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData
from torch_geometric.nn import HeteroConv, to_hetero

from lirdrec_pyg.nn import BipartiteConv, BipartiteLGConv, ItemGraphConv, adjacency, bipartite_norm

NUM_USERS, NUM_ITEMS, WIDTH = 6, 5, 3
SIZE = (NUM_USERS, NUM_ITEMS)


def interactions(size: tuple[int, int] = SIZE) -> Tensor:
    """Edges in random order; the last source and the last target have none."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(size, generator=generator) < 0.5
    mask[-1], mask[:, -1] = False, False
    edges = mask.nonzero().T
    return edges[:, torch.randperm(edges.size(1), generator=generator)]


def square(block: Tensor) -> Tensor:
    """The adjacency matrix of users and items together."""
    matrix = torch.zeros(sum(block.shape), sum(block.shape), dtype=torch.double)
    matrix[: len(block), len(block) :], matrix[len(block) :, : len(block)] = block, block.T
    return matrix


def normalized(edges: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 of the graph of users and items."""
    adj = square(dense_adjacency(edges, torch.ones(edges.size(1)), SIZE))
    scale = torch.diag((adj.sum(dim=1) + 1e-7) ** -0.5)
    return scale @ adj @ scale


def sum_of_layers(num_layers: int) -> Callable[..., tuple[Tensor, ...]]:
    """The sum of A^l E for l = 0..L, with E the users followed by the items."""

    def formula(x_user: Tensor, x_item: Tensor, block: Tensor) -> tuple[Tensor, ...]:
        x, matrix = torch.cat([x_user, x_item]), square(block)
        layers = [torch.linalg.matrix_power(matrix, layer) @ x for layer in range(num_layers + 1)]
        return torch.stack(layers).sum(dim=0).split([NUM_USERS, NUM_ITEMS])

    return formula


def with_reverse_edges(num_layers: int) -> Callable[..., Any]:
    def forward(x_user: Tensor, x_item: Tensor, form: Form, edges: Tensor, weight: Tensor) -> Any:
        order = torch.randperm(edges.size(1))
        (adj, w), (rev, rev_w) = (
            form(edges, weight, SIZE),
            form(edges[:, order].flip([0]), weight[order], SIZE[::-1]),
        )
        return BipartiteConv(num_layers)(x_user, x_item, adj, rev, w, rev_w)

    return forward


def without_reverse_edges(num_layers: int) -> Callable[..., Any]:
    def forward(x_user: Tensor, x_item: Tensor, form: Form, edges: Tensor, weight: Tensor) -> Any:
        adj, w = form(edges, weight, SIZE)
        return BipartiteConv(num_layers)(x_user, x_item, adj, edge_weight=w)

    return forward


def layer_by_layer(num_layers: int) -> Callable[..., Any]:
    def forward(x_user: Tensor, x_item: Tensor, form: Form, edges: Tensor, weight: Tensor) -> Any:
        adj, w = form(edges, weight, SIZE)
        layers = list(BipartiteConv(num_layers).layers(x_user, x_item, adj, edge_weight=w))
        assert len(layers) == num_layers + 1
        return tuple(torch.stack(side).sum(dim=0) for side in zip(*layers, strict=True))

    return forward


def in_item_graph(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def forward(x: Tensor, form: Form, edges: Tensor, weight: Tensor) -> Any:
        return function(x, *form(edges, weight, (NUM_ITEMS, NUM_ITEMS)))

    return forward


def one_direction(x_user: Tensor, x_item: Tensor, form: Form, edges: Tensor, weight: Tensor) -> Any:
    return BipartiteLGConv()((x_user, x_item), *form(edges, weight, SIZE))


# The layer, its formula with a dense matrix of sources x targets, and the rows of its inputs.
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[int, ...]]] = {
    **{
        f"{make.__name__}({n})": (make(n), sum_of_layers(n), SIZE)
        for make in (without_reverse_edges, with_reverse_edges, layer_by_layer)
        for n in (0, 1, 3)
    },
    "BipartiteLGConv": (one_direction, lambda x_user, x_item, block: block.T @ x_user, SIZE),
    **{
        f"ItemGraphConv({n})": (
            in_item_graph(ItemGraphConv(n)),
            lambda x, s, n=n: x + torch.linalg.matrix_power(s.T, n) @ x,
            (NUM_ITEMS,),
        )
        for n in (0, 1, 2)
    },
    "ItemGraphConv.neighbors_only": (
        in_item_graph(ItemGraphConv(2).neighbors_only),
        lambda x, s: s.T @ s.T @ x,
        (NUM_ITEMS,),
    ),
}


@FORMS
def test_outputs_and_gradients_equal_the_dense_formula(form: Form) -> None:
    for name, (layer, formula, rows) in CASES.items():
        size = (rows[0], rows[-1])
        edges = interactions(size)
        # Random weights, which reveal swapped edges or directions. An operator has constant weights.
        weight = (torch.rand(edges.size(1), dtype=torch.double) + 0.1).requires_grad_(form is not operator)
        inputs = [torch.randn(n, WIDTH, dtype=torch.double, requires_grad=True) for n in rows]
        results = []
        for out in (layer(*inputs, form, edges, weight), formula(*inputs, dense_adjacency(edges, weight, size))):
            joined = torch.cat(out) if isinstance(out, tuple) else out
            leaves = [*inputs, weight] if weight.requires_grad else inputs
            results.append((joined, *torch.autograd.grad(joined.pow(3).sum(), leaves, materialize_grads=True)))
        torch.testing.assert_close(*results, msg=lambda text, name=name: f"{name}: {text}")


class TestBipartiteNorm:
    def test_matches_the_dense_formula_in_both_directions(self) -> None:
        edges = interactions()
        weight = bipartite_norm(edges, *SIZE)
        block = normalized(edges)[:NUM_USERS, NUM_USERS:]
        assert weight.dtype == torch.float32
        torch.testing.assert_close(dense_adjacency(edges, weight, SIZE), block, rtol=1e-6, atol=1e-6)
        assert torch.equal(bipartite_norm(edges.flip([0]), *SIZE[::-1]), weight)

    def test_eps_is_added_to_each_degree(self) -> None:
        weight = bipartite_norm(torch.tensor([[0, 0], [0, 1]]), 1, 2, eps=1.0)
        torch.testing.assert_close(weight, torch.full((2,), (3.0 * 2.0) ** -0.5))

    def test_supports_an_edge_index_and_no_edges(self) -> None:
        edges = interactions()
        weight = bipartite_norm(EdgeIndex(edges), *SIZE)
        assert type(weight) is Tensor
        assert torch.equal(weight, bipartite_norm(edges, *SIZE))
        assert bipartite_norm(edges[:, :0], *SIZE).shape == (0,)


class TestBipartiteConv:
    def test_without_weights_the_graph_is_normalized(self) -> None:
        edges, x_user, x_item = interactions(), torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)
        block = normalized(edges)[:NUM_USERS, NUM_USERS:]
        expected = torch.cat(sum_of_layers(2)(x_user.double(), x_item.double(), block)).float()
        for wrap in (torch.clone, EdgeIndex):
            for reverse in (None, wrap(edges.flip([0, 1]))):
                torch.testing.assert_close(torch.cat(BipartiteConv(2)(x_user, x_item, wrap(edges), reverse)), expected)

    def test_each_layer_is_one_step_of_propagation(self) -> None:
        edges, x_user, x_item = interactions(), torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)
        x = torch.cat([x_user, x_item]).double()
        for layer in BipartiteConv(3).layers(x_user, x_item, edges):
            torch.testing.assert_close(torch.cat(layer).double(), x, rtol=1e-5, atol=1e-6)
            x = normalized(edges) @ x

    def test_weights_of_one_direction_only_are_refused(self) -> None:
        edges = interactions()
        x_user, x_item = torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)
        with pytest.raises(ValueError, match="one direction only"):
            BipartiteConv(1)(x_user, x_item, edges, edges.flip([0]), edge_weight=torch.ones(edges.size(1)))

    def test_isolated_nodes_keep_their_vectors_and_gradients_stay_finite(self) -> None:
        x_user, x_item = torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)
        inputs = [x.requires_grad_() for x in (x_user, x_item)]
        out_user, out_item = BipartiteConv(3)(x_user, x_item, interactions())
        assert torch.equal(out_user[-1], x_user[-1])
        assert torch.equal(out_item[-1], x_item[-1])
        assert all(x.isfinite().all() for x in torch.autograd.grad(out_user.sum() + out_item.sum(), inputs))


class TestBipartiteLGConv:
    def test_without_weights_the_graph_is_normalized(self) -> None:
        edges, block = interactions(), normalized(interactions())[:NUM_USERS, NUM_USERS:].float()
        x_user, x_item = torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)
        torch.testing.assert_close(BipartiteLGConv()((x_user, x_item), edges), block.T @ x_user)
        torch.testing.assert_close(BipartiteLGConv()((x_item, x_user), edges.flip([0])), block @ x_item)

    def test_one_matrix_is_sources_and_targets(self) -> None:
        x, edges, weight = torch.randn(3, 2), torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([1.0, 2.0, 3.0])
        expected = torch.stack([3 * x[2], torch.zeros(2), x[0] + 2 * x[1]])
        torch.testing.assert_close(BipartiteLGConv()(x, edges, weight), expected)

    def test_in_to_hetero_and_hetero_conv_it_equals_bipartite_conv(self) -> None:
        edges, num_layers = interactions(), 3
        to_item, to_user = ("user", "interacts", "item"), ("item", "rev_interacts", "user")
        edge_index_dict = {to_item: edges, to_user: edges.flip([0])}
        x_dict = {"user": torch.randn(NUM_USERS, WIDTH), "item": torch.randn(NUM_ITEMS, WIDTH)}
        expected = BipartiteConv(num_layers)(x_dict["user"], x_dict["item"], edges)

        class Layers(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = BipartiteLGConv()

            def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
                total = x
                for _ in range(num_layers):
                    x = self.conv(x, edge_index)
                    total = total + x
                return total

        out = to_hetero(Layers(), (list(x_dict), list(edge_index_dict)))(x_dict, edge_index_dict)
        torch.testing.assert_close((out["user"], out["item"]), expected)

        conv = HeteroConv({to_item: BipartiteLGConv(), to_user: BipartiteLGConv()})
        total, x = x_dict, x_dict
        for _ in range(num_layers):
            x = conv(x, edge_index_dict)
            total = {name: total[name] + x[name] for name in total}
        torch.testing.assert_close((total["user"], total["item"]), expected)


def test_edges_of_the_item_graph_without_weights_count_one_each() -> None:
    x = torch.randn(3, 2)
    out = ItemGraphConv()(x, torch.tensor([[0, 1, 2], [2, 2, 0]]))
    torch.testing.assert_close(out, torch.stack([x[0] + x[2], x[1], x[2] + x[0] + x[1]]))


def test_adjacency_prefers_adj_t_over_edges_and_their_weights() -> None:
    store = HeteroData()["user", "interacts", "item"]
    store.edge_index = interactions()
    assert adjacency(store) == (store.edge_index, None)
    store.edge_weight = torch.ones(store.edge_index.size(1))
    assert adjacency(store) == (store.edge_index, store.edge_weight)
    store.adj_t, _ = operator(store.edge_index, store.edge_weight, SIZE)
    assert adjacency(store) == (store.adj_t, None)
