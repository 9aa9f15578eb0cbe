"""Threads share a recommender, and get what one after the other would get."""

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
from lirdrec_pyg.serving import Recommender
from lirdrec_pyg.training import Run

pytestmark = pytest.mark.filterwarnings("ignore:Unknown users")

NUM_THREADS, NUM_CALLS = 16, 100


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def fresh(run: Path) -> Recommender:
    """One that has computed nothing yet, so that all threads need the same at once."""
    return Recommender.load(run)


def call(recommender: Recommender, number: int) -> Any:
    """One of the calls that there are, in turns, for one of the users and items."""
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


def at_once(work: list[Callable[[], Any]]) -> list[Any]:
    """What each piece of work brings, done by threads that all begin at the same time."""
    together = threading.Barrier(NUM_THREADS)

    with ThreadPoolExecutor(NUM_THREADS, initializer=together.wait) as pool:
        futures = [pool.submit(piece) for piece in work]
        return [future.result(timeout=60) for future in futures]


def test_calls_by_threads_agree_with_calls_in_turn(fresh: Recommender, run: Path) -> None:
    in_turn = Recommender.load(run)
    expected = [call(in_turn, number) for number in range(NUM_CALLS)]
    answers = at_once([lambda number=number: call(fresh, number) for number in range(NUM_CALLS)])
    for actual, wanted in zip(answers, expected, strict=True):
        assert_same(actual, wanted)


def test_what_all_need_is_computed_once(fresh: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def slowly(name: str) -> Callable[..., Any]:
        original = getattr(Run, name)

        def load(run: Run, *arguments: Any) -> Any:
            loaded.append(name)
            time.sleep(0.05)
            return original(run, *arguments)

        return load

    for name in ("model", "neighbourhood"):
        monkeypatch.setattr(Run, name, slowly(name))
    found = at_once([lambda: (fresh.model, fresh.neighbourhood, fresh.popularity)] * NUM_CALLS)
    assert sorted(loaded) == ["model", "neighbourhood"]
    assert all(a is b for each in found for a, b in zip(each, found[0], strict=True))


def test_draws_of_the_caller_stay_as_they_were(run: Path) -> None:
    before = torch.get_rng_state()
    many = [Recommender.load(run) for _ in range(NUM_THREADS)]
    at_once([lambda number=number: many[number].model for number in range(NUM_THREADS)])
    assert torch.equal(torch.get_rng_state(), before)


def test_items_are_added_meanwhile(fresh: Recommender, run: Path, new_items: Callable[..., NewItems]) -> None:
    in_turn = Recommender.load(run)
    expected = [call(in_turn, number) for number in range(NUM_CALLS)]
    grown_in_turn = in_turn.add_items(new_items("n0", "n1", lacking={"image": [1]}))
    wanted = grown_in_turn.recommend(k=20), grown_in_turn.similar_items("n1", by="text")

    def grow() -> Any:
        grown = fresh.add_items(new_items("n0", "n1", lacking={"image": [1]}))
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
