"""Plain questions about a finished run, answered by numpy: importing torch and PyG takes ten times as long.

There is no quick answer to a question with any other option, or where anything is unusual, such as an unknown ID. The
command itself then answers, or says what is wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open

from lirdrec_pyg.errors import RunError
from lirdrec_pyg.files import verify_checksums

# As in recommender/run.py, data/graph.py and recommender/similar.py, whose imports take too long.
_NEEDED = ("versions.json", "graph.safetensors", "users.parquet", "items.parquet", "vectors.safetensors")
_OPTIONAL = ("new_items.safetensors", "new_items.parquet", "new_vectors.safetensors", "catalog.parquet")
_INTERACTIONS = ("edge_index", "val_edge_label_index", "test_edge_label_index")
_SAME_COSINE = 1e-5


class _UnusualError(Exception):
    pass


def quick_answer(command: str, args: Sequence[str]) -> pl.DataFrame | None:
    """Return the table that a command prints; ``None`` if only the command itself can tell."""
    if command not in _QUESTIONS:
        return None
    option, k, answer = _QUESTIONS[command]
    params = [
        click.Argument(["run"], type=click.Path(path_type=Path)),
        click.Option([option, "asked"], required=True),
        click.Option(["-k"], default=k, type=click.IntRange(1)),
    ]
    try:
        values = click.Command(command, params=params, add_help_option=False).make_context(command, [*args]).params
        return answer(_Stored(values["run"]), values["asked"], values["k"])
    except (_UnusualError, click.UsageError, RunError, OSError, SafetensorError, pl.exceptions.PolarsError):
        return None


class _Stored:
    """The files of a finished run that are enough to rank by vectors."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._files = verify_checksums(run, [*_NEEDED, *(name for name in _OPTIONAL if (run / name).exists())])
        if b'"format": 2,' not in (run / "versions.json").read_bytes():
            raise _UnusualError
        if b'"interrupted"' in (run / "metrics.json").read_bytes():  # which needs a warning
            raise _UnusualError
        self.users = pl.read_parquet(run / "users.parquet")["id"]
        trained, *new = (
            pl.read_parquet(run / name)["id"] for name in self._present("items.parquet", "new_items.parquet")
        )
        self.items, self._num_trained = pl.concat([trained, *new]), len(trained)

    def _present(self, *names: str) -> list[str]:
        return [name for name in names if name in self._files]

    def _tensors(self, name: str) -> Any:
        return safe_open(self._run / name, framework="np")

    def item_vectors(self) -> np.ndarray:
        """Return the vectors of all items."""
        names = self._present("vectors.safetensors", "new_vectors.safetensors")
        return np.concatenate([self._tensors(name).get_tensor("item") for name in names])

    def user_vector(self, user: int) -> np.ndarray:
        """Return the vector of a user."""
        vector: np.ndarray = self._tensors("vectors.safetensors").get_slice("user")[user]
        return vector

    def interactions(self) -> Iterator[np.ndarray]:
        """Yield all known interactions (user, item), those for training first."""
        first = {"user/interacts/item": 0, "new_item": self._num_trained}
        for name in self._present("graph.safetensors", "new_items.safetensors"):
            tensors = self._tensors(name)
            known = {*tensors.keys()}
            for kind in _INTERACTIONS:
                for prefix, offset in first.items():
                    if (key := f"{prefix}:{kind}") in known:
                        yield tensors.get_tensor(key) + np.array([[0], [offset]])

    def best(self, score: np.ndarray, k: int, name: str) -> pl.DataFrame:
        """Return the items with the largest scores above minus infinity."""
        best = np.argsort(-score, kind="stable")[:k]
        best = best[score[best] > -np.inf]
        return pl.DataFrame({"item": self.items.gather(best), "rank": np.arange(1, len(best) + 1), name: score[best]})

    def titled(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add the titles of the items, if there are any."""
        if not self._present("catalog.parquet"):
            return frame
        path = self._run / "catalog.parquet"
        title = pl.read_parquet_metadata(path).get("title") or "id"
        if title == "id":
            return frame
        if title in frame.columns:
            raise _UnusualError
        catalog = pl.read_parquet(path, columns=["id", title])
        known = catalog["id"].cast(pl.String)
        titles = frame["item"].cast(pl.String).replace_strict(known, catalog[title], default=None)
        return frame.with_columns(titles.alias(title))


def _position(ids: pl.Series, name: str) -> int:
    found = (ids.cast(pl.String) == name).arg_true()
    if not len(found):
        raise _UnusualError
    return int(found[0])


def _recommended(run: _Stored, users: str, k: int) -> pl.DataFrame:
    interactions, item, frames = [*run.interactions()], run.item_vectors(), []
    for name in dict.fromkeys(map(str.strip, users.split(","))):
        user = _position(run.users, name)
        seen = [pairs[1, pairs[0] == user] for pairs in interactions]
        if not len(seen[0]):
            raise _UnusualError
        score = item @ run.user_vector(user)
        score[np.concatenate(seen)] = -np.inf
        best = run.best(score, k, "score")
        frames.append(best.insert_column(0, run.users.gather([user] * len(best)).alias("user")))
    return run.titled(pl.concat(frames))


def _similar(run: _Stored, item: str, k: int) -> pl.DataFrame:
    position, x = _position(run.items, item), run.item_vectors()
    length = np.linalg.norm(x, axis=1).clip(1e-8)
    cosine = x @ x[position] / (length * length[position])
    others = np.delete(cosine, position)
    if np.ptp(others) < _SAME_COSINE:
        raise _UnusualError
    cosine[position] = -np.inf
    return run.titled(run.best(cosine, k, "cosine"))


# The option that asks, the default of -k, and the answer.
_QUESTIONS: dict[str, tuple[str, int, Callable[[_Stored, str, int], pl.DataFrame]]] = {
    "recommend": ("--users", 20, _recommended),
    "similar": ("--item", 10, _similar),
}
