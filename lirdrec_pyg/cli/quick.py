"""Plain questions about a finished run, answered by numpy: importing torch and PyG takes ten times as long.

There is no quick answer to a question with any other option, or where anything is unusual, such as an unknown ID. The
command itself then answers, or says what is wrong.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open

from lirdrec_pyg.cli.explanation import print_explanation
from lirdrec_pyg.cli.output import print_frame
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.explanation import Explanation
from lirdrec_pyg.files import verify_checksums

# As in recommender/run.py, data/graph.py and recommender/similar.py, whose imports take too long.
_NEEDED = ("versions.json", "graph.safetensors", "users.parquet", "items.parquet", "vectors.safetensors")
_OPTIONAL = ("new_items.safetensors", "new_items.parquet", "new_vectors.safetensors", "catalog.parquet")
_INTERACTIONS = ("edge_index", "val_edge_label_index", "test_edge_label_index")
_FEATURES = "item:x_"
_SAME_COSINE = 1e-5


class _UnusualError(Exception):
    pass


class Answer(NamedTuple):
    """What a command finds, and the function that prints it."""

    found: pl.DataFrame | Explanation
    show: Callable[[], None]


def quick_answer(command: str, args: Sequence[str]) -> Answer | None:
    """Return what a command answers; ``None`` if only the command itself can tell."""
    if command not in _QUESTIONS:
        return None
    options, answer = _QUESTIONS[command]
    params = [click.Argument(["run"], type=click.Path(path_type=Path)), *options]
    try:
        values = click.Command(command, params=params, add_help_option=False).make_context(command, [*args]).params
        return answer(_Stored(values.pop("run")), **values)
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

    def tensors(self, name: str) -> Any:
        """Open a file of tensors."""
        return safe_open(self._run / name, framework="np")

    def item_vectors(self) -> np.ndarray:
        """Return the vectors of all items."""
        names = self._present("vectors.safetensors", "new_vectors.safetensors")
        return np.concatenate([self.tensors(name).get_tensor("item") for name in names])

    def num_learned_columns(self) -> int:
        """Return how many columns of vectors do not belong to the linear branch."""
        shape = self.tensors("vectors.safetensors").get_slice("item_layers").get_shape()
        return int(shape[-1])

    def interactions(self) -> Iterator[np.ndarray]:
        """Yield all known interactions (user, item), those for training first."""
        first = {"user/interacts/item": 0, "new_item": self._num_trained}
        for name in self._present("graph.safetensors", "new_items.safetensors"):
            tensors = self.tensors(name)
            known = {*tensors.keys()}
            for kind in _INTERACTIONS:
                for prefix, offset in first.items():
                    if (key := f"{prefix}:{kind}") in known:
                        yield tensors.get_tensor(key) + np.array([[0], [offset]])

    def training_edges(self) -> np.ndarray:
        """Return the pairs (user, item) of the training, of a run without new items."""
        if len(self.items) > self._num_trained or b"id_branch: true" in (self._run / "config.yaml").read_bytes():
            raise _UnusualError
        return next(self.interactions())

    def modalities(self) -> list[str]:
        """Return the modalities of the graph, in its order."""
        order = json.loads(self.tensors("graph.safetensors").metadata()["order"])
        return [name.removeprefix(_FEATURES) for name in order if name.startswith(_FEATURES)]

    def nearest(self, modality: str, item: int, others: np.ndarray) -> pl.DataFrame:
        """Return the three others with the largest cosines to the item by raw features."""
        graph, mask = self.tensors("graph.safetensors"), f"item:mask_{modality}"
        stored = graph.get_slice(_FEATURES + modality)
        rows = np.stack([stored[i] for i in (item, *others)]).astype(np.float32)
        cosine = _cosines(rows, 0)[1:]
        if mask in [*graph.keys()]:
            real = graph.get_tensor(mask)
            cosine[~(real[others] & real[item])] = -np.inf
        best = _largest(cosine, 3)
        names = pl.Series([modality] * len(best), dtype=pl.String)
        return pl.DataFrame({"modality": names, "item": self.items.gather(others[best]), "cosine": cosine[best]})

    def best(self, score: np.ndarray, k: int, name: str) -> pl.DataFrame:
        """Return the items with the largest scores above minus infinity."""
        best = _largest(score, k)
        return pl.DataFrame({"item": self.items.gather(best), "rank": np.arange(1, len(best) + 1), name: score[best]})

    @cached_property
    def title(self) -> str | None:
        """The column of the catalog that names the items, if there is one."""
        if not self._present("catalog.parquet"):
            return None
        title = pl.read_parquet_metadata(self._run / "catalog.parquet").get("title") or "id"
        return None if title == "id" else title

    @cached_property
    def _named(self) -> tuple[pl.Series, pl.Series]:
        """The items of the catalog as text, and their titles."""
        assert self.title is not None
        catalog = pl.read_parquet(self._run / "catalog.parquet", columns=["id", self.title])
        return catalog["id"].cast(pl.String), catalog[self.title]

    def titles(self, items: pl.Series) -> pl.Series:
        """Return the titles of some items, null where there is none, of a run that has titles."""
        return items.cast(pl.String).replace_strict(*self._named, default=None)

    def titled(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add the titles of the items, if there are any."""
        if self.title is None:
            return frame
        if self.title in frame.columns:
            raise _UnusualError
        return frame.with_columns(self.titles(frame["item"]).alias(self.title))


