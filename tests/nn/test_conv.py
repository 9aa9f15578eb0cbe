import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from adjacencies import FORMS, TRAINABLE_FORMS, Form, dense_adjacency, operator
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData
from torch_geometric.nn import HeteroConv, to_hetero

from lirdrec_pyg.nn import BipartiteConv, BipartiteLGConv, ItemGraphConv, adjacency, bipartite_norm

NUM_USERS, NUM_ITEMS, WIDTH = 6, 5, 3


def interactions() -> Tensor:
    """Edges in no order; the last user and the last item have none."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator) < 0.5
    mask[-1], mask[:, -1] = False, False
    edges = mask.nonzero().T
    return edges[:, torch.randperm(edges.size(1), generator=generator)]


def normalised(edges: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 of the graph of users and items together, as one square matrix."""
    adj = torch.zeros(NUM_USERS + NUM_ITEMS, NUM_USERS + NUM_ITEMS, dtype=torch.double)
    user, item = edges[0], edges[1] + NUM_USERS
    adj[user, item] = adj[item, user] = 1.0
    scale = torch.diag((adj.sum(dim=1) + 1e-7) ** -0.5)
    return scale @ adj @ scale


def assert_same_with_gradients(
    actual: Callable[..., Any], expected: Callable[..., Any], *shapes: tuple[int, int]
) -> None:
    """Outputs agree, and so do the gradients of a function of them that is not linear."""
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    results = []
    for function in (actual, expected):
        out = function(*inputs)
        out = torch.cat(out) if isinstance(out, tuple) else out
        results.append((out, torch.autograd.grad(out.square().sum(), inputs)))
    torch.testing.assert_close(results[0], results[1])


class TestBipartiteNorm:
    def test_matches_the_dense_formula(self) -> None:
        edges = interactions()
        weight = bipartite_norm(edges, NUM_USERS, NUM_ITEMS)
        block = normalised(edges)[:NUM_USERS, NUM_USERS:]
        assert weight.dtype == torch.float32
        actual = dense_adjacency(edges, weight, (NUM_USERS, NUM_ITEMS))
        torch.testing.assert_close(actual, block, rtol=1e-6, atol=1e-6)

    def test_is_symmetric_in_users_and_items(self) -> None:
        edges = interactions()
        reverse = bipartite_norm(edges.flip([0]), NUM_ITEMS, NUM_USERS)
        assert torch.equal(reverse, bipartite_norm(edges, NUM_USERS, NUM_ITEMS))

    def test_eps_is_added_to_each_degree(self) -> None:
        weight = bipartite_norm(torch.tensor([[0, 0], [0, 1]]), 1, 2, eps=1.0)
        torch.testing.assert_close(weight, torch.full((2,), (3.0 * 2.0) ** -0.5))

    def test_takes_an_edge_index_and_no_edges(self) -> None:
        edges = interactions()
        weight = bipartite_norm(EdgeIndex(edges), NUM_USERS, NUM_ITEMS)
        assert type(weight) is Tensor
        assert torch.equal(weight, bipartite_norm(edges, NUM_USERS, NUM_ITEMS))
        assert bipartite_norm(edges[:, :0], NUM_USERS, NUM_ITEMS).shape == (0,)


