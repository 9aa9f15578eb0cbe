"""The graph that all other parts use: one ``HeteroData`` of users, items and their interactions.

=====================================  ==========================================================
``data["user"].num_nodes``             number of users
``data["item"].num_nodes``             number of items
``data["item"].x_<modality>``          features, shape ``(num_items, d_m)``, floating point
``data["item"].mask_<modality>``       optional, ``(num_items,)`` bool, ``False`` where the features
                                       of an item are missing and its row holds the mean vector
``data[INTERACTS].edge_index``         training interactions (user, item), int64, sorted by user
``data[INTERACTED_BY].edge_index``     the same edges, reversed
``data[INTERACTS].val_...``            held-out interactions (user, item): ``val_edge_label_index`` and
                                       ``test_edge_label_index``
``data["new_item"]``                   optional: items added after the training, with ``x_`` and ``mask_`` as in
                                       ``data["item"]``, and without edges. If a split held them out,
                                       ``val_edge_label_index`` and ``test_edge_label_index`` are their
                                       interactions (user, new item)
``data[SIMILAR].edge_index``           item graph, edges from a neighbor to the item it informs,
                                       with ``edge_weight`` (see :class:`~lirdrec_pyg.transforms.AddItemKNN`)
=====================================  ==========================================================
"""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import NodeStorage
from torch_geometric.utils import coalesce

from lirdrec_pyg.data.features import check_matrix, check_rows, described, fill_missing_rows, mean_row, scan_rows
from lirdrec_pyg.data.splits import HELD_OUT, Split
from lirdrec_pyg.edge_index import plain
from lirdrec_pyg.errors import DataError, first_line, shown
from lirdrec_pyg.files import save_tensors

INTERACTS = ("user", "interacts", "item")
INTERACTED_BY = ("item", "rev_interacts", "user")
SIMILAR = ("item", "similar", "item")
NEW_ITEM = "new_item"

_FEATURE_PREFIX = "x_"
_FORMAT = "lirdrec-pyg graph 1"
_INDEX_TYPES = {
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
}


def modalities(data: HeteroData) -> tuple[str, ...]:
    """Return the names of the modalities of ``data``, in the order in which they were added."""
    return tuple(
        key.removeprefix(_FEATURE_PREFIX)
        for key in data["item"].keys()  # noqa: SIM118 - a PyG store iterates over values
        if key.startswith(_FEATURE_PREFIX)
    )


def item_features(data: HeteroData, modality: str, node_type: str = "item") -> Tensor:
    """Return the feature matrix ``x_<modality>``, shape ``(num_items, d_m)``."""
    return data[node_type][f"{_FEATURE_PREFIX}{modality}"]


def feature_mask(data: HeteroData, modality: str, node_type: str = "item") -> Tensor | None:
    """Return which items have features in ``modality``; ``None`` if all have."""
    return data[node_type].get(f"mask_{modality}")


def feature_widths(data: HeteroData) -> dict[str, int]:
    """Return the feature width of each modality."""
    return {modality: item_features(data, modality).size(1) for modality in modalities(data)}


def held_out_edges(data: HeteroData, split: Split | str) -> Tensor:
    """Return the held-out interactions of ``split``, shape ``(2, num_pairs)``; empty if the graph has none."""
    edges = data[INTERACTS].get(Split(split).edge_label_key)
    return data[INTERACTS].edge_index.new_empty(2, 0) if edges is None else edges


def has_new_items(data: HeteroData) -> bool:
    """Return whether there are items that were added after the training."""
    # data["new_item"] would create an empty store.
    return NEW_ITEM in data.node_types


def without_new_items(data: HeteroData) -> HeteroData:
    """Return a copy of ``data`` without the items that were added after the training."""
    data = copy.copy(data)
    if has_new_items(data):
        del data[NEW_ITEM]
    return data


def new_item_edges(data: HeteroData, split: Split | str) -> Tensor | None:
    """Return the held-out interactions (user, new item) of ``split``; ``None`` if no split held out the new items."""
    return data[NEW_ITEM].get(Split(split).edge_label_key) if has_new_items(data) else None


