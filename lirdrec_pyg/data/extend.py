"""Later interactions join a data set, with their new users and items."""

import warnings
from dataclasses import fields, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data.dataset import DataConfig, Dataset
from lirdrec_pyg.data.graph import (
    INTERACTS,
    NEW_ITEM,
    SIMILAR,
    feature_mask,
    has_new_items,
    held_out_edges,
    item_features,
    joined_nodes,
    known_interactions,
    modalities,
    set_features,
    set_interactions,
    without_new_items,
)
from lirdrec_pyg.data.ids import warn_of_look_alikes
from lirdrec_pyg.data.interactions import ColumnConfig, merge_duplicates
from lirdrec_pyg.data.new_items import NewItems
from lirdrec_pyg.data.splits import Split
from lirdrec_pyg.data.vocabulary import Vocabulary
from lirdrec_pyg.errors import DataError, listed


def extend(
    dataset: Dataset,
    interactions: pl.DataFrame,
    hold_out: float,
    num_validation: int = 0,
    seed: int = 0,
    features: NewItems | None = None,
) -> Dataset:
    """Return ``dataset`` with later interactions.

    The interactions that were known before are for training, those for testing among them; only those for validation
    stay held out, until there are later ones in their place. Users and items keep their positions, and new ones follow.
    The new items of ``dataset`` become items like all others. There is no item graph.

    Args:
        dataset: data of an earlier training, with the features of all items.
        interactions: frame of :func:`~lirdrec_pyg.data.read_interactions`. What is known already counts once; what
            belongs to an item without features is left out, with a warning.
        hold_out: share of the new interactions to hold out, the latest ones, or, without times, random ones: half for
            test, of users with training interactions in ``dataset``, and of the others half for validation.
        num_validation: number of validation interactions up to which earlier ones stay held out.
        seed: seed of the random choice.
        features: features of items of ``dataset``, of which those that were missing so far are used.

    Raises:
        DataError: if no interaction is new.
    """
    items = dataset.all_items
    graph = _with_all_items(dataset.graph)
    num_filled = 0 if features is None else _fill_missing(graph, items, features)
    position = items.find(interactions["item"])
    known = pl.Series(position >= 0)
    if not known.all():
        unknown = interactions["item"].filter(~known).unique(maintain_order=True)
        text = f"{(~known).sum()} interactions are with {len(unknown)} items that are unknown ({listed(unknown)})."
        advice = "Pass `features` of these items."
        if not known.any():
            raise DataError(f"{text} {advice} {items.hint(unknown)}")
        warnings.warn(f"{text} They are left out. {advice} {items.hint(unknown)}", stacklevel=3)
    frame = merge_duplicates(interactions.filter(known).with_columns(item=pl.Series(position).filter(known)))
    users = dataset.users
    later = frame["user"].unique(maintain_order=True)
    if len(more := later.filter(pl.Series(users.find(later) < 0))):
        warn_of_look_alikes(more, users.ids, "user")
        if len(more) == len(later):
            warnings.warn(f"None of the {len(more)} users is known so far. {users.hint(more)}", stacklevel=3)
        users = users.extended(more)
    pairs = np.stack([users.positions(frame["user"]), frame["item"].to_numpy()])
    before = known_interactions(dataset.graph)
    keys = _keys(before.numpy(), len(items))
    is_new = ~np.isin(_keys(pairs, len(items)), keys)
    if not is_new.any():
        raise DataError(f"All {len(frame)} interactions are known already. Pass later ones.")
    pairs, frame = pairs[:, is_new], frame.filter(pl.Series(is_new))
    graph["user"].num_nodes = len(users)
    learned = np.isin(pairs[0], dataset.graph[INTERACTS].edge_index[0].unique().numpy())
    train, valid, test = (
        torch.from_numpy(pairs[:, part]) for part in _divided(_in_time(frame, seed), learned, hold_out)
    )
    earlier = held_out_edges(dataset.graph, Split.VALID)
    kept = _some(earlier, num_validation - valid.size(1), seed)
    others = torch.from_numpy(~np.isin(keys, _keys(kept.numpy(), len(items))))
    train = torch.cat([before[:, others], train], dim=1)
    graph = set_interactions(graph, [train, torch.cat([kept, valid], dim=1), test])
    facts = {
        **dataset.facts,
        "interactions before": before.size(1),
        "interactions added": pairs.shape[1],
        "held out": "the latest interactions" if "time" in frame.columns else "random interactions, without times",
        "users added": len(users) - len(dataset.users),
        "items added": len(items) - len(dataset.items),
        "items with more features": num_filled,
        **{
            f"items without {modality}": int((~mask).sum())
            for modality in modalities(graph)
            if (mask := feature_mask(graph, modality)) is not None
        },
    }
    config = None
    if dataset.config is not None:  # the files do not hold these data, but later ones may have the same columns
        names = [*(entry.name for entry in fields(ColumnConfig)), "id_col", "zero_features"]
        config = DataConfig(**{name: getattr(dataset.config, name) for name in names})
    return replace(dataset, graph=graph, users=users, items=items, new_items=None, config=config, facts=facts)


