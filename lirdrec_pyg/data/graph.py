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
``data[SIMILAR].edge_index``           item graph, edges from a neighbour to the item it informs,
                                       with ``edge_weight`` (see :class:`~lirdrec_pyg.transforms.AddItemKNN`)
=====================================  ==========================================================
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce

from lirdrec_pyg.data.features import check_features, fill_missing_rows
from lirdrec_pyg.errors import DataError

INTERACTS = ("user", "interacts", "item")
INTERACTED_BY = ("item", "rev_interacts", "user")
SIMILAR = ("item", "similar", "item")

Split = Literal["val", "test"]

_FEATURE_PREFIX = "x_"
_FORMAT = "lirdrec-pyg graph 1"


def modalities(data: HeteroData) -> tuple[str, ...]:
    """Names of the modalities of ``data``, in the order in which they were added."""
    return tuple(
        key.removeprefix(_FEATURE_PREFIX)
        for key in data["item"].keys()  # noqa: SIM118 - a PyG store iterates over values
        if key.startswith(_FEATURE_PREFIX)
    )


def item_features(data: HeteroData, modality: str) -> Tensor:
    """Feature matrix ``x_<modality>``, shape ``(num_items, d_m)``."""
    return data["item"][f"{_FEATURE_PREFIX}{modality}"]


def feature_mask(data: HeteroData, modality: str) -> Tensor | None:
    """Which items have features of their own in ``modality``; ``None`` when all have."""
    return data["item"].get(f"mask_{modality}")


def held_out_edges(data: HeteroData, split: Split) -> Tensor:
    """Held-out interactions of ``split``, shape ``(2, num_pairs)``."""
    return data[INTERACTS][f"{split}_edge_label_index"]


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
    data = HeteroData()
    splits = {"train": train, "val": val, "test": test}
    edges = {name: _as_edges(name, pairs) for name, pairs in splits.items()}

    if num_users is None:
        num_users = 1 + max(int(e[0].max(initial=-1)) for e in map(_numpy, edges.values()))
    data["user"].num_nodes = num_users
    data["item"].num_nodes = len(next(iter(features.values())))

    masks = masks or {}
    for modality, values in features.items():
        x = torch.as_tensor(values)
        if (mask := masks.get(modality)) is not None:
            mask = torch.as_tensor(mask, dtype=torch.bool)
            data["item"][f"mask_{modality}"] = mask
            x = fill_missing_rows(x, mask, name=f"x_{modality}")
        data["item"][f"{_FEATURE_PREFIX}{modality}"] = x

    data[INTERACTS].edge_index = coalesce(edges["train"])
    for split in ("val", "test"):
        data[INTERACTS][f"{split}_edge_label_index"] = coalesce(edges[split])
    data[INTERACTED_BY].edge_index = data[INTERACTS].edge_index.flip([0])
    check_graph(data)
    return data


def _as_edges(name: str, pairs: Tensor | np.ndarray | None) -> Tensor:
    if pairs is None:
        return torch.empty(2, 0, dtype=torch.long)
    edges = torch.as_tensor(pairs)
    if edges.dim() != 2 or edges.size(0) != 2 or edges.is_floating_point():
        raise DataError(
            f"The {name} interactions need integers of shape (2, num_pairs), "
            f"got {edges.dtype} of shape {tuple(edges.shape)}."
        )
    return edges.long().contiguous()


def _numpy(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()


def check_graph(data: HeteroData) -> None:
    """Checks that ``data`` has all a model needs, and says in one sentence what it lacks.

    Raises:
        DataError: naming the first thing that is missing or wrong.
    """
    for node_type in ("user", "item"):
        if node_type not in data.node_types or data[node_type].num_nodes is None:
            raise DataError(f"The graph lacks the number of {node_type}s: set data['{node_type}'].num_nodes.")
    num_users, num_items = data["user"].num_nodes, data["item"].num_nodes
    if num_items < 2:
        raise DataError(f"The catalogue has {num_items} item(s): at least two are needed to prefer one over another.")

    names = modalities(data)
    if not names:
        raise DataError("The graph has no item features: set data['item'].x_<modality> for at least one modality.")
    for name in names:
        source = f"data['item'].x_{name}"
        x, mask = item_features(data, name), feature_mask(data, name)
        check_features(x, source=source)
        if len(x) != num_items:
            raise DataError(f"{source} has {len(x)} rows, but the graph has {num_items} items.")
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (num_items,)):
            raise DataError(
                f"data['item'].mask_{name} has to be a bool vector of {num_items} entries, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}."
            )

    if INTERACTS not in data.edge_types or "edge_index" not in data[INTERACTS]:
        raise DataError(f"The graph has no interactions: set data{list(INTERACTS)}.edge_index.")
    if INTERACTED_BY not in data.edge_types or "edge_index" not in data[INTERACTED_BY]:
        raise DataError(f"The graph lacks the reversed interactions: set data{list(INTERACTED_BY)}.edge_index.")
    edge_index = data[INTERACTS].edge_index
    if edge_index.size(1) == 0:
        raise DataError("The training split is empty: there is no interaction to learn from.")
    if data[INTERACTED_BY].edge_index.size(1) != edge_index.size(1):
        raise DataError(
            f"The graph has {edge_index.size(1)} interactions, "
            f"but {data[INTERACTED_BY].edge_index.size(1)} reversed ones."
        )
    pairs = {"training": edge_index}
    for split in ("val", "test"):
        if f"{split}_edge_label_index" in data[INTERACTS]:
            pairs[split] = held_out_edges(data, split)
    for name, index in pairs.items():
        _check_range(name, index, num_users, num_items)
    if SIMILAR in data.edge_types:
        similar = data[SIMILAR]
        _check_range("similar", similar.edge_index, num_items, num_items)
        if "edge_weight" not in similar or len(similar.edge_weight) != similar.edge_index.size(1):
            raise DataError(f"The item graph needs one weight an edge: set data{list(SIMILAR)}.edge_weight.")
    try:
        data.validate()
    except ValueError as error:
        raise DataError(f"The graph is not a valid HeteroData: {error}.") from error


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
    tensors = {}
    for store in (*data.node_stores, *data.edge_stores):
        prefix = store._key if isinstance(store._key, str) else "/".join(store._key)
        for key, value in store.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}:{key}"] = value.detach().cpu().as_subclass(Tensor).contiguous()
    metadata = {
        "format": _FORMAT,
        "num_nodes": json.dumps({t: data[t].num_nodes for t in data.node_types}),
        "order": json.dumps(list(tensors)),
    }
    save_file(tensors, path, metadata)


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
                data[node_type].num_nodes = num_nodes
            for name in json.loads(metadata["order"]):
                prefix, key = name.split(":", 1)
                store = data[tuple(prefix.split("/"))] if "/" in prefix else data[prefix]
                store[key] = file.get_tensor(name)
    except FileNotFoundError:
        raise DataError(f"There is no graph at {path}.") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable graph ({error}): it may be damaged or cut short.") from error
    return data
