from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import NodeStorage
from torch_geometric.transforms import BaseTransform, Compose

from lirdrec_pyg.config import Fusion, LIRDRecConfig, SparseBackend, Transformation
from lirdrec_pyg.data import INTERACTED_BY, INTERACTS, SIMILAR, item_features, modalities
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models.mode import eval_mode
from lirdrec_pyg.models.positions import user_positions
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import (
    AttentionFusion,
    BipartiteConv,
    BPRLoss,
    DotProducts,
    ItemGraphConv,
    MeanFusion,
    ModalityEncoder,
    MultimodalDCT,
    ProgressiveWeightCopying,
    SeenItems,
    StaticFusion,
    adjacency,
    gather_rows,
    top_k,
    unit_vectors,
)
from lirdrec_pyg.sampler import SampledGraph, SampledLevels
from lirdrec_pyg.transforms import (
    AddDCT,
    AddItemKNN,
    CacheAdjacency,
    KeepModality,
    LoadFeatures,
    NormalizeBipartite,
    kept_modalities,
)


class LIRDRec(nn.Module):
    r"""The recommender that learns item representations directly from modality features, from
    `"Learning Item Representations Directly from Multimodal Features for Effective Recommendation"
    <https://arxiv.org/abs/2505.04960>`_.

    Items have no ID vectors. The branches are the modalities and one shared branch, which encodes
    their cosine transform; the representations of a node are concatenated over the branches.

    .. math::
        \mathbf{E}^{(0)} = \mathop{\Vert}_b \mathrm{norm}([\mathbf{P}_b; \mathbf{H}_b]), \qquad
        \mathbf{E} = \sum_{l=0}^{L} \hat{\mathbf{A}}^l \mathbf{E}^{(0)}

    .. math::
        \mathbf{V} = (\mathbf{I} + \mathbf{S}^n) \mathbf{E}_I, \qquad
        \mathbf{U} = \mathop{\Vert}_b \alpha_b \mathbf{E}_{U,b}, \qquad
        x_{ui} = \mathbf{u}^\top \mathbf{v}

    Args:
        num_users: number of users, each with a free vector in every branch.
        in_channels: feature width of each modality, in the order of the graph's modalities.
        embedding_dim: width :math:`d` of one branch.
        num_layers: layers :math:`L` of user-item propagation.
        num_item_layers: layers :math:`n` of item-item propagation.
        dct: axes of the cosine transform, see :class:`~lirdrec_pyg.nn.MultimodalDCT`; ``"none"`` leaves
            the shared branch out.
        network_weight: :math:`w_0`, see :class:`~lirdrec_pyg.nn.ProgressiveWeightCopying`.
        decay_base: of the fusion network's weight.
        reg_weight: :math:`\lambda`, see :class:`~lirdrec_pyg.nn.BPRLoss`.
        fusion: of the branches of a user; other than ``"pwc"``, which is the paper's, for ablations.
        item_graph: whether there is propagation over the item graph; without it
            :math:`\mathbf{V} = \mathbf{E}_I`.
        num_id_items: of an ablation with a further branch ``id``, in which items have free vectors, the
            number of items.
    """

    def __init__(
        self,
        num_users: int,
        in_channels: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        dct: Transformation = "feature",
        network_weight: float = 0.9,
        decay_base: float = 0.9,
        reg_weight: float = 1e-4,
        fusion: Fusion = "pwc",
        item_graph: bool = True,
        num_id_items: int = 0,
    ) -> None:
        super().__init__()
        self.num_users = num_users
        self.in_channels = dict(in_channels)
        self.embedding_dim = embedding_dim
        self.branches = branch_names(self.in_channels, dct, bool(num_id_items))
        num_branches = len(self.branches)

        widths = [*self.in_channels.values(), *([] if dct == "none" else [sum(self.in_channels.values())])]
        self.encoders = nn.ModuleList(ModalityEncoder(width, embedding_dim) for width in widths)
        self.dct = None if dct == "none" else MultimodalDCT(dct)
        self.user = nn.Parameter(torch.empty(num_users, num_branches, embedding_dim))
        self.bipartite_conv = BipartiteConv(num_layers)
        self.item_conv = ItemGraphConv(num_item_layers) if item_graph else None
        self.fusion = _fusion(fusion, num_users, num_branches, embedding_dim, network_weight, decay_base)
        self.item_id = nn.Parameter(torch.empty(num_id_items, embedding_dim)) if num_id_items else None
        self.bpr_loss = BPRLoss(reg_weight)
        # In sampled passes, as torch.optim.SparseAdam wants it.
        self.sparse_user_gradients = False
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: LIRDRecConfig, data: HeteroData) -> "LIRDRec":
        """The model of ``config`` for the users and modalities of ``data``."""
        return cls(
            data["user"].num_nodes,
            {modality: item_features(data, modality).size(1) for modality in used_modalities(config, modalities(data))},
            embedding_dim=config.embedding_dim,
            num_layers=config.num_layers,
            num_item_layers=config.num_item_layers,
            dct=config.dct,
            network_weight=config.network_weight,
            decay_base=config.decay_base,
            reg_weight=config.reg_weight,
            fusion=config.fusion,
            item_graph=config.item_graph,
            num_id_items=data["item"].num_nodes if config.id_branch else 0,
        )

    def reset_parameters(self) -> None:
        for encoder in self.encoders:
            encoder.reset_parameters()  # type: ignore[operator]
        for branch in range(len(self.branches)):
            nn.init.xavier_normal_(self.user.data[:, branch])
        if not isinstance(self.fusion, MeanFusion):
            self.fusion.reset_parameters()
        if self.item_id is not None:
            nn.init.xavier_normal_(self.item_id)

    @staticmethod
    def graph_transform(config: LIRDRecConfig, progress: bool = False) -> BaseTransform:
        """What the model adds to a graph of :func:`~lirdrec_pyg.data.build_graph`: the item graph."""
        add_item_graph = AddItemKNN(config.knn_k, config.graph_weights, config.knn_search, progress)
        return Compose([*_kept_modality(config), *([add_item_graph] if config.item_graph else [])])

    @staticmethod
    def input_transform(config: LIRDRecConfig, backend: SparseBackend = "torch") -> BaseTransform:
        """What can be made ready once for all calls of :meth:`forward`, on the device of the graph."""
        add_dct = [] if config.dct == "none" else [AddDCT(config.dct)]
        return Compose(
            [*_kept_modality(config), LoadFeatures(), *add_dct, NormalizeBipartite(), CacheAdjacency(backend)]
        )

    @staticmethod
    def sampling_transform(config: LIRDRecConfig) -> BaseTransform:
        """As :meth:`input_transform`, for a graph that is sampled from: features stay where they are."""
        # The transform along the items needs all of them.
        add_dct = [AddDCT(config.dct)] if config.dct == "2d" else []
        return Compose([*_kept_modality(config), *add_dct])

    def encode_items(self, data: HeteroData, node_type: str = "item", rows: slice = slice(None)) -> Tensor:
        """Unit vectors of the items, or of those in ``rows``, in every branch before any propagation, shape
        ``(|I|, B, d)``."""
        features = [item_features(data, modality, node_type) for modality in self.in_channels]
        some = [x[rows].to(self.user) for x in features]
        encoded = [encoder(x) for encoder, x in zip(self.encoders, some)]
        if self.dct is not None:
            encoded.append(self._encode_shared(self.encoders[-1], self.dct, data[node_type], features, rows))
        if self.item_id is not None:
            encoded.append(self.item_id[rows])
        return torch.stack([unit_vectors(x.to(self.user.dtype)) for x in encoded], dim=1)

    def _encode_shared(
        self, encoder: nn.Module, dct: MultimodalDCT, item: NodeStorage, features: Sequence[Tensor], rows: slice
    ) -> Tensor:
        assert isinstance(encoder, ModalityEncoder)
        # A cache without its mode, or of the other mode, is not this model's input.
        if "dct" in item and item.get("dct_mode") == dct.mode:
            return encoder(item.dct[rows].to(self.user))
        if dct.mode == "2d":
            return encoder(dct(features)[rows].to(self.user))
        # The weights are fewer than the features.
        some = [x[rows].to(self.user) for x in features]
        weight = dct.fold_into(encoder.lin1.weight, [x.size(1) for x in features])
        return encoder(torch.cat(some, dim=1) if len(some) > 1 else some[0], weight)

    def forward(self, data: HeteroData | SampledGraph) -> tuple[Tensor, Tensor]:
        """Representations of all users, shape ``(|U|, B * d)``, and of all items, ``(|I|, B * d)``.

        Args:
            data: a graph with the item graph in it, see :meth:`graph_transform`. What
                :meth:`input_transform` made ready is used, what is lacking is computed in each call.
                Or a sampled part of such a graph, for the users and items that it was sampled for.

        Raises:
            DataError: if the item graph is lacking.
        """
        if isinstance(data, SampledGraph):
            return self._forward_sampled(data)
        x_user, x_item = self.bipartite_conv(*self._inputs(data))
        return self.fusion(self.split_branches(x_user)), self._with_neighbours(data, x_item)

    def _with_neighbours(self, data: HeteroData, x_item: Tensor) -> Tensor:
        return x_item if self.item_conv is None else self.item_conv(x_item, *adjacency(data[SIMILAR]))

    def _forward_sampled(self, sample: SampledGraph) -> tuple[Tensor, Tensor]:
        user_index = sample.data["user"].n_id
        x_user = gather_rows(self.user, user_index) if self.sparse_user_gradients else self.user[user_index]
        x_user = unit_vectors(x_user).flatten(start_dim=1)
        x_item = self.encode_items(sample.data).flatten(start_dim=1)
        out_user, out_item = self._propagate_sampled(x_user, x_item, sample.own)
        user = self.fusion(self.split_branches(out_user), user_index[sample.own.user[0]])
        if self.item_conv is None:
            return user, out_item
        near = self._propagate_sampled(x_user, x_item, sample.near)[1] if sample.similar else out_item
        return user, self.item_conv.forward_levels(out_item, near, sample.similar)

    def _propagate_sampled(self, x_user: Tensor, x_item: Tensor, levels: SampledLevels) -> tuple[Tensor, Tensor]:
        return self.bipartite_conv.forward_levels(
            [F.embedding(rows, x_user) for rows in levels.user],
            [F.embedding(rows, x_item) for rows in levels.item],
            levels.to_user,
            levels.to_item,
        )

    def _inputs(self, data: HeteroData) -> tuple[Any, ...]:
        """What the user-item propagation starts from: users, items and the edges in both directions."""
        # Asked for first: data[SIMILAR] would leave an empty store in a graph without one.
        if self.item_conv is not None and SIMILAR not in data.edge_types:
            raise DataError("The graph lacks the item graph: apply LIRDRec.graph_transform(config) to it.")
        x_user = unit_vectors(self.user).flatten(start_dim=1)
        x_item = self.encode_items(data).flatten(start_dim=1)
        edge_index, edge_weight = adjacency(data[INTERACTS])
        rev_edge_index, rev_edge_weight = adjacency(data[INTERACTED_BY])
        return x_user, x_item, edge_index, rev_edge_index, edge_weight, rev_edge_weight

    def split_branches(self, x: Tensor) -> Tensor:
        """Vectors of shape ``(N, B * d)`` by branch, shape ``(N, B, d)``."""
        return x.view(-1, len(self.branches), self.embedding_dim)

    @torch.no_grad()
    def vectors(self, data: HeteroData) -> Vectors:
        """All that is needed to rank, to explain a score, and to take in new items and new users, from
        one pass in eval mode. ``data`` is as for :meth:`forward`."""
        with eval_mode(self):
            inputs = self._inputs(data)
            x_user, x_item = self.bipartite_conv(*inputs)
            x_user = self.split_branches(x_user)
            return Vectors(
                user=self.fusion(x_user),
                user_weight=self.fusion.attention(x_user),
                item=self._with_neighbours(data, x_item),
                item_layers=torch.stack([item for _, item in self.bipartite_conv.layers(*inputs)]),
            )

    def ranker(self, data: HeteroData) -> DotProducts:
        """What ranks by the model as it is. ``data`` is as for :meth:`forward`."""
        with torch.no_grad(), eval_mode(self):
            return DotProducts(*self(data))

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        """Loss of a batch.

        Args:
            data: as for :meth:`forward`.
            triples: users, positive items and negative items, int64, shape ``(3, N)``, or with further rows of
                negatives.
            weight: of the triples, see :class:`~lirdrec_pyg.nn.BPRLoss`.
        """
        user, item = self(data)
        # Not user[u]: its gradient is summed in an order that changes from call to call.
        x, items = F.embedding(triples[0], user), F.embedding(triples[1:], item)
        # One by one: the product of all would be as large as they are together.
        positive, *negatives = [(x * rows).sum(dim=-1) for rows in items]
        return self.bpr_loss(positive, torch.stack(negatives), user, item, weight)

    def start_epoch(self) -> None:
        """Has to be called once before each epoch of training."""
        self.fusion.start_epoch()

    @torch.no_grad()
    def recommend(
        self,
        data: HeteroData,
        user_index: Tensor | Sequence[int] | None = None,
        k: int = 20,
        exclude_seen: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The ``k`` best items for each user.

        Args:
            data: as for :meth:`forward`.
            user_index: positions of users, shape ``(N,)``; by default all.
            k: number of items; at most the catalogue.
            exclude_seen: leaves out the training interactions of each user. A user who has fewer than
                ``k`` items left gets the rest with a score of minus infinity.

        Returns:
            Scores and item positions, best first, both of shape ``(N, k)``.

        Raises:
            DataError: if ``k`` is below 1, ``user_index`` holds anything but positions of users, or the
                graph lacks the item graph.
        """
        if k < 1:
            raise DataError(f"k is {k}: ask for at least 1 item.")
        index = user_positions(torch.arange(self.num_users) if user_index is None else user_index, self.num_users)
        with eval_mode(self):
            user, item = self(data)
        seen = SeenItems.of(data[INTERACTS].edge_index, self.num_users) if exclude_seen else None
        blocks = list(top_k(user, item, index.to(user.device), k, seen))
        return torch.cat([b.score for b in blocks]), torch.cat([b.item for b in blocks])

    def extra_repr(self) -> str:
        widths: dict[str, Any] = self.in_channels
        return f"num_users={self.num_users}, in_channels={widths}, embedding_dim={self.embedding_dim}"


def used_modalities(config: LIRDRecConfig, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the modalities ``names`` that take part.

    Raises:
        ConfigError: if the one that is asked for is none of them.
    """
    return kept_modalities(names, config.only_modality)


def branch_names(names: Iterable[str], dct: Transformation = "feature", id_branch: bool = False) -> tuple[str, ...]:
    """The branches of a model of the modalities ``names``, in their order."""
    return *names, *(["shared"] if dct != "none" else []), *(["id"] if id_branch else [])


def _kept_modality(config: LIRDRecConfig) -> list[BaseTransform]:
    return [] if config.only_modality is None else [KeepModality(config.only_modality)]


def _fusion(
    fusion: Fusion, num_users: int, num_branches: int, channels: int, network_weight: float, decay_base: float
) -> ProgressiveWeightCopying | MeanFusion | StaticFusion | AttentionFusion:
    match fusion:
        case "pwc":
            return ProgressiveWeightCopying(num_users, num_branches, channels, network_weight, decay_base)
        case "static":
            return StaticFusion(num_users, num_branches)
        case "attention":
            return AttentionFusion(num_branches, channels)
        case _:
            return MeanFusion()