def known_interactions(data: HeteroData) -> Tensor:
    """Return all interactions (user, item), for training and held out; new items follow the others."""
    held_out = (held_out_interactions(data, split) for split in HELD_OUT)
    return torch.cat([training_interactions(data), *held_out], dim=1)


def training_interactions(data: HeteroData) -> Tensor:
    """Return the training interactions (user, item) as a plain tensor, shape ``(2, num_pairs)``."""
    return plain(data[INTERACTS].edge_index)


def held_out_interactions(data: HeteroData, split: Split | str) -> Tensor:
    """Return the interactions (user, item) of a split, shape ``(2, num_pairs)``; new items follow the others."""
    pairs, new = held_out_edges(data, split), new_item_edges(data, split)
    if new is None:
        return pairs
    return torch.cat([pairs, torch.stack([new[0], new[1] + data["item"].num_nodes])], dim=1)


def build_graph(
    train: Tensor | np.ndarray,
    features: Mapping[str, Tensor | np.ndarray],
    *,
    val: Tensor | np.ndarray | None = None,
    test: Tensor | np.ndarray | None = None,
    masks: Mapping[str, Tensor | np.ndarray] | None = None,
    num_users: int | None = None,
) -> HeteroData:
    """Check arrays of positions and features, and build the graph.

    Args:
        train: training interactions, shape ``(2, num_pairs)``, row 0 users, row 1 items, counted
            from 0. Duplicate pairs count once.
        features: for each modality a matrix of shape ``(num_items, d_m)``. Its dtype is kept, and a
            memory-mapped matrix stays mapped unless rows have to be filled in.
        val: validation interactions, as ``train``.
        test: test interactions, as ``train``.
        masks: for a modality that is missing for some items, a bool vector of shape ``(num_items,)``, ``True``
            where a row holds features. The other rows are replaced by the mean of these.
        num_users: number of users; by default one more than the largest index.

    Returns:
        A graph that passes :func:`check_graph`.

    Raises:
        DataError: naming the array that is wrong.
    """
    if not features:
        raise DataError("The graph has no item features. Pass at least one modality, such as `features={'image': x}`.")
    edges = {split: _as_edges(split.title, pairs) for split, pairs in zip(Split, (train, val, test))}
    matrices = {modality: _as_tensor(values, f"x_{modality}") for modality, values in features.items()}
    for modality, x in matrices.items():
        check_matrix(x, source=f"x_{modality}")
    num_items = len(next(iter(matrices.values())))
    check_catalog(num_items)
    if num_users is None:
        num_users = 1 + max(int(e[0].max()) if e.numel() else -1 for e in edges.values())
    for split, pairs in edges.items():
        _check_range(split.title, pairs, num_users, num_items)
    _check_training(edges[Split.TRAIN])
    tensors = _as_masks(masks, matrices, num_items)
    for modality, x in matrices.items():
        source = f"x_{modality}"
        if len(x) != num_items:
            raise DataError(f"{source} has {len(x)} rows, but the graph has {num_items} items.")
        check_rows(x, scan_rows(x), source, tensors.get(modality))
    return build_checked_graph(list(edges.values()), matrices, tensors, num_users)


def build_checked_graph(
    edges: Sequence[Tensor], features: Mapping[str, Tensor], masks: Mapping[str, Tensor], num_users: int
) -> HeteroData:
    """Build the graph of :func:`build_graph` from tensors that are known to be right."""
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = num_users, len(next(iter(features.values())))
    for modality, x in features.items():
        set_features(data, modality, x, masks.get(modality))
    return set_interactions(data, edges)


def set_features(data: HeteroData, modality: str, x: Tensor, mask: Tensor | None) -> None:
    """Set the features of a modality, with the mean of the others in rows outside of ``mask``."""
    if mask is not None:
        data["item"][f"mask_{modality}"] = mask
        x = fill_missing_rows(x, mask, name=f"x_{modality}")
    data["item"][f"{_FEATURE_PREFIX}{modality}"] = x


