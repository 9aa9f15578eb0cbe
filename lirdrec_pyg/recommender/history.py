"""Interactions that came after the training, in the forms that people have them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.data import ColumnConfig, Vocabulary
from lirdrec_pyg.data.column_names import find_column
from lirdrec_pyg.data.dataset import Table, to_polars
from lirdrec_pyg.data.ids import same_type
from lirdrec_pyg.data.interactions import with_trained_columns
from lirdrec_pyg.errors import DataError, listed
from lirdrec_pyg.recommender.ids import IDs, as_ids, is_table

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender

History = Mapping[Any, IDs] | IDs | Table

NEW_USER = "new user"


@dataclass(frozen=True)
class KnownHistory:
    """The known users and items of a history, by position.

    Attributes:
        users: names of the users with a known item or with training interactions.
        position: their positions in the training, -1 for those without training interactions, shape ``(N,)``.
        pairs: (place of the user among these, position of the item), int64, shape ``(2, num_pairs)``.
        other_users: names of the others.
        unknown_items: IDs of items that are unknown.
    """

    users: pl.Series
    position: Tensor
    pairs: Tensor
    other_users: pl.Series
    unknown_items: pl.Series

    @classmethod
    def of(cls, recommender: "Recommender", history: History) -> "KnownHistory":
        """Look up the IDs of a history.

        Raises:
            DataError: if it has no users, or its type is wrong.
        """
        frame = _history_frame(history, recommender.dataset.config)
        users = frame["user"].unique(maintain_order=True)
        if not len(users):
            raise DataError("The history is empty. Pass at least one user with one item.")
        trained, item = recommender.trained_positions(users), recommender.items.find(frame["item"])
        known = pl.Series(item >= 0)
        is_known = pl.Series(trained >= 0) | users.is_in(frame["user"].filter(known).implode())
        pairs = np.stack(
            [Vocabulary(users.filter(is_known), "user").find(frame["user"].filter(known)), item[known.to_numpy()]]
        )
        return cls(
            users.filter(is_known),
            torch.from_numpy(trained[is_known.to_numpy()]),
            torch.from_numpy(pairs),
            users.filter(~is_known),
            frame["item"].filter(~known).unique(maintain_order=True).drop_nulls(),
        )


def _history_frame(history: History, trained: ColumnConfig | None) -> pl.DataFrame:
    """Return users and items of a history; the item of a user with an empty one is null."""
    if is_table(history):
        frame = to_polars(history)
        columns = with_trained_columns(ColumnConfig(), trained, frame.columns)
        found = {}
        for role in ("user", "item"):
            if (name := getattr(columns, f"{role}_column") or find_column(role, frame.columns)) is None:
                raise DataError(
                    f"No column of {role}s in the history (columns: {listed(frame.columns)}). Name it {role!r}."
                )
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