class TestBipartiteConv:
    @staticmethod
    def reference(matrix: Tensor, num_layers: int) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
        """The sum of A^l E for l = 0..L, with E the users above the items."""

        def propagate(x_user: Tensor, x_item: Tensor) -> tuple[Tensor, ...]:
            x = torch.cat([x_user, x_item])
            total = sum(torch.linalg.matrix_power(matrix, layer) @ x for layer in range(num_layers + 1))
            assert isinstance(total, Tensor)
            return total.split([NUM_USERS, NUM_ITEMS])

        return propagate

    @FORMS
    @pytest.mark.parametrize("reverse_given", [False, True])
    @pytest.mark.parametrize("num_layers", [0, 1, 3])
    def test_every_form_of_the_graph_equals_the_dense_formula(
        self, form: Form, reverse_given: bool, num_layers: int
    ) -> None:
        edges = interactions()
        # Weights of no meaning, so that a mix-up of edges or directions shows.
        weight = torch.rand(edges.size(1), dtype=torch.double) + 0.1
        adj, adj_weight = form(edges, weight, (NUM_USERS, NUM_ITEMS))
        rev, rev_weight = None, None
        if reverse_given:
            order = torch.randperm(edges.size(1))
            rev, rev_weight = form(edges[:, order].flip([0]), weight[order], (NUM_ITEMS, NUM_USERS))
        conv = BipartiteConv(num_layers)

        block = dense_adjacency(edges, weight, (NUM_USERS, NUM_ITEMS))
        matrix = torch.zeros(NUM_USERS + NUM_ITEMS, NUM_USERS + NUM_ITEMS, dtype=torch.double)
        matrix[:NUM_USERS, NUM_USERS:], matrix[NUM_USERS:, :NUM_USERS] = block, block.T
        assert_same_with_gradients(
            lambda x_user, x_item: conv(x_user, x_item, adj, rev, adj_weight, rev_weight),
            self.reference(matrix, num_layers),
            (NUM_USERS, WIDTH),
            (NUM_ITEMS, WIDTH),
        )

    @pytest.mark.parametrize("wrap", [lambda edges: edges, EdgeIndex])
    @pytest.mark.parametrize("reverse_given", [False, True])
    def test_without_weights_the_graph_is_normalised(
        self, wrap: Callable[[Tensor], Tensor], reverse_given: bool
    ) -> None:
        edges = interactions()
        rev = wrap(edges.flip([0, 1])) if reverse_given else None
        x_user, x_item = torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)
        out = BipartiteConv(2)(x_user, x_item, wrap(edges), rev)
        expected = self.reference(normalised(edges), 2)(x_user.double(), x_item.double())
        for actual, wanted in zip(out, expected, strict=True):
            torch.testing.assert_close(actual, wanted.float())

    @pytest.mark.parametrize("num_layers", [0, 1, 3])
    def test_layers_come_one_by_one_and_sum_to_the_output(self, num_layers: int) -> None:
        edges, conv = interactions(), BipartiteConv(num_layers)
        user, item = torch.randn(NUM_USERS, WIDTH).double(), torch.randn(NUM_ITEMS, WIDTH).double()
        layers = list(conv.layers(user, item, edges))
        assert len(layers) == num_layers + 1
        square, x = normalised(edges), torch.cat([user, item])
        for layer in layers:
            torch.testing.assert_close(torch.cat(layer), x, rtol=1e-6, atol=1e-6)
            x = square @ x
        for total, parts in zip(conv(user, item, edges), zip(*layers, strict=True), strict=True):
            torch.testing.assert_close(total, sum(parts))

    @FORMS
    @pytest.mark.parametrize("num_layers", [0, 1, 4])
    def test_output_is_the_sum_of_the_layers_in_every_form(self, form: Form, num_layers: int) -> None:
        edges = interactions()
        weight = torch.rand(edges.size(1), dtype=torch.double) + 0.1
        adj, adj_weight = form(edges, weight, (NUM_USERS, NUM_ITEMS))
        conv = BipartiteConv(num_layers)

        def summed(x_user: Tensor, x_item: Tensor) -> tuple[Tensor, ...]:
            layers = conv.layers(x_user, x_item, adj, edge_weight=adj_weight)
            return tuple(torch.stack(side).sum(dim=0) for side in zip(*layers, strict=True))

        assert_same_with_gradients(
            lambda x_user, x_item: conv(x_user, x_item, adj, edge_weight=adj_weight),
            summed,
            (NUM_USERS, WIDTH),
            (NUM_ITEMS, WIDTH),
        )

    def test_weights_of_one_direction_only_are_refused(self) -> None:
        edges = interactions()
        weight = torch.ones(edges.size(1))
        x_user, x_item = torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)
        with pytest.raises(ValueError, match="one direction only"):
            BipartiteConv(1)(x_user, x_item, edges, edges.flip([0]), edge_weight=weight)

    def test_isolated_nodes_keep_their_vectors_and_gradients_stay_finite(self) -> None:
        x_user = torch.randn(NUM_USERS, WIDTH, requires_grad=True)
        x_item = torch.randn(NUM_ITEMS, WIDTH, requires_grad=True)
        out_user, out_item = BipartiteConv(3)(x_user, x_item, interactions())
        (out_user.sum() + out_item.sum()).backward()
        assert torch.equal(out_user[-1], x_user[-1])
        assert torch.equal(out_item[-1], x_item[-1])
        for x in (x_user, x_item):
            assert x.grad is not None
            assert x.grad.isfinite().all()