def set_interactions(data: HeteroData, edges: Sequence[Tensor]) -> HeteroData:
    """Set the pairs for training, validation and test, sorted and each once."""
    train, *held_out = map(coalesce, edges)
    data[INTERACTS].edge_index = train
    for split, pairs in zip(HELD_OUT, held_out):
        data[INTERACTS][split.edge_label_key] = pairs
    data[INTERACTED_BY].edge_index = train.flip([0])
    return data


def set_new_items(
    data: HeteroData,
    features: Mapping[str, Tensor | np.ndarray],
    masks: Mapping[str, Tensor | np.ndarray] | None = None,
    held_out: Mapping[Split, Tensor] | None = None,
    ids: pl.Series | None = None,
) -> HeteroData:
    """Check items that were added after the training, and return a copy of ``data`` with them; all else is shared.

    Args:
        data: a graph of :func:`build_graph`.
        features: a matrix of shape ``(num_new, d_m)`` for each modality of ``data``.
        masks: for a modality that is missing for some new items, ``True`` where a row holds features. The other
            rows are replaced by the mean of the trained items.
        held_out: interactions (user, new item), if a split held the items out.
        ids: IDs of the items, for messages.

    Raises:
        DataError: naming the array that is wrong.
    """
    names = modalities(data)
    if set(features) != set(names):
        raise DataError(f"New items need the modalities {', '.join(names)}, got {', '.join(features) or 'none'}.")
    matrices = {m: _as_tensor(features[m], f"x_{m}").to(item_features(data, m).device) for m in names}
    num_new = len(next(iter(matrices.values())))
    tensors = _as_masks(masks, matrices, num_new)
    for modality, x in matrices.items():
        source, width = f"x_{modality} of the new items", item_features(data, modality).size(1)
        check_matrix(x, source=source)
        if tuple(x.shape) != (num_new, width):
            raise DataError(
                f"{source} has the shape {tuple(x.shape)}, but must have ({num_new}, {width}): one row per new item, "
                "and the width of the features in training."
            )
        check_rows(x, scan_rows(x), source, tensors.get(modality), ids)
    for split, pairs in (held_out or {}).items():
        _check_pairs(split.title, pairs, data["user"].num_nodes, num_new)
    return set_checked_new_items(data, matrices, tensors, held_out or {})


def set_checked_new_items(
    data: HeteroData, features: Mapping[str, Tensor], masks: Mapping[str, Tensor], held_out: Mapping[Split, Tensor]
) -> HeteroData:
    """Do as :func:`set_new_items` with tensors that are known to be right."""
    data = without_new_items(data)
    data[NEW_ITEM].num_nodes = len(next(iter(features.values())))
    for modality in modalities(data):
        x = features[modality]
        if modality in masks:
            data[NEW_ITEM][f"mask_{modality}"] = mask = masks[modality]
            x = x.clone()
            x[~mask] = mean_row(item_features(data, modality), feature_mask(data, modality)).to(x.dtype)
        data[NEW_ITEM][f"{_FEATURE_PREFIX}{modality}"] = x
    for split, pairs in held_out.items():
        data[NEW_ITEM][split.edge_label_key] = coalesce(pairs)
    return data


def append_new_items(data: HeteroData, more: HeteroData) -> HeteroData:
    """Return a copy of ``data`` with the new items of ``more`` after its own.

    It has no held-out interactions with new items, since not all of these were held out.
    """
    if not has_new_items(data):
        return more
    joined = joined_nodes(data[NEW_ITEM], more[NEW_ITEM], modalities(data))
    data = without_new_items(data)
    data[NEW_ITEM].update(joined)
    return data


def joined_nodes(own: NodeStorage, other: NodeStorage, names: Iterable[str]) -> dict[str, Any]:
    """Return the number, features and masks of items and of others after them."""
    joined = {"num_nodes": own.num_nodes + other.num_nodes}
    for modality in names:
        key, mask = f"{_FEATURE_PREFIX}{modality}", f"mask_{modality}"
        joined[key] = torch.cat([own[key], other[key].to(own[key].dtype)])
        if mask in own or mask in other:
            joined[mask] = torch.cat(
                [s.get(mask, torch.ones(s.num_nodes, dtype=torch.bool, device=own[key].device)) for s in (own, other)]
            )
    return joined


