from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.typing import Adj, OptPairTensor, OptTensor, SparseTensor, torch_sparse
from torch_geometric.utils import degree, is_sparse, spmm

from lirdrec_pyg.edge_index import plain
from lirdrec_pyg.nn.sparse import SparseOperator, is_half_on_cpu

AnyAdj: TypeAlias = Adj | SparseOperator


def bipartite_norm(edge_index: Tensor, num_users: int, num_items: int, eps: float = 1e-7) -> Tensor:
    r"""Compute the symmetric normalization of a binary bipartite graph (LIRDRec paper, section 4.2).

    .. math::
        e_{u,i} = \frac{1}{\sqrt{\deg(u) + \epsilon} \sqrt{\deg(i) + \epsilon}}

    Args:
        edge_index: pairs (user, item), shape ``(2, num_edges)``, int64.
        num_users: number of users.
        num_items: number of items.
        eps: added to each degree.

    Returns:
        One weight per edge, float32, shape ``(num_edges,)``.
    """
    user, item = plain(edge_index)
    user_scale = degree_scale(degree(user, num_users), eps)
    item_scale = degree_scale(degree(item, num_items), eps)
    return user_scale[user] * item_scale[item]


def degree_scale(node_degree: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Compute the factor of one node in :func:`bipartite_norm`, :math:`1 / \sqrt{\deg + \epsilon}`."""
    return (node_degree + eps).rsqrt()


class _WeightedSumConv(MessagePassing):
    """Weighted sum over neighbors, ``out[i] = sum of weight(j, i) * x[j]``, fused if the adjacency allows it.

    ``torch.compile`` and ``torch.export`` trace it for a plain ``edge_index``. Any other adjacency breaks the graph.
    """

    propagate_type: ClassVar[dict[str, Any]] = {"x": OptPairTensor, "edge_weight": OptTensor}

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def _sum(self, edge_index: AnyAdj, x_source: Tensor, x_target: Tensor, edge_weight: OptTensor) -> Tensor:
        if isinstance(edge_index, SparseOperator):
            return edge_index @ x_source
        if isinstance(edge_index, (EdgeIndex, SparseTensor)) or is_sparse(edge_index):
            return self._sum_untraced(edge_index, x_source, x_target, edge_weight)
        return self.propagate(
            edge_index, x=(x_source, x_target), edge_weight=edge_weight, size=(len(x_source), len(x_target))
        )

    @torch.compiler.disable
    def _sum_untraced(self, edge_index: Adj, x_source: Tensor, x_target: Tensor, edge_weight: OptTensor) -> Tensor:
        # torch.compile supports neither sparse tensors nor the construction of an EdgeIndex.
        return self.propagate(
            edge_index, x=(x_source, x_target), edge_weight=edge_weight, size=(len(x_source), len(x_target))
        )

    def _add_sum(self, edge_index: AnyAdj, x_source: Tensor, x_target: Tensor, edge_weight: OptTensor) -> Tensor:
        if isinstance(edge_index, SparseOperator):
            return edge_index.add_product(x_target, x_source)
        return x_target + self._sum(edge_index, x_source, x_target, edge_weight)

    def message(self, x_j: Tensor, edge_weight: OptTensor) -> Tensor:
        return x_j if edge_weight is None else edge_weight.view(-1, 1) * x_j

    def message_and_aggregate(self, edge_index: Adj, x: tuple[Tensor, Tensor], edge_weight: OptTensor) -> Tensor:
        if isinstance(edge_index, SparseTensor):
            return torch_sparse.matmul(edge_index, x[0], reduce="sum")
        if is_half_on_cpu(x[0]):
            return spmm(edge_index.float(), x[0].float(), reduce="sum").to(x[0].dtype)
        return spmm(edge_index, x[0], reduce="sum")


def reverse(adj: AnyAdj) -> AnyAdj:
    """Return the adjacency with all edges in the opposite direction."""
    if isinstance(adj, (SparseTensor, SparseOperator)):
        return adj.t()
    if is_sparse(adj):
        return adj.t().to_sparse_csr()
    return plain(adj).flip([0])


def _both_directions(
    x_user: Tensor,
    x_item: Tensor,
    edge_index: AnyAdj,
    rev_edge_index: AnyAdj | None,
    edge_weight: OptTensor,
    rev_edge_weight: OptTensor,
) -> tuple[tuple[AnyAdj, OptTensor], tuple[AnyAdj, OptTensor]]:
    """Return edges and weights in the direction of the items, and in the direction of the users."""
    num_users, num_items = x_user.size(0), x_item.size(0)
    if edge_weight is None and isinstance(edge_index, Tensor) and not is_sparse(edge_index):
        edge_weight = bipartite_norm(edge_index, num_users, num_items).to(x_user.dtype)
        if isinstance(rev_edge_index, Tensor):
            rev_edge_weight = bipartite_norm(rev_edge_index, num_items, num_users).to(x_user.dtype)
    if rev_edge_index is None:
        return (edge_index, edge_weight), (reverse(edge_index), edge_weight)
    if (edge_weight is None) != (rev_edge_weight is None):
        raise ValueError("Weights are given for one direction only. Pass both `edge_weight` and `rev_edge_weight`.")
    return (edge_index, edge_weight), (rev_edge_index, rev_edge_weight)


class BipartiteConv(_WeightedSumConv):
    r"""The linear propagation layer over the user-item graph from the `"Learning Item Representations Directly from
    Multimodal Features for Effective Recommendation" <https://arxiv.org/abs/2505.04960>`_ paper (section 4.2).

    .. math::
        \mathbf{E}_U^{(l+1)} = \hat{\mathbf{A}} \mathbf{E}_I^{(l)}, \qquad
        \mathbf{E}_I^{(l+1)} = \hat{\mathbf{A}}^\top \mathbf{E}_U^{(l)}, \qquad
        \mathbf{E} = \sum_{l=0}^{L} \mathbf{E}^{(l)}

    where :math:`\hat{\mathbf{A}}` is the binary interaction matrix, normalized by :func:`bipartite_norm`. The
    layers are summed, not averaged.

    Args:
        num_layers: number :math:`L` of layers.

    Shapes:
        - **input:** users :math:`(|U|, F)`, items :math:`(|I|, F)`; the edges (user, item) as either

          * ``edge_index`` :math:`(2, |E|)`, a tensor or a :class:`torch_geometric.EdgeIndex`, with
            ``edge_weight`` :math:`(|E|)`; without weights, a tensor is normalized on the fly;
          * a transposed adjacency matrix :math:`(|I|, |U|)` that contains the weights: ``torch.sparse_csr``,
            ``SparseTensor`` or :class:`SparseOperator`, the fastest in training.

          ``rev_edge_index`` and ``rev_edge_weight`` are the same for the edges (item, user). By default they are
          computed from the former in each call.
        - **output:** users :math:`(|U|, F)`, items :math:`(|I|, F)`
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers

    def forward(
        self,
        x_user: Tensor,
        x_item: Tensor,
        edge_index: AnyAdj,
        rev_edge_index: AnyAdj | None = None,
        edge_weight: OptTensor = None,
        rev_edge_weight: OptTensor = None,
    ) -> tuple[Tensor, Tensor]:
        if isinstance(edge_index, EdgeIndex):  # torch.compile also fails around its propagation
            return self._forward_untraced(x_user, x_item, edge_index, rev_edge_index, edge_weight, rev_edge_weight)
        return self._forward(x_user, x_item, edge_index, rev_edge_index, edge_weight, rev_edge_weight)

    @torch.compiler.disable
    def _forward_untraced(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        return self._forward(*inputs)

    def _forward(
        self,
        x_user: Tensor,
        x_item: Tensor,
        edge_index: AnyAdj,
        rev_edge_index: AnyAdj | None,
        edge_weight: OptTensor,
        rev_edge_weight: OptTensor,
    ) -> tuple[Tensor, Tensor]:
        to_item, to_user = _both_directions(x_user, x_item, edge_index, rev_edge_index, edge_weight, rev_edge_weight)
        # Horner's scheme, E0 + A (E0 + A (...)), needs no separate pass to sum up the layers.
        out_user, out_item = x_user, x_item
        for _ in range(self.num_layers):
            out_user, out_item = (
                self._add_sum(to_user[0], out_item, x_user, to_user[1]),
                self._add_sum(to_item[0], out_user, x_item, to_item[1]),
            )
        return out_user, out_item

    def forward_levels(
        self,
        x_user: Sequence[Tensor],
        x_item: Sequence[Tensor],
        to_user: Sequence[SparseOperator],
        to_item: Sequence[SparseOperator],
    ) -> tuple[Tensor, Tensor]:
        r"""Compute the outputs of some users and items only, from the nodes in their :math:`L`-hop neighborhood.

        Args:
            x_user: inputs of the users that are :math:`l` layers away, for :math:`l = 0, \dots, L`.
            x_item: inputs of the items that are :math:`l` layers away, for :math:`l = 0, \dots, L`.
            to_user: for each level below :math:`L`, the matrix of its users x the items of the next level.
            to_item: for each level below :math:`L`, the matrix of its items x the users of the next level.
        """
        out_user, out_item = x_user[-1], x_item[-1]
        for level in reversed(range(self.num_layers)):
            out_user, out_item = (
                self._add_sum(to_user[level], out_item, x_user[level], None),
                self._add_sum(to_item[level], out_user, x_item[level], None),
            )
        return out_user, out_item

    def layers(
        self,
        x_user: Tensor,
        x_item: Tensor,
        edge_index: AnyAdj,
        rev_edge_index: AnyAdj | None = None,
        edge_weight: OptTensor = None,
        rev_edge_weight: OptTensor = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        r"""Yield :math:`\mathbf{E}_U^{(l)}, \mathbf{E}_I^{(l)}` for :math:`l = 0, \dots, L`.

        Their sum is the output of the layer, up to rounding.
        """
        to_item, to_user = _both_directions(x_user, x_item, edge_index, rev_edge_index, edge_weight, rev_edge_weight)
        yield x_user, x_item
        for _ in range(self.num_layers):
            x_user, x_item = (
                self._sum(to_user[0], x_item, x_user, to_user[1]),
                self._sum(to_item[0], x_user, x_item, to_item[1]),
            )
            yield x_user, x_item

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_layers={self.num_layers})"


class BipartiteLGConv(_WeightedSumConv):
    r"""The :class:`torch_geometric.nn.LGConv` layer for bipartite graphs: one step of :class:`BipartiteConv` in one
    direction, for use in :class:`torch_geometric.nn.HeteroConv` and :func:`torch_geometric.nn.to_hetero`.

    .. math::
        \mathbf{x}^{\prime}_i = \sum_{j \in \mathcal{N}(i)} e_{j,i} \mathbf{x}_j

    Shapes:
        - **input:** a pair of source nodes :math:`(N, F)` and target nodes :math:`(M, F)`, or one matrix for both;
          the edges (source, target) as ``edge_index`` :math:`(2, |E|)` with ``edge_weight`` :math:`(|E|)`, by
          default that of :func:`bipartite_norm`, or a transposed adjacency matrix :math:`(M, N)` that contains the
          weights, as in :class:`BipartiteConv`
        - **output:** target nodes :math:`(M, F)`
    """

    def forward(self, x: Tensor | tuple[Tensor, Tensor], edge_index: AnyAdj, edge_weight: OptTensor = None) -> Tensor:
        source, target = (x, x) if isinstance(x, Tensor) else x
        if edge_weight is None and isinstance(edge_index, Tensor) and not is_sparse(edge_index):
            edge_weight = bipartite_norm(edge_index, source.size(0), target.size(0)).to(source.dtype)
        return self._sum(edge_index, source, target, edge_weight)


class ItemGraphConv(_WeightedSumConv):
    r"""The linear propagation layer over the item graph, with a residual connection, from the `"Learning Item
    Representations Directly from Multimodal Features for Effective Recommendation"
    <https://arxiv.org/abs/2505.04960>`_ paper (section 4.3).

    .. math::
        \mathbf{G}^{\prime} = \mathbf{G} + \mathbf{S}^n \mathbf{G}

    Args:
        num_layers: number :math:`n` of layers. 0 doubles the input, since :math:`\mathbf{S}^0` is the identity.

    Shapes:
        - **input:** items :math:`(|I|, F)`; the edges (neighbor, item) as ``edge_index`` :math:`(2, |E|)`, a tensor
          or a :class:`torch_geometric.EdgeIndex`, with ``edge_weight`` :math:`(|E|)`, or as a matrix
          :math:`\mathbf{S}` :math:`(|I|, |I|)`: ``torch.sparse_csr``, ``SparseTensor`` or :class:`SparseOperator`
        - **output:** items :math:`(|I|, F)`
    """

    def __init__(self, num_layers: int = 1) -> None:
        super().__init__()
        self.num_layers = num_layers

    def neighbors_only(self, x: Tensor, edge_index: AnyAdj, edge_weight: OptTensor = None) -> Tensor:
        r"""Compute :math:`\mathbf{S}^n \mathbf{G}`, the output without the residual connection."""
        for _ in range(self.num_layers):
            x = self._sum(edge_index, x, x, edge_weight)
        return x

    def forward(self, x: Tensor, edge_index: AnyAdj, edge_weight: OptTensor = None) -> Tensor:
        if self.num_layers == 0:
            return x + x
        out = x
        for _ in range(self.num_layers - 1):
            out = self._sum(edge_index, out, out, edge_weight)
        return self._add_sum(edge_index, out, x, edge_weight)

    def forward_levels(self, x: Tensor, x_source: Tensor, to_item: Sequence[SparseOperator]) -> Tensor:
        r"""Compute the outputs of some items only, from their :math:`n`-hop neighborhood.

        Args:
            x: inputs of these items, shape ``(N, F)``.
            x_source: inputs of the items that are :math:`n` layers away.
            to_item: for each layer, the matrix of its items x the items of the next layer. The items of the last
                matrix's columns are those of ``x_source``.
        """
        for operator in reversed(to_item):
            x_source = operator @ x_source
        return x + x_source

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_layers={self.num_layers})"


def adjacency(store: Any) -> tuple[AnyAdj, OptTensor]:
    """Return the adjacency and the edge weights in an edge store of ``HeteroData``, as arguments of a layer.

    These are ``adj_t`` and None if the store has it, else ``edge_index`` and ``edge_weight``.
    """
    if "adj_t" in store:
        return store.adj_t, None
    return store.edge_index, store.get("edge_weight")
