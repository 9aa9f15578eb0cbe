"""Threads that share a recommender get what one thread would get."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from lirdrec_pyg.data import NEW_ITEM, NewItems, has_new_items
from lirdrec_pyg.nn import SeenItems
from lirdrec_pyg.recommender import Recommender, Run

pytestmark = pytest.mark.filterwarnings("ignore:.*users are unknown")

NUM_THREADS, NUM_CALLS = 16, 50


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def fresh(run: Path) -> Recommender:
    """One that has computed nothing yet, so that all threads need the same at the same time."""
    return Recommender.load(run)


def call(recommender: Recommender, number: int) -> Any:
    """Make one of the possible calls, in turn, for one of the users and items."""
    user, item = f"u{2 + number % 40}", f"sku/{20 + number % 50}"
    match number % 5:
        case 0:
            return recommender.recommend(None if number % 2 else [user, "u7"], k=5 + number % 7)
        case 1:
            return recommender.recommend_for_history({"a": [item, "12"], "b": ["sku/30"]}, k=6)
        case 2:
            return recommender.similar_items(item, k=4, by=("vectors", "image", "text")[number % 3])
        case 3:
            return recommender.score([user, "u7"], [item, "12"])
        case _:
            return recommender.explain(user, item)


def assert_same(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, pl.DataFrame):
        assert_frame_equal(actual, expected, abs_tol=1e-6)
    elif isinstance(expected, tuple):
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def at_once(work: list[Callable[[], Any]], threads: int = NUM_THREADS) -> list[Any]:
    """Return the result of each piece of work, done by threads that all begin at the same time."""
    together = threading.Barrier(threads)

    with ThreadPoolExecutor(threads, initializer=together.wait) as pool:
        futures = [pool.submit(piece) for piece in work]
        return [future.result(timeout=60) for future in futures]


def test_calls_by_threads_agree_with_calls_in_turn(fresh: Recommender, run: Path) -> None:
    in_turn = Recommender.load(run)
    expected = [call(in_turn, number) for number in range(NUM_CALLS)]
    answers = at_once([lambda number=number: call(fresh, number) for number in range(NUM_CALLS)])
    for actual, wanted in zip(answers, expected, strict=True):
        assert_same(actual, wanted)


def test_what_all_threads_need_is_computed_once(fresh: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    of = SeenItems.of

    def slowly(*arguments: Any) -> Any:
        computed.append(1)
        time.sleep(0.05)
        return of(*arguments)

    monkeypatch.setattr(SeenItems, "of", slowly)
    found = at_once([lambda: (fresh.seen, fresh.ranker, fresh.items, fresh.popularity)] * NUM_CALLS)
    assert computed == [1]
    assert all(a is b for each in found for a, b in zip(each, found[0], strict=True))


def test_random_state_of_the_caller_is_left_alone(run: Path, recommender: Recommender) -> None:
    before = torch.get_rng_state()
    at_once([lambda: Run.open(run).model(recommender.graph)] * 4, threads=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_items_are_added_meanwhile(fresh: Recommender, run: Path, new_items: Callable[..., NewItems]) -> None:
    in_turn = Recommender.load(run)
    expected = [call(in_turn, number) for number in range(NUM_CALLS)]
    grown_in_turn = in_turn.add_items(new_items("n0", "n1", missing={"image": [1]}))
    wanted = grown_in_turn.recommend(k=20), grown_in_turn.similar_items("n1", by="text")

    def grow() -> Any:
        grown = fresh.add_items(new_items("n0", "n1", missing={"image": [1]}))
        return grown.recommend(k=20), grown.similar_items("n1", by="text")

    work: list[Callable[[], Any]] = []
    for number in range(NUM_CALLS):
        work.append(lambda number=number: call(fresh, number))
        if number % 10 == 0:
            work.append(grow)
            expected.insert(len(work) - 1, wanted)
    for actual, right in zip(at_once(work), expected, strict=True):
        assert_same(actual, right)
    assert not has_new_items(fresh.graph)
    assert NEW_ITEM not in fresh.graph.node_types
    assert len(fresh.items) == len(in_turn.items)
    assert fresh.items.find(pl.Series(["n0"]))[0] == -1
    assert torch.equal(fresh.vectors.item, in_turn.vectors.item)