def _as_edges(name: str, pairs: Tensor | np.ndarray | None) -> Tensor:
    edges = torch.empty(0) if pairs is None else _as_tensor(pairs, f"The array of {name} pairs")
    if not edges.numel():
        return torch.empty(2, 0, dtype=torch.long)
    if edges.dtype not in _INDEX_TYPES or edges.dim() != 2 or edges.size(0) != 2:
        raise DataError(f"The {name} pairs must be integers of shape (2, num_pairs), got {described(edges)}.")
    return edges.long().contiguous()


def _as_tensor(values: Tensor | np.ndarray, name: str) -> Tensor:
    try:
        if isinstance(values, np.ndarray) and not (values.dtype.isnative and all(s >= 0 for s in values.strides)):
            values = values.astype(values.dtype.newbyteorder("="), order="C")
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} cannot be converted to a tensor ({first_line(error)}).") from error


def _as_masks(
    masks: Mapping[str, Tensor | np.ndarray] | None, features: Mapping[str, Tensor], num_rows: int
) -> dict[str, Tensor]:
    tensors = {}
    for modality, values in (masks or {}).items():
        if modality not in features:
            raise DataError(f"There is a mask of {modality}, but no features of that name.")
        tensors[modality] = _as_tensor(values, f"mask_{modality}").bool().to(features[modality].device)
        if tensors[modality].shape != (num_rows,):
            raise DataError(
                f"The mask of x_{modality} has the shape {tuple(tensors[modality].shape)}, not ({num_rows},)."
            )
    return tensors


def check_graph(data: HeteroData) -> None:
    """Check that a graph of unknown origin has everything that a model needs.

    Raises:
        DataError: naming the first thing that is missing or wrong.
    """
    if not isinstance(data, HeteroData):
        raise DataError(f"The graph must be a HeteroData, got {type(data).__name__}.")
    for node_type in ("user", "item"):
        if node_type not in data.node_types or not isinstance(data[node_type].num_nodes, (int, np.integer)):
            raise DataError(f"The graph has no number of {node_type}s. Set data['{node_type}'].num_nodes.")
    num_users, num_items = data["user"].num_nodes, data["item"].num_nodes
    check_catalog(num_items)

    names = modalities(data)
    if not names:
        raise DataError("The graph has no item features. Set data['item'].x_<modality> for at least one modality.")
    for name in names:
        source = f"data['item'].x_{name}"
        x, mask = item_features(data, name), feature_mask(data, name)
        check_matrix(x, source=source)
        if len(x) != num_items:
            raise DataError(f"{source} has {len(x)} rows, but the graph has {num_items} items.")
        if mask is not None and not (
            isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (num_items,)
        ):
            raise DataError(
                f"data['item'].mask_{name} must be a bool tensor of {num_items} entries, got {described(mask)}."
            )
        scan = scan_rows(x)
        # A row that was filled in may be zero, as a mean can be, but must be finite like all others.
        check_rows(x, scan, source, None if mask is None else mask | ~scan.finite)

    for name, edge_type, sizes in (
        ("training", INTERACTS, (num_users, num_items)),
        ("reversed", INTERACTED_BY, (num_items, num_users)),
    ):
        if edge_type not in data.edge_types or "edge_index" not in data[edge_type]:
            raise DataError(f"The graph has no {name} interactions. Set data{list(edge_type)}.edge_index.")
        _check_pairs(name, data[edge_type].edge_index, *sizes)
    edge_index, reverse = data[INTERACTS].edge_index, data[INTERACTED_BY].edge_index
    _check_training(edge_index)
    back = reverse.flip([0])
    if back.shape != edge_index.shape or not (
        torch.equal(back, edge_index) or torch.equal(coalesce(back), coalesce(edge_index))
    ):
        raise DataError(
            f"The {reverse.size(1)} reversed interactions do not match the {edge_index.size(1)} training interactions. "
            f"Set data{list(INTERACTED_BY)}.edge_index to edge_index.flip([0])."
        )
    for split in HELD_OUT:
        if split.edge_label_key in data[INTERACTS]:
            _check_pairs(split.title, held_out_edges(data, split), num_users, num_items)
    if SIMILAR in data.edge_types:
        similar = data[SIMILAR]
        if "edge_index" not in similar:
            raise DataError(f"The item graph has no edges. Set data{list(SIMILAR)}.edge_index.")
        _check_pairs("similar", similar.edge_index, num_items, num_items)
        weight = similar.get("edge_weight")
        if not isinstance(weight, Tensor) or weight.shape != similar.edge_index.shape[1:]:
            raise DataError(f"The item graph needs one weight per edge. Set data{list(SIMILAR)}.edge_weight.")
    try:
        # Without the new items, which are isolated in terms of PyG.
        without_new_items(data).validate()
    except ValueError as error:
        raise DataError(f"The graph is not a valid HeteroData: {error}.") from error


