"""Split strategies: tables of interactions in, labels out."""

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from lirdrec_pyg.data import split_interactions
from lirdrec_pyg.data.splits import SplitStrategy
from lirdrec_pyg.errors import DataError

NUM_USERS, NUM_ITEMS = 30, 25


def frame_of(pairs: Any) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Unordered interactions of users of very different activity, times with ties, text or integer IDs."""
    counts = draw(st.lists(st.integers(1, 24), min_size=1, max_size=6))
    pairs = np.array([(user, item) for user, count in enumerate(counts) for item in range(count)])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frame = frame_of(rng.permutation(pairs)).with_columns(time=pl.Series(rng.integers(0, 40, len(pairs))))
    return frame.with_columns(pl.col("user").cast(draw(st.sampled_from([pl.Int64, pl.String]))))


def split(frame: pl.DataFrame, strategy: SplitStrategy, seed: int = 0, fraction: float = 0.2) -> pl.DataFrame:
    """Split ``frame``, or reject the example if that leaves a split empty."""
    try:
        result = split_interactions(frame, strategy, seed, fraction)
    except DataError as error:
        if "split is empty" not in str(error):
            raise
        reject()
    assert result.drop("label", "cold", strict=False).equals(frame)
    assert result["label"].dtype == pl.Int8
    assert result["label"].is_in([0, 1, 2]).all()
    return result


def counts_by_user(frame: pl.DataFrame) -> dict[Any, tuple[int, ...]]:
    """Return the numbers of training, validation and test interactions of each user."""
    return {
        user: tuple(part["label"].to_list().count(label) for label in (0, 1, 2))
        for (user,), part in frame.group_by("user")
    }


@settings(max_examples=50)
@given(logs(), st.integers(0, 2**32 - 1))
def test_random_split_holds_out_a_tenth_of_each_user_twice(frame: pl.DataFrame, seed: int) -> None:
    result = split(frame, "random", seed)
    for train, val, test in counts_by_user(result).values():
        total = train + val + test
        assert val == test == (max(1, round(total / 10)) if total >= 3 else 0)
    assert split_interactions(frame, "random", seed).equals(result)


def test_random_split_depends_on_its_seed_and_not_on_the_order() -> None:
    frame = frame_of([(user, item) for user in range(20) for item in range(20)])
    labels = [split_interactions(frame, "random", seed)["label"].to_list() for seed in range(40)]
    assert len(set(map(tuple, labels))) == 40
    held_out = (np.array(labels) > 0).reshape(-1, 20).mean(axis=0)
    assert np.abs(held_out - 0.2).max() < 0.07


@settings(max_examples=50)
@given(logs())
def test_leave_last_out_holds_out_the_latest_two(frame: pl.DataFrame) -> None:
    result = split(frame, "leave-last-out")
    for counts in counts_by_user(result).values():
        total = sum(counts)
        assert counts == ((total - 2, 1, 1) if total >= 3 else (total, 0, 0))
    for _, part in result.group_by("user"):
        latest = [part.filter(label=label)["time"] for label in (0, 1, 2)]
        for earlier, later in itertools.pairwise(latest):
            assert not len(earlier) or not len(later) or earlier.max() <= later.min()


def test_leave_last_out_uses_the_order_of_the_file_at_equal_times() -> None:
    frame = frame_of([(1, item) for item in range(5)]).with_columns(time=pl.Series([3, 3, 1, 3, 3]))
    assert split_interactions(frame, "leave-last-out", 0)["label"].to_list() == [0, 0, 0, 1, 2]


@settings(max_examples=50)
@given(logs())
def test_time_split_never_separates_equal_times(frame: pl.DataFrame) -> None:
    result = split(frame, "time")
    train, val, test = (result.filter(label=label)["time"] for label in (0, 1, 2))
    assert train.max() < val.min()
    assert val.max() < test.min()
    assert len(train) <= 0.8 * len(frame)
    assert len(train) + len(val) <= 0.9 * len(frame)


def test_time_split_is_8_1_1_without_ties() -> None:
    order = np.random.default_rng(0).permutation(50)
    frame = frame_of([(1, item) for item in range(50)]).with_columns(time=pl.Series(order))
    labels = split_interactions(frame, "time", 0)["label"].to_numpy()
    assert labels[np.argsort(order)].tolist() == [0] * 40 + [1] * 5 + [2] * 5


def test_labels_are_preferred_and_random_comes_next() -> None:
    frame = frame_of([(1, item) for item in range(30)])
    assert split_interactions(frame, "auto", 3).equals(split_interactions(frame, "random", 3))
    labeled = frame_of([(1, 1), (1, 2), (2, 1)]).with_columns(label=pl.Series([2, 0, 1], dtype=pl.Int8))
    for strategy in ("labels", "auto"):
        assert split_interactions(labeled, strategy, 0)["label"].to_list() == [2, 0, 1]


def test_without_a_split_all_interactions_are_for_training() -> None:
    frame = frame_of([(1, 1), (2, 2)]).with_columns(label=pl.Series([2, 0], dtype=pl.Int8))
    assert split(frame.drop("label"), "none")["label"].to_list() == [0, 0]
    assert split_interactions(frame, "none", 0)["label"].to_list() == [0, 0]


def test_a_missing_column_is_named(refuses: Any) -> None:
    strategies: dict[SplitStrategy, str] = {"labels": "label", "time": "time", "leave-last-out": "time"}
    for strategy, role in strategies.items():
        with refuses(f"`split='{strategy}'`", f"`{role}_column`"):
            split_interactions(frame_of([(1, 1)]), strategy, 0)


@pytest.mark.parametrize(
    ("strategy", "labels", "times", "empty"),
    [
        ("labels", [1, 2, 2], [1, 2, 3], "training"),
        ("labels", [0, 0, 0], [1, 2, 3], "validation"),
        ("time", [0, 1, 2], [5, 5, 5], "training"),
        ("leave-last-out", [0, 1, 2], [1, 2, 3], "validation"),
        ("random", [0, 1, 2], [1, 2, 3], "validation"),
    ],
)
def test_an_empty_split_is_named(
    strategy: SplitStrategy, labels: list[int], times: list[int], empty: str, refuses: Any
) -> None:
    frame = frame_of([(1, 1), (2, 2), (3, 3)]).with_columns(label=pl.Series(labels), time=pl.Series(times))
    with refuses(f"{empty} split is empty", f"`split='{strategy}'`"):
        split_interactions(frame, strategy, 0)


def test_labels_may_leave_out_validation_or_test() -> None:
    for labels in ([0, 0, 2], [0, 1, 1]):
        frame = frame_of([(1, 1), (2, 2), (3, 3)]).with_columns(label=pl.Series(labels, dtype=pl.Int8))
        assert split_interactions(frame, "labels", 0).equals(frame)


# --- Cold items ------------------------------------------------------------------------------------------------------


def clicks(per_user: int = 8) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return frame_of([(u, int(i)) for u in range(NUM_USERS) for i in rng.choice(NUM_ITEMS, per_user, replace=False)])


def roles(split: pl.DataFrame) -> list[set[Any]]:
    """Return the warm items, and the cold ones of validation and of test."""
    return [
        set(split.filter(~pl.col("cold"))["item"]),
        *(set(split.filter(pl.col("cold"), label=label)["item"]) for label in (1, 2)),
    ]


@settings(max_examples=50)
@given(
    num_users=st.integers(2, 12),
    num_items=st.integers(4, 30),
    density=st.floats(0.2, 1.0),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**32 - 1),
    text=st.booleans(),
)
def test_no_item_has_two_roles(
    num_users: int, num_items: int, density: float, fraction: float, seed: int, text: bool
) -> None:
    taken = np.random.default_rng(seed).random((num_users, num_items)) < density
    frame = frame_of(np.argwhere(taken))
    if text:
        frame = frame.with_columns(pl.format("sku-{}", "item").alias("item"))
    clicked = frame["item"].n_unique()
    assume(2 <= round(fraction * clicked) <= clicked - 2)
    result = split(frame, "cold-items", seed, fraction)
    assert result["cold"].dtype == pl.Boolean
    warm, val, test = roles(result)
    assert warm | val | test == set(frame["item"])
    assert len(warm) + len(val) + len(test) == clicked
    assert len(val) + len(test) == round(fraction * clicked)
    assert len(test) - len(val) in (0, 1)
    # Nothing with a cold item is for training.
    assert result.filter(pl.col("cold"), label=0).is_empty()
    for train, val_count, test_count in counts_by_user(result.filter(~pl.col("cold"))).values():
        total = train + val_count + test_count
        assert val_count == test_count == (max(1, round(total / 10)) if total >= 3 else 0)
    assert split(frame, "cold-items", seed, fraction).equals(result)


def test_the_cold_items_depend_on_the_items_and_not_on_the_order_of_the_table() -> None:
    frame = clicks()
    expected = roles(split(frame, "cold-items"))
    assert roles(split(frame.sample(fraction=1, shuffle=True, seed=3), "cold-items")) == expected
    assert roles(split(frame.reverse(), "cold-items")) == expected
    # Nor on the activity of users.
    seen_by_all = pl.concat([frame, pl.DataFrame({"user": [99] * NUM_ITEMS, "item": range(NUM_ITEMS)})])
    assert roles(split(seen_by_all, "cold-items")) == expected


def test_every_item_is_cold_equally_often() -> None:
    frame = clicks()
    drawn = [roles(split(frame, "cold-items", seed, 0.4)) for seed in range(200)]
    assert len({frozenset(val | test) for _, val, test in drawn}) == 200
    for role in (1, 2):
        share = np.mean([[item in roles[role] for item in range(NUM_ITEMS)] for roles in drawn], axis=0)
        assert np.abs(share - 0.2).max() < 0.12


def test_two_items_have_to_be_cold_and_two_warm(refuses: Any) -> None:
    for num_items, fraction, num_cold in [(25, 0.05, 1), (25, 0.01, 0), (3, 0.5, 2), (4, 0.7, 3), (8, 0.9, 7)]:
        frame = clicks().filter(pl.col("item") < num_items)
        with refuses(f"`cold_fraction={fraction:g}` of {num_items} items is {num_cold}", "At least two items"):
            split(frame, "cold-items", 0, fraction)
    frame = frame_of([(u, i) for u in range(40) for i in range(5)])
    assert [len(items) for items in roles(split(frame, "cold-items", 0, 0.4))] == [3, 1, 1]


def test_warm_interactions_have_to_reach_every_split(refuses: Any) -> None:
    # Users of two interactions hold none out, and those with cold items do not count.
    with refuses("The validation split is empty", "`split='cold-items'`", "60 interactions"):
        split_interactions(clicks(per_user=2), "cold-items", 0)