class TestBipartiteLGConv:
    @FORMS
    def test_every_form_of_the_graph_equals_the_dense_formula(self, form: Form) -> None:
        edges = interactions()
        weight = torch.rand(edges.size(1), dtype=torch.double) + 0.1
        adj, adj_weight = form(edges, weight, (NUM_USERS, NUM_ITEMS))
        block = dense_adjacency(edges, weight, (NUM_USERS, NUM_ITEMS))
        assert_same_with_gradients(
            lambda x_user: BipartiteLGConv()((x_user, torch.randn(NUM_ITEMS, WIDTH).double()), adj, adj_weight),
            lambda x_user: block.T @ x_user,
            (NUM_USERS, WIDTH),
        )

    def test_without_weights_the_graph_is_normalised(self) -> None:
        edges, block = interactions(), normalised(interactions())[:NUM_USERS, NUM_USERS:].float()
        x_user, x_item = torch.randn(NUM_USERS, WIDTH), torch.randn(NUM_ITEMS, WIDTH)
        torch.testing.assert_close(BipartiteLGConv()((x_user, x_item), edges), block.T @ x_user)
        torch.testing.assert_close(BipartiteLGConv()((x_item, x_user), edges.flip([0])), block @ x_item)

    def test_one_matrix_is_sources_and_targets(self) -> None:
        x, edges, weight = torch.randn(3, 2), torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([1.0, 2.0, 3.0])
        expected = torch.stack([3 * x[2], torch.zeros(2), x[0] + 2 * x[1]])
        torch.testing.assert_close(BipartiteLGConv()(x, edges, weight), expected)

    @pytest.mark.parametrize("num_layers", [1, 3])
    def test_in_to_hetero_and_hetero_conv_it_is_the_bipartite_conv(self, num_layers: int) -> None:
        edges = interactions()
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


class TestItemGraphConv:
    @FORMS
    @pytest.mark.parametrize("num_layers", [0, 1, 2])
    def test_every_form_of_the_graph_equals_the_dense_formula(self, form: Form, num_layers: int) -> None:
        generator = torch.Generator().manual_seed(2)
        neighbour_and_item = (torch.rand(NUM_ITEMS, NUM_ITEMS, generator=generator) < 0.6).nonzero().T
        weight = torch.rand(neighbour_and_item.size(1), dtype=torch.double, generator=generator)
        adj, adj_weight = form(neighbour_and_item, weight, (NUM_ITEMS, NUM_ITEMS))
        conv = ItemGraphConv(num_layers)

        s = dense_adjacency(neighbour_and_item.flip([0]), weight, (NUM_ITEMS, NUM_ITEMS))
        assert not torch.equal(s, s.T)
        assert_same_with_gradients(
            lambda x: conv(x, adj, adj_weight),
            lambda x: x + torch.linalg.matrix_power(s, num_layers) @ x,
            (NUM_ITEMS, WIDTH),
        )

    def test_plain_edges_without_weights_count_one_each(self) -> None:
        x = torch.randn(3, 2)
        out = ItemGraphConv()(x, torch.tensor([[0, 1, 2], [2, 2, 0]]))
        torch.testing.assert_close(out, torch.stack([x[0] + x[2], x[1], x[2] + x[0] + x[1]]))