def _check_training(edge_index: Tensor) -> None:
    if edge_index.size(1) == 0:
        raise DataError("The training split is empty. Provide interactions to train on.")


def check_catalog(num_items: int) -> None:
    """Raise :class:`DataError` if there are too few items to rank."""
    if num_items < 2:
        raise DataError(f"There are {num_items} item(s). At least two are needed to rank them.")


def _check_pairs(name: str, index: Tensor, num_rows: int, num_columns: int) -> None:
    if not isinstance(index, Tensor) or index.dtype != torch.long or index.dim() != 2 or index.size(0) != 2:
        raise DataError(f"The {name} pairs must be an int64 tensor of shape (2, num_pairs), got {described(index)}.")
    _check_range(name, index, num_rows, num_columns)


def _check_range(name: str, index: Tensor, num_rows: int, num_columns: int) -> None:
    if index.numel() == 0:
        return
    low, high = index.amin(dim=1).tolist(), index.amax(dim=1).tolist()
    if min(low) < 0 or high[0] >= num_rows or high[1] >= num_columns:
        raise DataError(
            f"The {name} pairs have indices from {low} to {high}, outside of [0, 0] to "
            f"[{num_rows - 1}, {num_columns - 1}]."
        )


def save_graph(data: HeteroData, path: Path) -> None:
    """Write ``data`` (features, interactions, splits, item graph) to one ``.safetensors`` file."""
    tensors: dict[str, Tensor] = {}
    storages = set()
    for store in (*data.node_stores, *data.edge_stores):
        prefix = store._key if isinstance(store._key, str) else "/".join(store._key)
        for key, value in store.items():
            if isinstance(value, Tensor):
                tensor = plain(value.detach().cpu()).contiguous()
                # The format does not allow tensors that share memory.
                if (storage := tensor.untyped_storage().data_ptr()) in storages:
                    tensor = tensor.clone()
                storages.add(storage)
                tensors[f"{prefix}:{key}"] = tensor
    metadata = {
        "format": _FORMAT,
        "num_nodes": json.dumps({t: data[t].num_nodes for t in data.node_types}),
        "order": json.dumps(list(tensors)),
    }
    save_tensors(tensors, path, metadata)


def load_graph(path: Path) -> HeteroData:
    """Read a graph that :func:`save_graph` wrote.

    Raises:
        DataError: if the file is missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise DataError(f"{path} has format {metadata.get('format')!r}, but this version reads {_FORMAT!r}.")
            data = HeteroData()
            for node_type, num_nodes in json.loads(metadata["num_nodes"]).items():
                if type(num_nodes) is not int or num_nodes < 0:
                    raise ValueError(f"{shown(num_nodes)} is not a number of nodes")
                data[node_type].num_nodes = num_nodes
            for name in json.loads(metadata["order"]):
                prefix, key = name.split(":", 1)
                if key == "num_nodes":
                    raise ValueError("the number of nodes is a tensor")
                store = data[tuple(prefix.split("/"))] if "/" in prefix else data[prefix]
                store[key] = file.get_tensor(name)
    except FileNotFoundError:
        raise DataError(f"Graph {path} does not exist.") from None
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not a readable graph ({first_line(error)}). It may be damaged or incomplete."
        ) from error
    return data