def knows_all(dataset: Dataset, interactions: pl.DataFrame) -> bool:
    """Return whether ``dataset`` has all ``interactions`` with known items."""
    items = dataset.all_items
    item, user = items.find(interactions["item"]), dataset.users.find(interactions["user"])
    pairs = np.stack([user, item])[:, item >= 0]
    known = _keys(known_interactions(dataset.graph).numpy(), len(items))
    return bool((pairs[0] >= 0).all() and np.isin(_keys(pairs, len(items)), known).all())


def _with_all_items(data: HeteroData) -> HeteroData:
    """Return a copy of ``data`` without item graph, whose new items are items like all others."""
    graph = without_new_items(data)
    if SIMILAR in graph.edge_types:
        del graph[SIMILAR]
    if has_new_items(data):
        graph["item"].update(joined_nodes(data["item"], data[NEW_ITEM], modalities(data)))
    return graph


def _fill_missing(graph: HeteroData, items: Vocabulary, new: NewItems) -> int:
    """Use features of items that had none in some modality, and return the number of these items."""
    filled = torch.zeros(len(items), dtype=torch.bool)
    position = torch.from_numpy(items.find(new.ids.ids))
    for modality, values in new.features.items():
        if (mask := feature_mask(graph, modality)) is None:
            continue
        fills = (position >= 0) & ~mask[position]
        if modality in new.masks:
            fills &= new.masks[modality]
        if not fills.any():
            continue
        row = position[fills]
        filled[row] = True
        x, mask = item_features(graph, modality).clone(), mask.clone()
        x[row], mask[row] = values[fills].to(x.dtype), True
        set_features(graph, modality, x, mask)
    return int(filled.sum())


def _keys(pairs: np.ndarray, num_items: int) -> np.ndarray:
    """Return one number per pair (user, item)."""
    return pairs[0] * num_items + pairs[1]


def _some(pairs: Tensor, count: int, seed: int) -> Tensor:
    """Return ``count`` random ones of ``pairs``, or all if there are fewer."""
    order = np.random.default_rng(seed).permutation(pairs.size(1))
    return pairs[:, torch.from_numpy(order[: max(0, count)])]


def _in_time(frame: pl.DataFrame, seed: int) -> np.ndarray:
    """Return rows in the order of their times; those of one time, or without times, in random order."""
    order = np.random.default_rng(seed).permutation(len(frame))
    if "time" not in frame.columns:
        return order
    return order[np.argsort(frame["time"].rank("dense").to_numpy()[order], kind="stable")]


def _divided(order: np.ndarray, learned: np.ndarray, hold_out: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows for training, validation and test, see :func:`extend`."""
    half = round(hold_out / 2 * len(order))
    of_learned = order[learned[order]]
    test = of_learned[len(of_learned) - min(half, len(of_learned)) :]
    rest = order[~np.isin(order, test)]
    return rest[: len(rest) - half], rest[len(rest) - half :], test