class TestWeightGradients:
    """Weights of edges may be learned in every form but an operator, which is constant."""

    @staticmethod
    def gradient(function: Callable[[Tensor], Any], weight: Tensor) -> Tensor:
        weight = weight.clone().requires_grad_()
        out = function(weight)
        out = torch.cat(out) if isinstance(out, tuple) else out
        return torch.autograd.grad(out.pow(3).sum(), weight)[0]

    @TRAINABLE_FORMS
    def test_of_bipartite_conv(self, form: Form) -> None:
        edges, size = interactions(), (NUM_USERS, NUM_ITEMS)
        user, item = torch.randn(NUM_USERS, WIDTH).double(), torch.randn(NUM_ITEMS, WIDTH).double()

        def convolved(weight: Tensor) -> Any:
            adj, edge_weight = form(edges, weight, size)
            return BipartiteConv(2)(user, item, adj, edge_weight=edge_weight)

        def formula(weight: Tensor) -> Any:
            block = dense_adjacency(edges, weight, size)
            return user + block @ (item + block.T @ user), item + block.T @ (user + block @ item)

        weight = torch.rand(edges.size(1), dtype=torch.double) + 0.1
        torch.testing.assert_close(self.gradient(convolved, weight), self.gradient(formula, weight))

    @TRAINABLE_FORMS
    @pytest.mark.parametrize("conv", [ItemGraphConv(1), BipartiteLGConv()])
    def test_of_convolutions_of_one_kind_of_nodes(self, conv: Any, form: Form) -> None:
        edges, size = interactions()[:, interactions()[0] < NUM_ITEMS], (NUM_ITEMS, NUM_ITEMS)
        x = torch.randn(NUM_ITEMS, WIDTH).double()

        def formula(weight: Tensor) -> Tensor:
            summed = dense_adjacency(edges, weight, size).T @ x
            return x + summed if isinstance(conv, ItemGraphConv) else summed

        weight = torch.rand(edges.size(1), dtype=torch.double) + 0.1
        actual = self.gradient(lambda given: conv(x, *form(edges, given, size)), weight)
        torch.testing.assert_close(actual, self.gradient(formula, weight))


@pytest.mark.parametrize(
    ("conv", "inputs", "text"),
    [
        (BipartiteConv(3), (torch.randn(NUM_USERS, 2), torch.randn(NUM_ITEMS, 2)), "BipartiteConv(num_layers=3)"),
        (ItemGraphConv(2), (torch.randn(NUM_USERS, 2),), "ItemGraphConv(num_layers=2)"),
        (BipartiteLGConv(), (torch.randn(NUM_USERS, 2),), "BipartiteLGConv()"),
    ],
)
def test_copy_reset_and_repr(conv: Any, inputs: tuple[Tensor, ...], text: str) -> None:
    edges = interactions()
    before = conv(*inputs, edges)
    copied = copy.deepcopy(conv)
    copied.reset_parameters()
    assert repr(copied) == text
    torch.testing.assert_close(copied(*inputs, edges), before)
    assert not list(conv.parameters())


def test_adjacency_prefers_adj_t_over_edges_and_their_weights() -> None:
    store = HeteroData()["user", "interacts", "item"]
    store.edge_index = interactions()
    assert adjacency(store) == (store.edge_index, None)
    store.edge_weight = torch.ones(store.edge_index.size(1))
    assert adjacency(store) == (store.edge_index, store.edge_weight)
    store.adj_t, _ = operator(store.edge_index, store.edge_weight, (NUM_USERS, NUM_ITEMS))
    assert adjacency(store) == (store.adj_t, None)
