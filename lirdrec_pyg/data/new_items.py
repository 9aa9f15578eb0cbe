"""Features of items that are added after the training."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.data.alignment import FeatureRows, check_listed, select_features
from lirdrec_pyg.data.dataset import feature_table
from lirdrec_pyg.data.feature_files import read_feature_files
from lirdrec_pyg.data.features import FeatureTable, ZeroFeatures
from lirdrec_pyg.data.ids import read_unique_ids, same_type, warn_of_missing_ids
from lirdrec_pyg.data.provenance import check_same_origin, provenance_facts
from lirdrec_pyg.data.vocabulary import Vocabulary
from lirdrec_pyg.errors import DataError, shown


@dataclass(frozen=True)
class NewItems:
    """Items that are added after the training.

    Attributes:
        ids: their IDs.
        features: a matrix of shape ``(len(ids), d_m)`` for each modality.
        masks: for a modality that is missing for some of them, ``True`` where a row holds features.
    """

    ids: Vocabulary
    features: dict[str, Tensor]
    masks: dict[str, Tensor]

    def without(self, known: Vocabulary) -> "NewItems | None":
        """Return the items that are not ``known``; ``None`` if all are."""
        kept = torch.from_numpy(known.find(self.ids.ids) < 0)
        if not kept.any():
            return None
        ids = Vocabulary(self.ids.ids.filter(pl.Series(kept.numpy())), "item")
        features, masks = ({m: x[kept] for m, x in tensors.items()} for tensors in (self.features, self.masks))
        return NewItems(ids, features, masks)


def read_new_items(
    features: Mapping[str, str | Path],
    widths: Mapping[str, int],
    ids: str | Path | None = None,
    zero_features: ZeroFeatures = "error",
    item_column: str | None = None,
    facts: Mapping[str, Any] | None = None,
    allow_other_features: bool = False,
    known: Vocabulary | None = None,
) -> NewItems:
    """Read features of new items; a warning names the modalities that are missing for some of them.

    Args:
        features: a file for each modality, see :func:`~lirdrec_pyg.data.read_features`. An omitted modality
            is missing for all of the items.
        widths: feature width of each modality of the model.
        ids: text file with one item ID per line, for feature files without IDs; if given,
            these are the items, else those of any of the files.
        zero_features: whether a row of zeros or of NaN is an error, or stands for missing features.
        item_column: name of the ID column of a table; by default it is recognized as in training.
        facts: facts about the data of the training, which may tell how their features were made.
        allow_other_features: whether to accept features that were made by another model or setting.
        known: items that are known already, and of which any modality may be missing without a warning.

    Raises:
        DataError: naming the file, row or parameter that is wrong.
    """
    _check_modalities(features, widths)
    listed = None if ids is None else read_unique_ids(ids, "ids")
    files = {modality: Path(path) for modality, path in features.items()}
    tables = read_feature_files(files, item_column)
    if facts and not allow_other_features:
        check_same_origin(facts, provenance_facts(files))
    return _assembled(tables, widths, listed, zero_features, known)


def new_items_in_memory(
    features: Mapping[str, Any],
    widths: Mapping[str, int],
    ids: pl.Series | None = None,
    zero_features: ZeroFeatures = "error",
    item_column: str | None = None,
    known: Vocabulary | None = None,
) -> NewItems:
    """Do as :func:`read_new_items` with features in memory, as :meth:`Dataset.from_frames` takes them.

    Args:
        features: for each modality a mapping from item IDs to vectors, a table with a column of item IDs, or an array.
        widths: feature width of each modality of the model.
        ids: item IDs of the rows of arrays; if given, these are the items.
        zero_features: as for :func:`read_new_items`, like the two below.
        item_column: name of the ID column of a table; by default it is recognized.
        known: items that are known already.

    Raises:
        DataError: naming the modality, row or parameter that is wrong.
    """
    _check_modalities(features, widths)
    tables = {modality: feature_table(modality, values, None, item_column) for modality, values in features.items()}
    return _assembled(tables, widths, ids, zero_features, known)


def _check_modalities(features: Mapping[str, Any], widths: Mapping[str, int]) -> None:
    if not features:
        raise DataError("The new items have no features. Pass `features` of at least one modality.")
    if unknown := [m for m in features if m not in widths]:
        raise DataError(f"`features` has {unknown[0]!r}, but the model was trained with {', '.join(widths)}.")


def _assembled(
    tables: Mapping[str, FeatureTable],
    widths: Mapping[str, int],
    listed: pl.Series | None,
    zero_features: ZeroFeatures,
    known: Vocabulary | None,
) -> NewItems:
    row_ids = {}
    for modality, table in tables.items():
        if table.values.size(1) != widths[modality]:
            raise DataError(
                f"{table.source} has {table.values.size(1)} columns, but {modality} had {widths[modality]} in "
                "training. Compute the features as for the training."
            )
        if table.ids is not None:
            row_ids[modality] = table.ids
        elif listed is None:
            raise DataError(f"{table.source} has no item IDs. Pass them as `ids`, or in a table or mapping.")
        else:
            row_ids[modality] = check_listed(table, listed, "ids")
    found = same_type([*([] if listed is None else [listed]), *row_ids.values()])
    if listed is not None:
        for table, own in zip(tables.values(), found[1:]):
            _check_overlap(found[0], own, table.source)
    new = Vocabulary(found[0] if listed is not None else pl.concat(found).unique(maintain_order=True), "item")
    warn_of_missing_ids(new.ids, "The list of new items")
    rows = {m: FeatureRows.of(table, row_ids[m], zero_features) for m, table in tables.items()}
    matrices, masks = select_features(new, rows)
    for modality in [modality for modality in widths if modality not in tables]:
        matrices[modality] = torch.zeros(len(new), widths[modality])
        masks[modality] = torch.zeros(len(new), dtype=torch.bool)
    # A modality without a mask has features of all items.
    if len(masks) == len(widths) and (bare := ~torch.stack([*masks.values()]).any(dim=0)).any():
        raise DataError(f"The new item {shown(new.ids[int(bare.int().argmax())])} has no features in any modality.")
    is_new = torch.ones(len(new), dtype=torch.bool) if known is None else torch.from_numpy(known.find(new.ids) < 0)
    for modality, mask in masks.items():
        if not (count := int((is_new & ~mask).sum())):
            continue
        number = f"all {count}" if count == is_new.sum() else f"{count} of the {is_new.sum()}"
        warnings.warn(f"Features of {modality} are missing for {number} new items.", stacklevel=3)
    return NewItems(new, matrices, masks)


def _check_overlap(listed: pl.Series, own: pl.Series, source: str) -> None:
    """Raise :class:`DataError` if neither the list of IDs nor the IDs of a file include the others."""
    extra, lost = own.filter(~own.is_in(listed.implode())), listed.filter(~listed.is_in(own.implode()))
    if len(extra) and len(lost):
        raise DataError(
            f"{source} has item IDs of its own, and `ids` lists others: {shown(extra[0])} is only in the file, "
            f"{shown(lost[0])} only in the list. Leave out `ids`, or list items of the file."
        )
