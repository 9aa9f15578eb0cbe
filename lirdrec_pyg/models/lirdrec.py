from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import NodeStorage
from torch_geometric.transforms import BaseTransform, Compose
from torch_geometric.utils import degree

from lirdrec_pyg.config import field
from lirdrec_pyg.data import INTERACTS, SIMILAR, feature_mask, feature_widths, item_features, modalities
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.models.attribution import PropagatedUsers
from lirdrec_pyg.models.base import (
    Measure,
    Model,
    ModelConfig,
    eval_mode,
    graph_weights_field,
    knn_k_field,
    knn_search_field,
)
from lirdrec_pyg.models.embedding import bipartite_edges
from lirdrec_pyg.models.layerwise import layerwise_vectors
from lirdrec_pyg.models.linear import LinearItems, completed, linear_items, with_linear
from lirdrec_pyg.models.vectors import Vectors
from lirdrec_pyg.nn import (
    AttentionFusion,
    BipartiteConv,
    BPRLoss,
    ItemGraphConv,
    MeanFusion,
    ModalityEncoder,
    MultimodalDCT,
    PrincipalComponents,
    ProgressiveWeightCopying,
    RowShards,
    SeenItems,
    SoftmaxLoss,
    StaticFusion,
    adjacency,
    bipartite_norm,
    gather_rows,
    unit_vectors,
    xavier_normal_rows_,
)
from lirdrec_pyg.sampler import SampledGraph, SampledLevels
from lirdrec_pyg.transforms import (
    AddDCT,
    AddItemKNN,
    KeepHistory,
    KeepModality,
    NeighborSearch,
    SparseBackend,
    kept_modalities,
)
from lirdrec_pyg.transforms.item_graph import check_weights

Transformation = Literal["feature", "2d", "none"]
Fusion = Literal["pwc", "mean", "static", "attention"]
Loss = Literal["bpr", "softmax"]
UnclickedItems = Literal["attached", "trained"]

# Negatives of a step with the softmax loss, whose scores are held for all users of the step.
MAX_NEGATIVES = 16_384


