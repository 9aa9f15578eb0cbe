"""The splits of the interactions, and the strategies that make them."""

from enum import Enum
from typing import Literal

import numpy as np
import polars as pl

from lirdrec_pyg.errors import DataError

SplitStrategy = Literal["auto", "labels", "random", "leave-last-out", "time", "cold-items", "none"]


class Split(Enum):
    """The splits of the interactions, by their names in metrics and on the command line."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"

    @property
    def label(self) -> int:
        """Label in a table of interactions, which is 0, 1 or 2."""
        return list(Split).index(self)

    @property
    def title(self) -> str:
        """Name in a sentence."""
        return {"train": "training", "valid": "validation", "test": "test"}[self.value]

    @property
    def edge_label_key(self) -> str:
        """Name of its held-out interactions in the graph, such as ``val_edge_label_index``."""
        return f"{'val' if self is Split.VALID else self.value}_edge_label_index"


HELD_OUT = (Split.VALID, Split.TEST)

TRAIN, VAL, TEST = (split.label for split in Split)


def split_interactions(
    frame: pl.DataFrame, strategy: SplitStrategy, seed: int, cold_fraction: float = 0.2
) -> pl.DataFrame:
    """Give every interaction a ``label``: 0 training, 1 validation, 2 test.

    Args:
        frame: interactions, each (user, item) once.
        strategy:

            * ``labels``: the labels of the table, in which validation or test may be missing.
            * ``random``: 8:1:1 per user. A user with n >= 3 interactions gives
              max(1, round(n / 10)) to validation and as many to test, others give none.
            * ``leave-last-out``: the last interaction of a user is for test, the one before for
              validation, if the user has three or more.
            * ``time``: the first 80 % of all interactions in time are for training, the next 10 % for
              validation, the last 10 % for test. Interactions with the same time are never separated.
            * ``cold-items``: a random ``cold_fraction`` of the items and all interactions with them are
              held out: one half of these items is for validation, the other half for test, so that
              no item is in both. The interactions with the other items are split as by ``random``. The
              result has a column ``cold`` that marks the interactions with held-out items.
            * ``none``: all interactions are for training.
            * ``auto``: ``labels`` if the table has them, else ``random``.
        seed: seed of the random split.
        cold_fraction: fraction of the items that ``cold-items`` holds out.

    Raises:
        DataError: if the strategy needs a column that is missing, or a split is empty.
    """
    if strategy == "auto":
        strategy = resolve_split(frame)
    if strategy == "none":
        return frame.with_columns(label=pl.lit(TRAIN, pl.Int8))
    rng = np.random.default_rng(seed)
    cold = np.zeros(len(frame), dtype=bool)
    if strategy == "labels":
        labels = _column(frame, "label", strategy).to_numpy()
    elif strategy == "random":
        labels = _random_labels(frame, rng)
    elif strategy == "cold-items":
        labels = _cold_labels(frame, cold_fraction, rng)
        cold = labels != TRAIN
        frame = frame.with_columns(pl.Series("cold", cold))
        labels[~cold] = _random_labels(frame.filter(~pl.col("cold")), rng)
    else:
        time = _column(frame, "time", strategy).rank("dense").to_numpy()
        labels = _last_out_labels(frame, time) if strategy == "leave-last-out" else _time_labels(time)
    empty = [split for split in Split if not ((labels == split.label) & ~cold).any()]
    may_be_empty = strategy == "labels" and len(empty) == 1 and empty != [Split.TRAIN]
    if empty and not may_be_empty:
        rule = ", of users with three or more" if strategy in ("random", "leave-last-out") else ""
        raise DataError(
            f"The {empty[0].title} split is empty (`split='{strategy}'`{rule}, {len(frame)} interactions). "
            "Provide more data, or choose another `split`."
        )
    return frame.with_columns(pl.Series("label", labels, dtype=pl.Int8))


def resolve_split(frame: pl.DataFrame) -> SplitStrategy:
    """Return the strategy that ``auto`` stands for."""
    return "labels" if "label" in frame.columns else "random"


def _column(frame: pl.DataFrame, name: str, strategy: SplitStrategy) -> pl.Series:
    if name not in frame.columns:
        raise DataError(f"`split='{strategy}'` needs a column of {name}s. Pass `{name}_column`.")
    return frame[name]


def _ranks(frame: pl.DataFrame, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each interaction by ``key`` within its user, from 0, and the user's count."""
    keys = frame.select("user", pl.Series("key", key))
    rank, size = keys.select(pl.col("key").rank("ordinal").over("user") - 1, pl.len().over("user"))
    return rank.to_numpy(), size.to_numpy()


def _random_labels(frame: pl.DataFrame, rng: np.random.Generator) -> np.ndarray:
    rank, size = _ranks(frame, rng.random(len(frame)))
    held_out = np.where(size >= 3, np.maximum(1, np.rint(size / 10)), 0)
    return np.where(rank < held_out, TEST, np.where(rank < 2 * held_out, VAL, TRAIN))


def _cold_labels(frame: pl.DataFrame, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Return 0 for interactions with warm items, and 1 or 2 for those with the cold items of a split."""
    # Sorted, so that the draw depends on the items alone and not on the order of the table.
    _, item = np.unique(frame["item"].to_numpy(), return_inverse=True)
    num_items = int(item.max()) + 1
    num_cold = round(fraction * num_items)
    if not 2 <= num_cold <= num_items - 2:
        raise DataError(
            f"`cold_fraction={fraction:g}` of {num_items} items is {num_cold}. At least two items must be cold, "
            "and two others warm."
        )
    label_of_item = np.full(num_items, TRAIN)
    drawn = rng.permutation(num_items)[:num_cold]
    label_of_item[drawn[: num_cold // 2]], label_of_item[drawn[num_cold // 2 :]] = VAL, TEST
    return label_of_item[item]


def _last_out_labels(frame: pl.DataFrame, time: np.ndarray) -> np.ndarray:
    rank, size = _ranks(frame, time)
    from_end = size - rank
    return np.where(size < 3, TRAIN, np.select([from_end == 1, from_end == 2], [TEST, VAL], TRAIN))


def _time_labels(time: np.ndarray) -> np.ndarray:
    ordered = np.sort(time)
    val_from, test_from = ordered[int(0.8 * len(time))], ordered[int(0.9 * len(time))]
    return np.where(time >= test_from, TEST, np.where(time >= val_from, VAL, TRAIN))