def _table(frame: pl.DataFrame) -> Answer:
    return Answer(frame, partial(print_frame, frame))


def _largest(score: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the ``k`` largest scores above minus infinity."""
    best = np.argsort(-score, kind="stable")[:k]
    return best[score[best] > -np.inf]


def _cosines(x: np.ndarray, position: int) -> np.ndarray:
    """Return the cosines of all rows with one of them."""
    length = np.linalg.norm(x, axis=1).clip(1e-8)
    cosine: np.ndarray = x @ x[position] / (length * length[position])
    return cosine


def _position(ids: pl.Series, name: str) -> int:
    found = (ids.cast(pl.String) == name).arg_true()
    if not len(found):
        raise _UnusualError
    return int(found[0])


def _recommended(run: _Stored, users: str, k: int) -> Answer:
    interactions, item, frames = [*run.interactions()], run.item_vectors(), []
    vectors = run.tensors("vectors.safetensors").get_slice("user")
    for name in dict.fromkeys(map(str.strip, users.split(","))):
        user = _position(run.users, name)
        seen = [pairs[1, pairs[0] == user] for pairs in interactions]
        if not len(seen[0]):
            raise _UnusualError
        score = item @ vectors[user]
        score[np.concatenate(seen)] = -np.inf
        best = run.best(score, k, "score")
        frames.append(best.insert_column(0, run.users.gather([user] * len(best)).alias("user")))
    return _table(run.titled(pl.concat(frames)))


def _similar(run: _Stored, item: str, k: int) -> Answer:
    position, width = _position(run.items, item), run.num_learned_columns()
    if width < 2:
        raise _UnusualError
    cosine = _cosines(run.item_vectors()[:, :width], position)
    others = np.delete(cosine, position)
    if np.ptp(others) < _SAME_COSINE:
        raise _UnusualError
    cosine[position] = -np.inf
    return _table(run.titled(run.best(cosine, k, "cosine")))


def _explained(run: _Stored, user: str, item: str) -> Answer:
    """As models.PropagatedUsers, whose ``rest`` is what the parts leave of the score."""
    row, column = _position(run.users, user), _position(run.items, item)
    edges, vectors = run.training_edges(), run.tensors("vectors.safetensors")
    past = np.sort(edges[1, edges[0] == row])
    x_user, x_item = vectors.get_slice("user")[row], vectors.get_slice("item")[column]
    fusion, learned = vectors.get_slice("user_weight")[row], run.num_learned_columns()
    names = [*run.modalities(), "shared"]
    if not len(past) or len(fusion) != len(names):
        raise _UnusualError

    query = fusion[:, None] * x_item[:learned].reshape(len(names), -1)
    degree = np.bincount(edges[1], minlength=len(run.items))[past]
    weight = 1 / np.sqrt((len(past) + 1e-7) * (degree + 1e-7))
    part = weight * (vectors.get_tensor("item_layers")[:-1, past].sum(axis=0) @ query.ravel())
    branches = [*(x_user * x_item)[:learned].reshape(len(names), -1).sum(axis=1, dtype=np.float64)]
    if len(x_user) > learned:
        given = vectors.get_tensor("linear")[past]
        scale = np.linalg.norm(x_user[learned:]) / max(np.linalg.norm(given.sum(axis=0)), 1e-12)
        part += scale * (given @ x_item[learned:])
        branches.append((x_user * x_item)[learned:].sum(dtype=np.float64))

    score = float(x_user.astype(np.float64) @ x_item)
    rest = score - float(part.sum())
    whole = (np.abs(part).sum() + abs(rest)) or 1
    items = pl.DataFrame({"item": run.items.gather(past), "part": part, "share": part / whole})
    found = Explanation(
        score=score,
        items=run.titled(items.sort("part", descending=True, maintain_order=True)),
        user_part=rest,
        user_share=rest / whole,
        branches=pl.DataFrame(
            {
                "branch": [*names, "linear"][: len(branches)],
                "weight": pl.Series([*fusion.tolist(), None][: len(branches)], dtype=pl.Float32),
                "part": branches,
            }
        ),
        nearest=run.titled(pl.concat([run.nearest(name, column, past[past != column]) for name in names[:-1]])),
    )
    titles, shown = (None, []) if run.title is None else (run.titles, [run.title])
    return Answer(found, partial(print_explanation, found, user, run.items[[column]], titles, shown))


# The options of a plain question, and the answer.
_QUESTIONS: dict[str, tuple[list[click.Option], Callable[..., Answer]]] = {
    "recommend": (
        [click.Option(["--users"], required=True), click.Option(["-k"], default=20, type=click.IntRange(1))],
        _recommended,
    ),
    "similar": (
        [click.Option(["--item"], required=True), click.Option(["-k"], default=10, type=click.IntRange(1))],
        _similar,
    ),
    "explain": ([click.Option(["--user"], required=True), click.Option(["--item"], required=True)], _explained),
}
