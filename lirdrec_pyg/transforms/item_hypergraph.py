import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from lirdrec_pyg.data import feature_mask, item_features, modalities
from lirdrec_pyg.transforms.knn_search import NeighborSearch, check_search, knn_edges
from lirdrec_pyg.transforms.modality_graphs import similar_by


class AddItemHypergraph(BaseTransform):
    r"""Add a hypergraph of items, one ``data["item", "similar_<modality>", "item"]`` per modality.

    An item and modality are a hyperedge, which joins all items that have the item among their neighbors.

    .. math::
        \mathbf{S} = \mathbf{D}^{-1/2} \Big( \sum_m \mathbf{N}_m \mathbf{N}_m^\top \Big) \mathbf{D}^{-1/2}
        = \sum_m \mathbf{B}_m \mathbf{B}_m^\top, \qquad
        \mathbf{B}_m = \mathbf{D}^{-1/2} \mathbf{N}_m

    with :math:`N_m[i, j] = 1` if :math:`j` is among the :math:`k` most similar to :math:`i`, which include :math:`i`
    itself, and :math:`\mathbf{D}` the row sums of :math:`\sum_m \mathbf{N}_m \mathbf{N}_m^\top`. The edges are those of
    :math:`\mathbf{B}_m`, from a neighbor :math:`j` to the item :math:`i`, so memory stays linear in the number of
    items. An item whose features are missing in a modality has only itself as a neighbor there.

    Args:
        k: number of neighbors per item, itself included; at most the number of items is used.
        search: search strategy, see :func:`~lirdrec_pyg.transforms.knn_edges`.
        progress: whether to show a progress bar for large catalogs.
    """

    def __init__(self, k: int = 5, search: NeighborSearch = "auto", progress: bool = False) -> None:
        check_search(search)
        self.k = k
        self.search = search
        self.progress = progress

    def forward(self, data: HeteroData) -> HeteroData:
        num_items = data["item"].num_nodes
        edges = {
            m: knn_edges(item_features(data, m), self.k, feature_mask(data, m), self.search, m, self.progress)
            for m in modalities(data)
        }
        degree = torch.zeros(num_items, device=next(iter(edges.values())).device)
        for neighbor, item in edges.values():
            joined = torch.bincount(neighbor, minlength=num_items).float()
            degree += torch.bincount(item, joined[neighbor], minlength=num_items).float()
        for modality, edge_index in edges.items():
            store = data[similar_by(modality)]
            store.edge_index, store.edge_weight = edge_index, degree.rsqrt()[edge_index[1]]
            store.pop("adj_t", None)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, search={self.search!r})"