@dataclass(frozen=True)
class LIRDRecConfig(ModelConfig):
    """Hyperparameters of LIRDRec (paper, section 4) and its ablations."""

    model: ClassVar[str] = "lirdrec"
    supports_explanations: ClassVar[bool] = True
    supports_fusion_weights: ClassVar[bool] = True

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
    loss: Loss = field(
        "bpr",
        "'bpr' as in the paper; 'softmax' compares the cosine of a user and an item with those of all other items (of "
        f"{MAX_NEGATIVES:,} random ones per step if there are more), and ranks by it. A step then has the interactions "
        "of some users, and no sampled negatives.",
    )
    temperature: float = field(0.15, "Temperature of the softmax loss.", min=0.01, max=10)
    activity_power: float = field(
        0.5,
        "With the softmax loss, an interaction counts in proportion to the number of the user's interactions to minus "
        "this power; 0 treats interactions alike, 1 users.",
        min=0,
        max=1,
    )
    linear_dim: int = field(
        0,
        "Columns of a linear branch, which is computed in closed form from interactions and features (EASE with side "
        "information) and added to the scores after the training. 0 is none. Not with more than 20,000 items.",
        min=0,
    )
    linear_l2: float | None = field(
        None, "Regularization of the linear branch; by default chosen by validation.", min=0, min_open=True
    )
    linear_content: dict[str, float] = field(
        {}, "MODALITY=WEIGHT, repeatable: weight of the features in the linear branch; by default chosen by validation."
    )
    linear_weight: float | None = field(
        None,
        "Weight of the linear branch in the scores; by default chosen by validation.",
        min=0,
    )
    new_item_scale: float = field(
        1.0,
        "Factor of the scores of new items. 0 finds the one with which they are offered as often as others; a fifth of "
        "the items with interactions stand for new ones.",
        min=0,
    )
    feature_dim: int | None = field(
        None,
        "Principal components to which the features of each modality are reduced before they are encoded, which makes "
        "steps much faster with wide features; if not set, they are used whole.",
        min=1,
    )
    item_graph: bool = field(True, "Propagate over the item graph.")
    id_branch: bool = field(False, "Add a branch in which each item has a free vector (an ID embedding).")
    only_modality: str | None = field(None, "Use this modality only; by default, all are used.")
    unclicked_items: UnclickedItems = field(
        "attached",
        "Vectors by which items without training interactions are recommended: 'attached' by their features, as those "
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
    def supports_neighbor_sampling(self) -> bool:
        return not self.id_branch and self.loss == "bpr" and not self.linear_dim

    @property
    def supports_negatives(self) -> bool:
        return self.loss == "bpr"

    def search_space(self, modalities: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return values to tune: with the softmax loss the item graph, layers and temperature, else the paper's grid.

        The latter (section 5.1) comes with shares of images in the item graph, where they have an effect.
        """
        if self.loss == "softmax":
            return {"item_graph": (True, False), "num_layers": (1, 2, 3), "temperature": (0.1, 0.15, 0.2)}
        names = kept_modalities(modalities, self.only_modality)
        space: dict[str, tuple[Any, ...]] = {"num_layers": (2, 3, 4), "reg_weight": (1e-2, 1e-3, 1e-4)}
        if self.fusion == "pwc":
            space["network_weight"] = (0.9, 0.95, 0.99)
        space["weight_decay"] = (0.0, 1e-6, 1e-5)
        if self.item_graph and "image" in names and len(names) > 1:
            space["graph_weights.image"] = (0.1, 0.5, 0.9)
        return space

    def variants(self, modalities: Sequence[str]) -> list[dict[str, Any]]:
        return [{"item_graph": not self.item_graph}]

    def why_not(self, capability: str) -> str:
        if capability in ("negatives", "neighbor_sampling") and self.loss != "bpr":
            return "With `loss='softmax'`, all items are negatives. Train with `loss='bpr'`."
        if capability == "neighbor_sampling" and self.linear_dim:
            return "The linear branch needs the whole graph. Train with `linear_dim=0`."
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
        loss: ``"bpr"``, or ``"softmax"`` for :class:`~lirdrec_pyg.nn.SoftmaxLoss`, with which
            :math:`\mathbf{V}` are unit vectors.
        temperature: of the softmax.
        activity_power: power :math:`p` of the weight of a positive in the softmax loss, :math:`|H_u|^{-p}`.
        feature_dim: number of principal components of each modality that are encoded; by default, features are used
            whole.
        linear_dim: columns of the linear branch, see :class:`~lirdrec_pyg.models.LinearItems`.
        linear_l2: its regularization.
        linear_content: its weights of the features by modality.
        linear_weight: its weight in the scores; with 0 or ``None``, the branch is not used.
        new_item_scale: factor of the vectors of new items; 0 stands for 1.
        shards: users of each of several processes, if each holds the rows of some. Sampled passes then exchange rows.
    """

    config_class = LIRDRecConfig

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
        loss: Loss = "bpr",
        temperature: float = 0.15,
        activity_power: float = 0.5,
        feature_dim: int | None = None,
        linear_dim: int = 0,
        linear_l2: float | None = None,
        linear_content: Mapping[str, float] | None = None,
        linear_weight: float | None = None,
        new_item_scale: float = 1.0,
        shards: RowShards | None = None,
    ) -> None:
        super().__init__()
        self.num_users = num_users
        self.shards = shards
        self.in_channels = dict(in_channels)
        self.embedding_dim = embedding_dim
        self.branches = branch_names(self.in_channels, dct, bool(num_id_items))
        num_branches = len(self.branches)

        # Of each modality, what is encoded.
        self.widths = [min(width, feature_dim or width) for width in self.in_channels.values()]
        self.components = nn.ModuleList(
            nn.Identity() if width == encoded else PrincipalComponents(width, encoded)
            for width, encoded in zip(self.in_channels.values(), self.widths, strict=True)
        )
        widths = [*self.widths, *([] if dct == "none" else [sum(self.widths)])]
        self.encoders = nn.ModuleList(ModalityEncoder(width, embedding_dim) for width in widths)
        self.dct = None if dct == "none" else MultimodalDCT(dct)
        num_rows = num_users if shards is None else shards.num_own
        self.user = nn.Parameter(torch.empty(num_rows, num_branches, embedding_dim))
        self.bipartite_conv = BipartiteConv(num_layers)
        self.item_conv = ItemGraphConv(num_item_layers) if item_graph else None
        self.fusion: ProgressiveWeightCopying | StaticFusion | AttentionFusion | MeanFusion
        match fusion:
            case "pwc":
                self.fusion = ProgressiveWeightCopying(
                    num_users, num_branches, embedding_dim, network_weight, decay_base, shards
                )
            case "static":
                self.fusion = StaticFusion(num_users, num_branches, shards)
            case "attention":
                self.fusion = AttentionFusion(num_branches, embedding_dim)
            case _:
                self.fusion = MeanFusion()
        self.item_id = nn.Parameter(torch.empty(num_id_items, embedding_dim)) if num_id_items else None
        self.bpr_loss = BPRLoss(reg_weight)
        self.softmax_loss = SoftmaxLoss(temperature) if loss == "softmax" else None
        self.activity_power = activity_power
        self.linear_dim, self.linear_l2, self.linear_weight = linear_dim, linear_l2, linear_weight
        self.linear_content = dict(linear_content or {})
        self._linear: tuple[Tensor, tuple[Any, ...], LinearItems] | None = None
        self.new_item_scale = new_item_scale or 1.0
        # Sparse gradients in sampled passes, for torch.optim.SparseAdam.
        self.sparse_user_gradients = False
        self.reset_parameters()

    @classmethod
    def sizes(cls, config: LIRDRecConfig, data: HeteroData) -> dict[str, Any]:
        widths = feature_widths(data)
        return {
            **super().sizes(config, data),
            "in_channels": {modality: widths[modality] for modality in used_modalities(config, modalities(data))},
            "num_id_items": data["item"].num_nodes if config.id_branch else 0,
            "shards": None,
        }

    @property
    def is_capturable(self) -> bool:
        return self.softmax_loss is None

    @property
    def samples_negatives(self) -> bool:
        return self.softmax_loss is None

    def reset_parameters(self) -> None:
        for encoder in self.encoders:
            encoder.reset_parameters()  # type: ignore[operator]
        for branch in range(len(self.branches)):
            xavier_normal_rows_(self.user.data[:, branch], self.shards)
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
        add_dct = [] if config.dct == "none" or config.feature_dim else [AddDCT(config.dct)]
        keep_history = [KeepHistory()] if config.loss == "softmax" else []
        return Compose([*_kept_modality(config), Model.input_transform(config, backend), *add_dct, *keep_history])

    @staticmethod
    def sampling_transform(config: LIRDRecConfig) -> BaseTransform:
        """Return ``input_transform`` of a graph that is sampled from: features stay where they are."""
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

    @property
    def user_tables(self) -> list[str]:
        """Names in ``state_dict`` of the tables with a row per user."""
        return ["user", *(f"fusion.{name}" for name in self.fusion.user_tables)]

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
        reduced = data[node_type].get("components")
        features = reduced or [item_features(data, modality, node_type) for modality in self.in_channels]
        some = [x[rows].to(self.user) for x in features]
        if reduced is None:
            some = [components(x) for components, x in zip(self.components, some)]
        encoded = [encoder(x) for encoder, x in zip(self.encoders, some)]
        if self.dct is not None:
            encoded.append(self._encode_shared(self.encoders[-1], self.dct, data[node_type], some, rows))
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
        weight = dct.fold_into(encoder.lin1.weight, self.widths)
        return encoder(torch.cat(list(features), dim=1) if len(features) > 1 else features[0], weight)

    @torch.no_grad()
    def prepare(self, data: HeteroData) -> None:
        """Find the principal components of the features, unless they are known, and keep the reduced features in
        ``data``."""
        check_weights(self.linear_content, [*self.in_channels], "linear_content")
        if not any(isinstance(components, PrincipalComponents) for components in self.components):
            return
        reduced = []
        for components, modality in zip(self.components, self.in_channels, strict=True):
            x, mask = item_features(data, modality), feature_mask(data, modality)
            if isinstance(components, PrincipalComponents) and not components.basis.any():
                components.to(x.device).fit(x if mask is None else x[mask])
            reduced.append(components(x))
        data["item"].components = reduced

    def forward(self, data: HeteroData | SampledGraph) -> tuple[Tensor, Tensor]:
        """Return representations of all users, shape ``(|U|, B * d)``, and of all items, ``(|I|, B * d)``.

        Args:
            data: a graph with the item graph, see :meth:`graph_transform`. Results of ``input_transform`` are used;
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
        return self.as_output(x_item if self.item_conv is None else self.item_conv(x_item, *adjacency(data[SIMILAR])))

    def as_output(self, x_item: Tensor) -> Tensor:
        """Return the items that scores are computed with, from those after all propagation."""
        return x_item if self.softmax_loss is None else unit_vectors(x_item)

    def _forward_sampled(self, sample: SampledGraph) -> tuple[Tensor, Tensor]:
        user_index = sample.data["user"].n_id
        if self.shards is not None:
            x_user = self.shards.lookup(self.user, user_index, self.sparse_user_gradients)
        else:
            x_user = gather_rows(self.user, user_index) if self.sparse_user_gradients else self.user[user_index]
        x_user = unit_vectors(x_user).flatten(start_dim=1)
        x_item = self.encode_items(sample.data).flatten(start_dim=1)
        out_user, out_item = self._propagate_sampled(x_user, x_item, sample.own)
        user = self.fusion(self.split_branches(out_user), user_index[sample.own.user[0]])
        if self.item_conv is not None:
            near = self._propagate_sampled(x_user, x_item, sample.near)[1] if sample.similar else out_item
            out_item = self.item_conv.forward_levels(out_item, near, sample.similar)
        return user, self.as_output(out_item)

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
            learned = Vectors(
                user=self.fusion(x_user),
                user_weight=self.fusion.attention(x_user),
                item=self._with_neighbors(data, x_item),
                item_layers=torch.stack([item for _, item in self.bipartite_conv.layers(*inputs)]),
                linear=x_item.new_empty(len(x_item), 0),
            )
        if not (self.linear_dim and self.linear_l2 and self.linear_weight):
            return learned
        return with_linear(learned, data, self.linear_items(data))

    def linear_items(self, data: HeteroData) -> LinearItems:
        """Return the items of the linear branch, with its weight."""
        assert self.linear_l2 is not None
        linear = self._kept_linear_items(data, self.linear_dim, self.linear_l2, self.linear_content)
        return linear.scaled(self.linear_weight or 0.0)

    def _kept_linear_items(self, data: HeteroData, dim: int, l2: float, content: Mapping[str, float]) -> LinearItems:
        """Compute the linear branch without its weight, and keep it for the next call with the same arguments."""
        edge_index, settings = data[INTERACTS].edge_index, (dim, l2, content)
        if self._linear is None or self._linear[0] is not edge_index or self._linear[1] != settings:
            self._linear = edge_index, settings, linear_items(data, *settings)
        return self._linear[2]

    @torch.no_grad()
    def complete(self, config: LIRDRecConfig, data: HeteroData, measure: Measure | None) -> LIRDRecConfig:
        """Choose what is left open about the linear branch by validation; see :class:`~lirdrec_pyg.models.Model`."""
        if config.linear_dim:
            self.linear_weight = None  # no linear branch yet
            config = completed(config, data, self.vectors(data), measure, self._kept_linear_items)
        self.linear_dim, self.linear_l2, self.linear_weight = config.linear_dim, config.linear_l2, config.linear_weight
        self.linear_content = config.linear_content
        return config

    def attribution(self, data: HeteroData, vectors: Vectors) -> PropagatedUsers:
        """See :class:`~lirdrec_pyg.models.Model`."""
        history = SeenItems.of(data[INTERACTS].edge_index, self.num_users)
        user = torch.arange(self.num_users, device=history.item.device).repeat_interleave(history.start.diff())
        weight = bipartite_norm(torch.stack([user, history.item]), self.num_users, data["item"].num_nodes)
        return PropagatedUsers(history, weight, self.user, vectors)

    def layerwise_vectors(self, data: HeteroData, total: Callable[[Tensor], Tensor] = lambda part: part) -> Vectors:
        """Return :meth:`vectors` for graphs for which one pass needs too much memory, see
        :func:`~lirdrec_pyg.models.layerwise_vectors`."""
        return layerwise_vectors(self, data, total=total)

    def loss(self, data: HeteroData, triples: Tensor, weight: float = 1.0) -> Tensor:
        user, item = self(data)
        if self.softmax_loss is not None:
            return weight * self._softmax(self.softmax_loss, data, triples, user, item)
        # Not user[u]: the order in which its gradient is summed is not deterministic.
        x, items = F.embedding(triples[0], user), F.embedding(triples[1:], item)
        # One by one: the product of all is as large as all items together.
        positive, *negatives = [(x * rows).sum(dim=-1) for rows in items]
        return self.bpr_loss(positive, torch.stack(negatives), user, item, weight)

    def _softmax(self, loss: SoftmaxLoss, data: HeteroData, pairs: Tensor, user: Tensor, item: Tensor) -> Tensor:
        history = data["user"].get("history") or SeenItems.of(data[INTERACTS].edge_index, self.num_users)
        clicked = degree(history.item, len(item)).nonzero().view(-1)
        negatives = clicked
        if len(clicked) > MAX_NEGATIVES:
            negatives = clicked[torch.randperm(len(clicked), device=clicked.device)[:MAX_NEGATIVES]]
        column = torch.full((len(item),), -1, device=item.device)
        column[negatives] = torch.arange(len(negatives), device=item.device)
        users, row = pairs[0].unique(return_inverse=True)
        seen_row, seen = history.pairs(users)
        masked = torch.stack([seen_row, column[seen]])
        activity = history.start.diff().to(user.dtype)
        weight = activity.clamp(min=1) ** -self.activity_power
        weight = weight * (activity.sum() / (activity * weight).sum())
        return loss(
            unit_vectors(F.embedding(users, user)),
            F.embedding(negatives, item),
            masked[:, masked[1] >= 0],
            row,
            F.embedding(pairs[1], item),
            weight[pairs[0]],
            len(clicked),
        )

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
        seen = SeenItems.of(data[INTERACTS].edge_index, self.num_users) if exclude_seen else None
        blocks = list(self.ranker(data).top_k(index.to(self.user.device), k, seen))
        return torch.cat([b.score for b in blocks]), torch.cat([b.item for b in blocks])

    def extra_repr(self) -> str:
        return f"num_users={self.num_users}, in_channels={self.in_channels}, embedding_dim={self.embedding_dim}"


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
