from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import NodeStorage
from torch_geometric.transforms import BaseTransform, Compose

from lirdrec_pyg.config import field
from lirdrec_pyg.data import INTERACTS, SIMILAR, item_features, modalities
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models.attribution import PropagatedUsers
from lirdrec_pyg.models.base import (
    Model,
    ModelConfig,
    eval_mode,
    graph_weights_field,
    knn_k_field,
    knn_search_field,
)
from lirdrec_pyg.models.embedding import bipartite_edges
from lirdrec_pyg.models.layerwise import layerwise_vectors
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import (
    AttentionFusion,
    BipartiteConv,
    BPRLoss,
    ItemGraphConv,
    MeanFusion,
    ModalityEncoder,
    MultimodalDCT,
    ProgressiveWeightCopying,
    SeenItems,
    StaticFusion,
    adjacency,
    bipartite_norm,
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
    NeighborSearch,
    NormalizeBipartite,
    kept_modalities,
)
from lirdrec_pyg.transforms.bipartite import SparseBackend

Transformation = Literal["feature", "2d", "none"]
Fusion = Literal["pwc", "mean", "static", "attention"]
UnclickedItems = Literal["attached", "trained"]


@dataclass(frozen=True)
class LIRDRecConfig(ModelConfig):
    """Hyperparameters of LIRDRec (paper, section 4) and its ablations."""

    model: ClassVar[str] = "lirdrec"

    embedding_dim: int = field(64, "Width d of each branch.", min=1)
    num_layers: int = field(2, "Layers L of user-item propagation; the paper tries 2, 3, 4.", min=0)
    num_item_layers: int = field(1, "Layers n of item-item propagation.", min=0)
    knn_k: int = knn_k_field()
    knn_search: NeighborSearch = knn_search_field()
    graph_weights: dict[str, float] = graph_weights_field()
    dct: Transformation = field(
        "feature",
        "Axes of the cosine transform: 'feature' as in the released program, '2d' as in the paper's text (cannot "
        "encode new items), or 'none' for no shared branch.",
    )
    network_weight: float = field(0.9, "Initial weight w0 of the fusion network; the memory has 1 - w0.", min=0, max=1)
    decay_base: float = field(0.9, "Decay base of the fusion network's weight.", min=0, max=1, min_open=True)
    reg_weight: float = field(1e-4, "Weight lambda of the regularizer.", min=0)
    fusion: Fusion = field(
        "pwc",
        "Weights of a user's branches: 'pwc' as in the paper, 'mean' equal, 'static' one learned weight per user and "
        "branch, 'attention' the network alone.",
    )
    item_graph: bool = field(True, "Propagate over the item graph.")
    id_branch: bool = field(False, "Add a branch in which each item has a free vector (an ID embedding).")
    only_modality: str | None = field(None, "Use this modality only; by default, all are used.")
    unclicked_items: UnclickedItems = field(
        "attached",
        "Vectors by which items without training interactions are recommended: 'attached' by their neighbors, as those "
        "of add-items, or 'trained' as in the paper, which hardly ever ranks them high. Training and all metrics are "
        "those of the paper in both cases. Without effect if the model cannot encode new items.",
    )

    @property
    def supports_new_items(self) -> bool:
        return self.dct != "2d" and not self.id_branch

    @property
    def attaches_unclicked_items(self) -> bool:
        return self.supports_new_items and self.unclicked_items == "attached"

    @property
    def supports_new_users(self) -> bool:
        return self.num_layers > 0

    @property
    def supports_explanations(self) -> bool:
        return True

    @property
    def supports_fusion_weights(self) -> bool:
        return True

    @property
    def supports_neighbor_sampling(self) -> bool:
        return not self.id_branch

    @property
    def supports_negatives(self) -> bool:
        return True

    def search_space(self, modalities: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return the paper's grid (section 5.1) and shares of images in the item graph, where they have an effect."""
        names = kept_modalities(modalities, self.only_modality)
        space: dict[str, tuple[Any, ...]] = {"num_layers": (2, 3, 4), "reg_weight": (1e-2, 1e-3, 1e-4)}
        if self.fusion == "pwc":
            space["network_weight"] = (0.9, 0.95, 0.99)
        space["weight_decay"] = (0.0, 1e-6, 1e-5)
        if self.item_graph and "image" in names and len(names) > 1:
            space["graph_weights.image"] = (0.1, 0.5, 0.9)
        return space

    def why_not(self, capability: str) -> str:
        if not self.supports_new_users and capability in ("new_users", "updates"):
            return "With `num_layers=0`, users are independent of items."
        if self.id_branch:
            return "With `id_branch=True`, each item has a free vector that only training can find. Train without it."
        return "With `dct='2d'`, the cosine transform of an item depends on all items. Train with `dct='feature'`."


class LIRDRec(Model):
    r"""LIRDRec: learns item representations directly from modality features, from
    `"Learning Item Representations Directly from Multimodal Features for Effective Recommendation"
    <https://arxiv.org/abs/2505.04960>`_.

    Items have no ID embeddings. The branches are the modalities and one shared branch that encodes their cosine
    transform; the representations of a node are concatenated over the branches.

    .. math::
        \mathbf{E}^{(0)} = \mathop{\Vert}_b \mathrm{norm}([\mathbf{P}_b; \mathbf{H}_b]), \qquad
        \mathbf{E} = \sum_{l=0}^{L} \hat{\mathbf{A}}^l \mathbf{E}^{(0)}

    .. math::
        \mathbf{V} = (\mathbf{I} + \mathbf{S}^n) \mathbf{E}_I, \qquad
        \mathbf{U} = \mathop{\Vert}_b \alpha_b \mathbf{E}_{U,b}, \qquad
        x_{ui} = \mathbf{u}^\top \mathbf{v}

    Args:
        num_users: number of users, each with a free vector per branch.
        in_channels: feature width of each modality, in the order of the graph's modalities.
        embedding_dim: width :math:`d` of each branch.
        num_layers: layers :math:`L` of user-item propagation.
        num_item_layers: layers :math:`n` of item-item propagation.
        dct: axes of the cosine transform, see :class:`~lirdrec_pyg.nn.MultimodalDCT`, or ``"none"`` for no shared
            branch.
        network_weight: :math:`w_0`, see :class:`~lirdrec_pyg.nn.ProgressiveWeightCopying`.
        decay_base: decay base of the fusion network's weight.
        reg_weight: :math:`\lambda`, see :class:`~lirdrec_pyg.nn.BPRLoss`.
        fusion: fusion of a user's branches: ``"pwc"`` as in the paper, or that of an ablation.
        item_graph: whether to propagate over the item graph; without it :math:`\mathbf{V} = \mathbf{E}_I`.
        num_id_items: number of items with a free vector in an additional branch ``id`` (an ablation), or 0.
        knn_k: neighbors of each item in the item graph, including itself, for new items.
    """

    config_class = LIRDRecConfig
    is_capturable = True

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
        knn_k: int = 10,
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
        self.knn_k = knn_k
        self.bpr_loss = BPRLoss(reg_weight)
        # Sparse gradients in sampled passes, for torch.optim.SparseAdam.
        self.sparse_user_gradients = False
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: LIRDRecConfig, data: HeteroData) -> "LIRDRec":
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
            knn_k=config.knn_k,
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
        """Return the transform that adds the item graph."""
        add_item_graph = AddItemKNN(config.knn_k, config.graph_weights, config.knn_search, progress)
        return Compose([*_kept_modality(config), *([add_item_graph] if config.item_graph else [])])

    @staticmethod
    def input_transform(config: LIRDRecConfig, backend: SparseBackend = "torch") -> BaseTransform:
        add_dct = [] if config.dct == "none" else [AddDCT(config.dct)]
        return Compose(
            [*_kept_modality(config), LoadFeatures(), *add_dct, NormalizeBipartite(), CacheAdjacency(backend)]
        )

    @staticmethod
    def sampling_transform(config: LIRDRecConfig) -> BaseTransform:
        """Return :meth:`input_transform` of a graph that is sampled from: features stay where they are."""
        # The 2-D transform needs all items.
        add_dct = [AddDCT(config.dct)] if config.dct == "2d" else []
        return Compose([*_kept_modality(config), *add_dct])

    def sampling_depth(self) -> tuple[int, int]:
        """Return the number of user-item layers and of item-item layers."""
        return self.bipartite_conv.num_layers, 0 if self.item_conv is None else self.item_conv.num_layers

    def use_sparse_user_gradients(self) -> nn.Parameter:
        """Make the gradients of the user vectors sparse in sampled passes; return these vectors."""
        self.sparse_user_gradients = True
        return self.user

    def synchronize_users(self, users: Tensor, known: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Make the fusion's memory of ``users`` equal in all processes.

        Args:
            users: positions of users, shape ``(N,)``.
            known: the users whose memory this process updated, bool, shape ``(N, 1)``.
            total: sums a tensor over the processes.
        """
        if isinstance(self.fusion, ProgressiveWeightCopying):
            attention = self.fusion.last_attention
            own = torch.cat([attention[users].where(known, 0.0), known.to(attention.dtype)], dim=1)
            together = total(own)
            attention[users] = together[:, :-1] / together[:, -1:]

    def encode_items(self, data: HeteroData, node_type: str = "item", rows: slice = slice(None)) -> Tensor:
        """Return unit vectors of the items in ``rows`` in each branch before propagation, shape ``(|I|, B, d)``."""
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
        # A cached transform without a mode or of another mode is not this model's input.
        if "dct" in item and item.get("dct_mode") == dct.mode:
            return encoder(item.dct[rows].to(self.user))
        if dct.mode == "2d":
            return encoder(dct(features)[rows].to(self.user))
        # The weights are smaller than the features.
        some = [x[rows].to(self.user) for x in features]
        weight = dct.fold_into(encoder.lin1.weight, [x.size(1) for x in features])
        return encoder(torch.cat(some, dim=1) if len(some) > 1 else some[0], weight)

    def forward(self, data: HeteroData | SampledGraph) -> tuple[Tensor, Tensor]:
        """Return representations of all users, shape ``(|U|, B * d)``, and of all items, ``(|I|, B * d)``.

        Args:
            data: a graph with the item graph, see :meth:`graph_transform`. Results of :meth:`input_transform` are used;
                missing ones are computed in each call. Or a sampled part of such a graph: the result then is that of
                the users and items that it was sampled for.

        Raises:
            DataError: if the item graph is missing.
        """
        if isinstance(data, SampledGraph):
            return self._forward_sampled(data)
        x_user, x_item = self.bipartite_conv(*self._inputs(data))
        return self.fusion(self.split_branches(x_user)), self._with_neighbors(data, x_item)

    def _with_neighbors(self, data: HeteroData, x_item: Tensor) -> Tensor:
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
        """Return the inputs of the user-item propagation: users, items and the edges in both directions."""
        # Checked first: data[SIMILAR] adds an empty store to a graph without one.
        if self.item_conv is not None and SIMILAR not in data.edge_types:
            raise DataError("The graph has no item graph. Apply LIRDRec.graph_transform(config).")
        x_user = unit_vectors(self.user).flatten(start_dim=1)
        x_item = self.encode_items(data).flatten(start_dim=1)
        return x_user, x_item, *bipartite_edges(data)

    def split_branches(self, x: Tensor) -> Tensor:
        """Reshape vectors ``(N, B * d)`` to ``(N, B, d)``."""
        return x.view(-1, len(self.branches), self.embedding_dim)

    @torch.no_grad()
    def vectors(self, data: HeteroData) -> Vectors:
        """Return all that is needed to rank, to explain scores and to add new items and users, computed in eval mode.
        ``data`` is as for :meth:`forward`."""
        with eval_mode(self):
            inputs = self._inputs(data)
            x_user, x_item = self.bipartite_conv(*inputs)
            x_user = self.split_branches(x_user)
            return Vectors(
                user=self.fusion(x_user),
                user_weight=self.fusion.attention(x_user),
                item=self._with_neighbors(data, x_item),
                item_layers=torch.stack([item for _, item in self.bipartite_conv.layers(*inputs)]),
            )

    def attribution(self, data: HeteroData, vectors: Vectors) -> PropagatedUsers:
        """See :class:`~lirdrec_pyg.models.Model`."""
        history = SeenItems.of(data[INTERACTS].edge_index, self.num_users)
        user = torch.arange(self.num_users, device=history.item.device).repeat_interleave(history.start.diff())
        weight = bipartite_norm(torch.stack([user, history.item]), self.num_users, data["item"].num_nodes)
        return PropagatedUsers(history, weight, self.user, vectors)

    def layerwise_vectors(self, data: HeteroData) -> Vectors:
        """Return :meth:`vectors` for graphs for which one pass needs too much memory, see
        :func:`~lirdrec_pyg.models.layerwise_vectors`."""
        return layerwise_vectors(self, data)

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        user, item = self(data)
        # Not user[u]: the order in which its gradient is summed is not deterministic.
        x, items = F.embedding(triples[0], user), F.embedding(triples[1:], item)
        # One by one: the product of all is as large as all items together.
        positive, *negatives = [(x * rows).sum(dim=-1) for rows in items]
        return self.bpr_loss(positive, torch.stack(negatives), user, item, weight)

    def start_epoch(self) -> None:
        self.fusion.start_epoch()

    @torch.no_grad()
    def recommend(
        self,
        data: HeteroData,
        user_index: Tensor | Sequence[int] | None = None,
        k: int = 20,
        exclude_seen: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Rank the top-k items for each user.

        Args:
            data: as for :meth:`forward`.
            user_index: positions of users, shape ``(N,)``; by default all.
            k: number of items, limited to the number of all items.
            exclude_seen: whether to exclude the training interactions of each user. If fewer than ``k`` items are left,
                the excluded ones follow with a score of minus infinity.

        Returns:
            Scores and item positions, best first, both of shape ``(N, k)``.

        Raises:
            DataError: if ``k`` is below 1, ``user_index`` is not a list of user positions, or the item graph is
                missing.
        """
        if k < 1:
            raise DataError(f"`k` is {k}. It must be at least 1.")
        index = _user_positions(torch.arange(self.num_users) if user_index is None else user_index, self.num_users)
        with eval_mode(self):
            user, item = self(data)
        seen = SeenItems.of(data[INTERACTS].edge_index, self.num_users) if exclude_seen else None
        blocks = list(top_k(user, item, index.to(user.device), k, seen))
        return torch.cat([b.score for b in blocks]), torch.cat([b.item for b in blocks])

    def extra_repr(self) -> str:
        widths: dict[str, Any] = self.in_channels
        return f"num_users={self.num_users}, in_channels={widths}, embedding_dim={self.embedding_dim}"


def used_modalities(config: LIRDRecConfig, names: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities among ``names`` that the model uses.

    Raises:
        ConfigError: if ``only_modality`` is not one of them.
    """
    return kept_modalities(names, config.only_modality)


def branch_names(names: Iterable[str], dct: Transformation = "feature", id_branch: bool = False) -> tuple[str, ...]:
    """Return the branches of a model of the modalities ``names``, in order."""
    return *names, *(["shared"] if dct != "none" else []), *(["id"] if id_branch else [])


def _user_positions(users: Tensor | Sequence[int], num_users: int) -> Tensor:
    try:
        index = torch.as_tensor(users)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"`user_index` cannot be converted to a tensor ({error}).") from error
    if index.dim() == 1 and not len(index):  # An empty list has no integer type.
        return index.long()
    if index.dim() != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise DataError(
            f"`user_index` has type {index.dtype} and shape {tuple(index.shape)}. Pass integers of shape (N,)."
        )
    index = index.long()
    for value in (int(index.min()), int(index.max())):
        if not 0 <= value < num_users:
            raise DataError(f"`user_index` contains {value}. Pass positions from 0 to {num_users - 1}.")
    return index


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
