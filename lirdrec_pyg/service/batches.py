"""Answer requests together that wait for the same computation."""

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from typing import Any

Compute = Callable[[list[Any]], dict[str, Any]]

# Computations of fewer seconds may keep the event loop waiting; handing one to a thread takes .2 milliseconds.
_SHORT = 0.01


class Batches:
    """Groups requests of one user each: those that arrive during a computation are the next one.

    A request never waits for others to come. Ranking for 16 users takes hardly longer than for one, so many clients are
    served faster than one after another.

    Args:
        threads: where to compute, except for a single request if the computation before it was a short one.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads, self._turn, self._seconds = threads, asyncio.Semaphore(), 0.0
        self._open: dict[Hashable, tuple[list[Any], asyncio.Task[dict[str, Any]]]] = {}

    async def answer(self, key: Hashable, user: Any, compute: Compute) -> Any:
        """Return what ``compute`` returns for a user.

        Args:
            key: equal for requests that ``compute`` can answer together.
            user: the user.
            compute: function from users to the answer of each, by the user as text.
        """
        if key not in self._open:
            users: list[Any] = []
            self._open[key] = users, asyncio.create_task(self._computed(key, users, compute))
        users, answers = self._open[key]
        users.append(user)
        return (await answers)[str(user)]

    async def _computed(self, key: Hashable, users: list[Any], compute: Compute) -> dict[str, Any]:
        async with self._turn:
            del self._open[key]  # later requests are the next batch
            start = time.perf_counter()
            if len(users) == 1 and self._seconds < _SHORT:
                answers = compute(users)
            else:
                answers = await asyncio.get_running_loop().run_in_executor(self._threads, compute, users)
            self._seconds = time.perf_counter() - start
            return answers
