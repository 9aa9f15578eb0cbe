"""The graph every other part works on: one ``HeteroData`` of users, items and their interactions.

=====================================  ==========================================================
``data["user"].num_nodes``             number of users
``data["item"].num_nodes``             number of items
``data["item"].x_<modality>``          features, shape ``(num_items, d_m)``, floating point
``data["item"].mask_<modality>``       optional, ``(num_items,)`` bool, ``True`` where the item has
                                       features of its own; the other rows hold the mean vector
``data[INTERACTS].edge_index``         training interactions (user, item), int64, sorted by user
``data[INTERACTED_BY].edge_index``     the same edges, reversed
``data[INTERACTS].val_edge_label_index``, ``test_edge_label_index``
                                       held-out interactions (user, item)
``data["new_item"]``                   optional: items that came after the training, with ``x_`` and ``mask_``
                                       as ``data["item"]`` has them; no edge leads to them. If they were held
                                       out by a split, ``val_edge_label_index`` and ``test_edge_label_index``
                                       are their interactions (user, new item)
``data[SIMILAR].edge_index``           item graph, edges from a neighbour to the item it informs,
                                       with ``edge_weight`` (see :class:`~lirdrec_pyg.transforms.AddItemKNN`)
=====================================  ==========================================================
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce

from lirdrec_pyg.data.features import check_features, check_matrix, fill_missing_rows, finite_rows, mean_row
from lirdrec_pyg.data.tables import first_line, shown
from lirdrec_pyg.data.tensors import save_tensors
from lirdrec_pyg.errors import DataError

INTERACTS = ("user", "interacts", "item")
INTERACTED_BY = ("item", "rev_interacts", "user")
SIMILAR = ("item", "similar", "item")
NEW_ITEM = "new_item"

Split = Literal["val", "test"]

SPLIT_NAMES: dict[Split, str] = {"val": "validation", "test": "test"}
# As figures of them are called.
REPORTED_SPLITS: dict[str, Split] = {"valid": "val", "test": "test"}

_FEATURE_PREFIX = "x_"
_FORMAT = "lirdrec-pyg graph 1"
_INDEX_TYPES = {
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
}


def modalities(data: HeteroData) -> tuple[str, ...]:
    """Names of the modalities of ``data``, in the order in which they were added."""
    return tuple(
        key.removeprefix(_FEATURE_PREFIX)
        for key in data["item"].keys()  # noqa: SIM118 - a PyG store iterates over values
        if key.startswith(_FEATURE_PREFIX)
    )


def item_features(data: HeteroData, modality: str, node_type: str = "item") -> Tensor:
    """Feature matrix ``x_<modality>``, shape ``(num_items, d_m)``."""
    return data[node_type][f"{_FEATURE_PREFIX}{modality}"]


def feature_mask(data: HeteroData, modality: str, node_type: str = "item") -> Tensor | None:
    """Which items have features of their own in ``modality``; ``None`` when all have."""
    return data[node_type].get(f"mask_{modality}")


def held_out_edges(data: HeteroData, split: Split) -> Tensor:
    """Held-out interactions of ``split``, shape ``(2, num_pairs)``."""
    return data[INTERACTS][f"{split}_edge_label_index"]


def has_new_items(data: HeteroData) -> bool:
    """Whether there are items that came after the training."""
    # data["new_item"] would make an empty store.
    return NEW_ITEM in data.node_types


def without_new_items(data: HeteroData) -> HeteroData:
    """A copy of ``data`` without the items that came after the training."""
    data = copy.copy(data)
    if has_new_items(data):
        del data[NEW_ITEM]
    return data


def new_item_edges(data: HeteroData, split: Split) -> Tensor | None:
    """Held-out interactions (user, new item) of ``split``; ``None`` where no split held the new items out."""
    return data[NEW_ITEM].get(f"{split}_edge_label_index") if has_new_items(data) else None


def build_graph(
    train: Tensor | np.ndarray,
    features: Mapping[str, Tensor | np.ndarray],
    *,
    val: Tensor | np.ndarray | None = None,
    test: Tensor | np.ndarray | None = None,
    masks: Mapping[str, Tensor | np.ndarray] | None = None,
    num_users: int | None = None,
) -> HeteroData:
    """Builds the graph from arrays of positions.

    Args:
        train: training interactions, shape ``(2, num_pairs)``, row 0 users, row 1 items, counted
            from 0. A pair given twice counts once.
        features: for each modality a matrix of shape ``(num_items, d_m)``. Its dtype is kept, and a
            memory-mapped matrix stays mapped unless rows have to be filled in.
        val: validation interactions, as ``train``.
        test: test interactions, as ``train``.
        masks: for a modality that lacks some items, a bool vector of shape ``(num_items,)``, ``True``
            where a row is real. The other rows are replaced by the mean of the real ones.
        num_users: number of users; by default one more than the largest index.

    Returns:
        A graph that passes :func:`check_graph`.

    Raises:
        DataError: if something is wrong with the arrays, in a sentence that says what.
    """
    if not features:
        raise DataError("The graph has no item features: give at least one modality, such as features={'image': x}.")
    masks = masks or {}
    if unknown := masks.keys() - features.keys():
        raise DataError(f"There is a mask of {', '.join(sorted(unknown))}, but no features of that name.")
    data = HeteroData()
    splits = {"training": train, "validation": val, "test": test}
    edges = {name: _as_edges(name, pairs) for name, pairs in splits.items()}

    matrices = {modality: _as_tensor(values, f"x_{modality}") for modality, values in features.items()}
    for modality, x in matrices.items():
        check_matrix(x, source=f"x_{modality}")
    num_items = len(next(iter(matrices.values())))
    if num_users is None:
        num_users = 1 + max(int(e[0].max()) if e.numel() else -1 for e in edges.values())
    for name, pairs in edges.items():
        _check_range(name, pairs, num_users, num_items)
    data["user"].num_nodes, data["item"].num_nodes = num_users, num_items

    for modality, x in matrices.items():
        if modality in masks:
            mask = _as_tensor(masks[modality], f"mask_{modality}").bool()
            data["item"][f"mask_{modality}"] = mask
            x = fill_missing_rows(x, mask, name=f"x_{modality}")
        data["item"][f"{_FEATURE_PREFIX}{modality}"] = x

    data[INTERACTS].edge_index = coalesce(edges["training"])
    for split, name in SPLIT_NAMES.items():
        data[INTERACTS][f"{split}_edge_label_index"] = coalesce(edges[name])
    data[INTERACTED_BY].edge_index = data[INTERACTS].edge_index.flip([0])
    check_graph(data)
    return data


def set_new_items(
    data: HeteroData,
    features: Mapping[str, Tensor | np.ndarray],
    masks: Mapping[str, Tensor | np.ndarray] | None = None,
    held_out: Mapping[Split, Tensor] | None = None,
) -> HeteroData:
    """A copy of ``data`` with the items that came after the training; it shares all else with ``data``.

    Args:
        data: a graph of :func:`build_graph`.
        features: a matrix of shape ``(num_new, d_m)`` for each modality of ``data``.
        masks: for a modality that lacks some of the new items, ``True`` where a row is real. The other
            rows are replaced by the mean of the trained items.
        held_out: their interactions (user, new item), if a split held them out.

    Raises:
        DataError: if something is wrong with the arrays, in a sentence that says what.
    """
    names = modalities(data)
    if set(features) != set(names):
        raise DataError(f"New items need the modalities {', '.join(names)}, got {', '.join(features) or 'none'}.")
    masks = masks or {}
    if unknown := masks.keys() - set(names):
        raise DataError(f"There is a mask of {', '.join(sorted(unknown))}, but no features of that name.")
    data = without_new_items(data)
    matrices = {modality: _as_tensor(features[modality], f"x_{modality}") for modality in names}
    num_new = len(next(iter(matrices.values())))
    data[NEW_ITEM].num_nodes = num_new
    for modality, x in matrices.items():
        known = item_features(data, modality)
        check_matrix(x, source=f"x_{modality} of the new items")
        if tuple(x.shape) != (num_new, known.size(1)):
            raise DataError(
                f"x_{modality} of the new items has the shape {tuple(x.shape)}, but ({num_new}, {known.size(1)}) "
                "is needed: one row a new item, as wide as the features of the training."
            )
        x = x.to(known.device)
        if modality in masks:
            mask = _as_tensor(masks[modality], f"mask_{modality}").bool().to(known.device)
            if mask.shape != (num_new,):
                raise DataError(
                    f"mask_{modality} of the new items has the shape {tuple(mask.shape)}, not ({num_new},)."
                )
            data[NEW_ITEM][f"mask_{modality}"] = mask
            x = x.clone()
            x[~mask] = mean_row(known, feature_mask(data, modality)).to(x.dtype)
        used = data[NEW_ITEM].get(f"mask_{modality}")
        check_features(x, source=f"x_{modality} of the new items", used=used)
        data[NEW_ITEM][f"{_FEATURE_PREFIX}{modality}"] = x
    for split, pairs in (held_out or {}).items():
        _check_pairs(f"{SPLIT_NAMES[split]}", pairs, data["user"].num_nodes, num_new)
        data[NEW_ITEM][f"{split}_edge_label_index"] = coalesce(pairs)
    return data


def append_new_items(data: HeteroData, more: HeteroData) -> HeteroData:
    """A copy of ``data`` whose new items are its own, followed by those of ``more``.

    It has no held-out interactions with new items, since not all of these were held out.
    """
    if not has_new_items(data):
        return more
    data = copy.copy(data)
    own, other = data[NEW_ITEM], more[NEW_ITEM]
    joined: dict[str, Tensor] = {}
    for modality in modalities(data):
        key, mask = f"{_FEATURE_PREFIX}{modality}", f"mask_{modality}"
        joined[key] = torch.cat([own[key], other[key].to(own[key].dtype)])
        if mask in own or mask in other:
            joined[mask] = torch.cat(
                [s.get(mask, torch.ones(s.num_nodes, dtype=torch.bool, device=own[key].device)) for s in (own, other)]
            )
    num_nodes = own.num_nodes + other.num_nodes
    del data[NEW_ITEM]
    data[NEW_ITEM].num_nodes = num_nodes
    data[NEW_ITEM].update(joined)
    return data


def _as_edges(name: str, pairs: Tensor | np.ndarray | None) -> Tensor:
    if pairs is None:
        return torch.empty(2, 0, dtype=torch.long)
    edges = _as_tensor(pairs, f"The array of {name} pairs")
    if not edges.numel():
        return torch.empty(2, 0, dtype=torch.long)
    if edges.dtype not in _INDEX_TYPES or edges.dim() != 2 or edges.size(0) != 2:
        raise DataError(
            f"The {name} pairs need integers of shape (2, num_pairs), got {edges.dtype} of shape {tuple(edges.shape)}."
        )
    return edges.long().contiguous()


def _as_tensor(values: Tensor | np.ndarray, name: str) -> Tensor:
    try:
        if isinstance(values, np.ndarray) and not (values.dtype.isnative and all(s >= 0 for s in values.strides)):
            values = values.astype(values.dtype.newbyteorder("="), order="C")
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} can't be made a tensor ({first_line(error)}).") from error


def check_graph(data: HeteroData) -> None:
    """Checks that ``data`` has all a model needs, and says in one sentence what it lacks.

    Raises:
        DataError: naming the first thing that is missing or wrong.
    """
    if not isinstance(data, HeteroData):
        raise DataError(f"The graph has to be a HeteroData, got {type(data).__name__}.")
    for node_type in ("user", "item"):
        if node_type not in data.node_types or data[node_type].num_nodes is None:
            raise DataError(f"The graph lacks the number of {node_type}s: set data['{node_type}'].num_nodes.")
    num_users, num_items = data["user"].num_nodes, data["item"].num_nodes
    check_catalogue(num_items)

    names = modalities(data)
    if not names:
        raise DataError("The graph has no item features: set data['item'].x_<modality> for at least one modality.")
    for name in names:
        source = f"data['item'].x_{name}"
        x, mask = item_features(data, name), feature_mask(data, name)
        check_matrix(x, source=source)
        if len(x) != num_items:
            raise DataError(f"{source} has {len(x)} rows, but the graph has {num_items} items.")
        if mask is not None and (
            not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != (num_items,)
        ):
            raise DataError(
                f"data['item'].mask_{name} has to be a bool tensor of {num_items} entries, "
                f"got a {type(mask).__name__} of {mask.dtype} and shape {tuple(mask.shape)}."
            )
        # A row that was filled in may be zero, as a mean can be, but has to be finite like all others.
        check_features(x, source=source, used=None if mask is None else mask | ~finite_rows(x))

    if INTERACTS not in data.edge_types or "edge_index" not in data[INTERACTS]:
        raise DataError(f"The graph has no interactions: set data{list(INTERACTS)}.edge_index.")
    if INTERACTED_BY not in data.edge_types or "edge_index" not in data[INTERACTED_BY]:
        raise DataError(f"The graph lacks the reversed interactions: set data{list(INTERACTED_BY)}.edge_index.")
    edge_index, reverse = data[INTERACTS].edge_index, data[INTERACTED_BY].edge_index
    _check_pairs("training", edge_index, num_users, num_items)
    _check_pairs("reversed", reverse, num_items, num_users)
    if edge_index.size(1) == 0:
        raise DataError("The training split is empty: there is no interaction to learn from.")
    if not _same_pairs(edge_index, reverse.flip([0])):
        raise DataError(
            f"The {reverse.size(1)} reversed interactions are not those of the training split, which has "
            f"{edge_index.size(1)}: set data{list(INTERACTED_BY)}.edge_index to edge_index.flip([0])."
        )
    for split, name in SPLIT_NAMES.items():
        if f"{split}_edge_label_index" in data[INTERACTS]:
            _check_pairs(name, held_out_edges(data, split), num_users, num_items)
    if SIMILAR in data.edge_types:
        similar = data[SIMILAR]
        if "edge_index" not in similar:
            raise DataError(f"The item graph has no edges: set data{list(SIMILAR)}.edge_index.")
        _check_pairs("similar", similar.edge_index, num_items, num_items)
        if "edge_weight" not in similar or len(similar.edge_weight) != similar.edge_index.size(1):
            raise DataError(f"The item graph needs one weight an edge: set data{list(SIMILAR)}.edge_weight.")
    try:
        # Without the new items, which PyG would find isolated.
        without_new_items(data).validate()
    except ValueError as error:
        raise DataError(f"The graph is not a valid HeteroData: {error}.") from error


def check_catalogue(num_items: int) -> None:
    """Raises :class:`DataError` if there are too few items to rank."""
    if num_items < 2:
        raise DataError(f"The catalogue has {num_items} item(s): at least two are needed to prefer one over another.")


def _check_pairs(name: str, index: Tensor, num_rows: int, num_columns: int) -> None:
    if not isinstance(index, Tensor) or index.dtype != torch.long or index.dim() != 2 or index.size(0) != 2:
        found = f"{index.dtype} of shape {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise DataError(f"The {name} pairs have to be an int64 tensor of shape (2, num_pairs), got {found}.")
    _check_range(name, index, num_rows, num_columns)


def _same_pairs(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return torch.equal(a, b) or torch.equal(coalesce(a), coalesce(b))


def _check_range(name: str, index: Tensor, num_rows: int, num_columns: int) -> None:
    if index.numel() == 0:
        return
    low, high = index.amin(dim=1).tolist(), index.amax(dim=1).tolist()
    if min(low) < 0 or high[0] >= num_rows or high[1] >= num_columns:
        raise DataError(
            f"The {name} pairs hold indices {low} to {high}, outside of [0, 0] to [{num_rows - 1}, {num_columns - 1}]."
        )


def save_graph(data: HeteroData, path: Path) -> None:
    """Writes ``data`` (features, interactions, splits, item graph) as one ``.safetensors`` file."""
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for store in (*data.node_stores, *data.edge_stores):
        prefix = store._key if isinstance(store._key, str) else "/".join(store._key)
        for key, value in store.items():
            if isinstance(value, Tensor):
                tensor = value.detach().cpu().as_subclass(Tensor).contiguous()
                # The format has no two tensors in one piece of memory.
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
    """Reads a graph that :func:`save_graph` wrote.

    Raises:
        DataError: if the file is missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise DataError(f"{path} holds {metadata.get('format', 'no graph')!r}, this version reads {_FORMAT!r}.")
            data = HeteroData()
            for node_type, num_nodes in json.loads(metadata["num_nodes"]).items():
                if type(num_nodes) is not int or num_nodes < 0:
                    raise ValueError(f"{shown(num_nodes)} is no number of nodes")
                data[node_type].num_nodes = num_nodes
            for name in json.loads(metadata["order"]):
                prefix, key = name.split(":", 1)
                if key == "num_nodes":
                    raise ValueError("a tensor stands for the number of nodes")
                store = data[tuple(prefix.split("/"))] if "/" in prefix else data[prefix]
                store[key] = file.get_tensor(name)
    except FileNotFoundError:
        raise DataError(f"There is no graph at {path}.") from None
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not a readable graph ({first_line(error)}): it may be damaged or cut short."
        ) from error
    return data
