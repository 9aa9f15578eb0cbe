"""Interactions that came after the training, in the forms that people have them."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.data import Vocabulary
from lirdrec_pyg.data.column_names import find_column
from lirdrec_pyg.data.dataset import Table, to_polars
from lirdrec_pyg.data.ids import same_type
from lirdrec_pyg.errors import DataError, listed
from lirdrec_pyg.recommender.ids import IDs, as_ids, is_table

History = Mapping[Any, IDs] | IDs | Table

NEW_USER = "new user"


def history_pairs(items: Vocabulary, history: History) -> tuple[pl.Series, Tensor]:
    """Return names of the users, and pairs (place of the user among these, position of the item).

    Unknown items, and users without a known item, are left out, with a warning.

    Raises:
        DataError: if no item is known.
    """
    frame = _history_frame(history)
    if not frame["item"].count():
        raise DataError("The history is empty. Pass at least one user with one item.")
    position = items.find(frame["item"])
    known = pl.Series(position >= 0)
    users = frame["user"].filter(known).unique(maintain_order=True)
    unknown = frame["item"].filter(~known).unique(maintain_order=True).drop_nulls()
    if not len(users):
        raise DataError(f"No item of the history is in the catalog ({listed(unknown)}). {items.hint(unknown)}")
    if len(unknown):
        hint = items.hint(unknown)
        warnings.warn(f"Unknown items are left out of the history: {listed(unknown)}. {hint}", stacklevel=4)
    lost = frame["user"].unique(maintain_order=True)
    if len(lost := lost.filter(~lost.is_in(users.implode()))):
        warnings.warn(f"Users without a known item are skipped: {listed(lost)}.", stacklevel=4)
    row = Vocabulary(users, "user").find(frame["user"].filter(known))
    return users, torch.from_numpy(np.stack([row, position[known.to_numpy()]]))


def _history_frame(history: History) -> pl.DataFrame:
    """Return users and items of a history; the item of a user with an empty one is null."""
    if is_table(history):
        frame = to_polars(history)
        found = {}
        for role in ("user", "item"):
            if (name := find_column(role, frame.columns)) is None:
                columns = listed(frame.columns)
                raise DataError(f"No column of {role}s in the history (columns: {columns}). Name it {role!r}.")
            found[role] = as_ids(frame[name], role)
        return pl.DataFrame(found)
    if not isinstance(history, Mapping):
        try:
            history = {NEW_USER: as_ids(history, "item")}
        except DataError as error:
            raise DataError(
                "The history is not a list of item IDs, a mapping from users to such lists, or a table of users and "
                f"items. {error}"
            ) from error
    items = same_type([as_ids(ids, "item") for ids in history.values()])
    lists = pl.Series(
        [ids if len(ids) else None for ids in items], dtype=pl.List(items[0].dtype if items else pl.String)
    )
    users = pl.Series([str(user) for user in history], dtype=pl.String)
    return pl.DataFrame({"user": users, "item": lists}).explode("item")
