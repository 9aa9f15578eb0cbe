"""Which row of a feature table belongs to which item."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.data.features import FeatureTable, RowScan, ZeroFeatures, check_rows, scan_rows
from lirdrec_pyg.data.ids import is_integer, read_unique_ids, strip_ids
from lirdrec_pyg.data.vocabulary import Vocabulary
from lirdrec_pyg.errors import DataError, shown


def find_row_ids(
    features: Mapping[str, FeatureTable], item: pl.Series, lowest: object, id_file: str | Path | None
) -> dict[str, pl.Series]:
    """Return the item ID of each row of each modality.

    Tables without IDs get those of the list ``id_file``. If that is ``None``, row ``r`` belongs to item ``r``, and all
    of ``item``, the items of the interactions, must have a row. ``lowest`` is the lowest item, also of those that a
    k-core removed.
    """
    listed = None if id_file is None else read_unique_ids(id_file, "item_ids")
    if listed is not None and all(table.ids is not None for table in features.values()):
        raise DataError("`item_ids` is for features without item IDs, and all have IDs of their own. Leave it out.")
    num_rows = {table.source: len(table) for table in features.values() if table.ids is None}
    if len(set(num_rows.values())) > 1:
        text = ", ".join(f"{source} has {count}" for source, count in num_rows.items())
        raise DataError(f"Features without item IDs must have the same number of rows, but {text}.")
    return {
        modality: _ids_by_position(table, item, lowest, listed) if table.ids is None else table.ids
        for modality, table in features.items()
    }


def _ids_by_position(table: FeatureTable, item: pl.Series, lowest: object, listed: pl.Series | None) -> pl.Series:
    if listed is not None:
        return check_listed(table, listed, "item_ids")
    if item.dtype != pl.Int64:
        text = item.filter(~is_integer(item))[0]
        advice = "Write integers without .0, or list" if text.endswith(".0") else "Pass features with item IDs, or list"
        if is_integer(strip_ids(item)).all():
            advice = "Pass `strip_ids=True`, or list"
        raise DataError(
            f"{table.source} has no item IDs, and the interactions have text IDs such as {shown(text)}. "
            f"{advice} the IDs of the rows in a file, one per line, and pass it as `item_ids`."
        )
    low, high = int(item.to_numpy().min()), int(item.to_numpy().max())
    if low < 0:
        raise DataError(f"The item ID {low} is negative, so it is not a row of {table.source}. Pass `item_ids`.")
    advice = "list the item IDs of the rows in a file, one per line, and pass it as `item_ids`."
    if high >= len(table):
        reason = "The IDs seem to count from 1" if (lowest, high) == (1, len(table)) else "If rows have another order"
        raise DataError(
            f"{table.source} has {len(table)} rows, but the interactions have item {high}, which needs row {high} "
            f"(rows count from 0; the lowest item is {low}). {reason}: {advice}"
        )
    if lowest == 1 and table.values[0].any():
        warnings.warn(
            f"The lowest item ID is 1, and row 0 of {table.source} belongs to item 0, which has no interactions. If "
            f"the IDs count from 1, each item gets the features of the next one: {advice}",
            stacklevel=4,
        )
    return pl.Series("id", np.arange(len(table)))


def check_listed(table: FeatureTable, listed: pl.Series, name: str) -> pl.Series:
    """Return the list of IDs, passed as the parameter ``name``, if it has one ID per row of ``table``."""
    if len(listed) != len(table):
        raise DataError(f"{table.source} has {len(table)} rows, but `{name}` lists {len(listed)} items.")
    return listed


@dataclass(frozen=True)
class FeatureRows:
    """The features of one modality by item ID.

    Attributes:
        table: features as in the file.
        rows: the item ID of each row.
        scan: properties of each row.
        real: rows that hold features, and not zeros or NaN that stand for missing ones.
    """

    table: FeatureTable
    rows: Vocabulary
    scan: RowScan
    real: Tensor

    @classmethod
    def of(
        cls, table: FeatureTable, ids: pl.Series, zero_features: ZeroFeatures, find_duplicates: bool = False
    ) -> "FeatureRows":
        """Assign the rows of ``table`` to ``ids``, and read them once."""
        scan = scan_rows(table.values, find_duplicates)
        real = ~scan.blank if zero_features == "missing" else torch.ones(len(table), dtype=torch.bool)
        return cls(table, Vocabulary(ids, "item"), scan, real)

    def check_known(self, item: pl.Series) -> None:
        """Raise :class:`DataError` if no unique ``item`` has a row; warn if most have none, or if zeros were lost."""
        unknown = item.filter(self.rows.find(item) < 0)
        ids = f"its item IDs are such as {shown(self.rows.ids[0])}, theirs such as "
        if len(unknown) == len(item):
            raise DataError(
                f"{self.table.source} has features for none of the items in the interactions: {ids}{shown(item[0])}."
            )
        bare = unknown.cast(pl.String).str.strip_chars_start("0")
        shorn = unknown.filter(pl.Series(self.rows.find(bare) >= 0) & ~bare.is_in(item.cast(pl.String).implode()))
        if len(shorn) or len(unknown) > len(item) / 2:
            reason = f"did {shown(shorn[0])} lose its zeros there?" if len(shorn) else f"{ids}{shown(unknown[0])}."
            warnings.warn(
                f"{self.table.source} has no features for {len(unknown)} of the {len(item)} items in the interactions: "
                f"{reason}",
                stacklevel=3,
            )

    def select(self, items: Vocabulary) -> tuple[Tensor, Tensor]:
        """Return the rows of ``items``, shape ``(len(items), d_m)``, and which of them are real."""
        values = self.table.values
        own = self.rows.find(items.ids)
        row = torch.from_numpy(np.maximum(own, 0))
        mask = torch.from_numpy(own >= 0) & self.real[row]
        used = torch.zeros_like(self.real)
        used[row[mask]] = True
        check_rows(values, self.scan, self.table.source, used, self.rows.ids)
        # Rows that are in place already are not copied, so a mapped matrix stays mapped.
        in_place = len(own) == len(values) and np.array_equal(own, np.arange(len(own)))
        return values if in_place else values[row], mask


def select_features(
    items: Vocabulary, features: Mapping[str, FeatureRows]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the matrices of ``items`` by modality, and masks of modalities that are missing for some of them."""
    selected = {modality: rows.select(items) for modality, rows in features.items()}
    return (
        {modality: values for modality, (values, _) in selected.items()},
        {modality: mask for modality, (_, mask) in selected.items() if not mask.all()},
    )
