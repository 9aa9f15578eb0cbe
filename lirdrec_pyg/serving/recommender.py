"""A trained run, ready to use in the IDs of those who trained it."""

import copy
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, get_args, overload

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.config import Fallback
from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    NewItems,
    Vocabulary,
    append_new_items,
    has_new_items,
    modalities,
    set_new_items,
)
from lirdrec_pyg.data.tables import canonical_ids, first_line, missing_ids
from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.models import (
    ItemToItemModel,
    Neighbourhood,
    Vectors,
    attach_items,
    branch_names,
    check_inductive,
    fold_in_users,
    model_class,
    model_vectors,
    used_modalities,
)
from lirdrec_pyg.nn import DotProducts, Ranker, SeenItems, top_k
from lirdrec_pyg.serving import content
from lirdrec_pyg.training import Run, resolve_device

IDs = pl.Series | Sequence[int | str]

Value = TypeVar("Value")

_SHOWN = 10
_COMPUTING = threading.RLock()


class _Once(Generic[Value]):
    """As ``functools.cached_property``, which since Python 3.12 may compute a value once for each thread
    that asks for it: here one thread does so, and the others wait."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "_Once[Value]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> "_Once[Value] | Value":
        # Asked only for what is not in the dictionary of the instance yet.
        if instance is None:
            return self
        with _COMPUTING:
            known = vars(instance)
            if self._name not in known:
                known[self._name] = self._compute(instance)
            return known[self._name]


class Explanation(NamedTuple):
    """Why an item has its score for a user.

    Attributes:
        score: the dot product of their vectors.
        branches: one row a branch: ``branch``, the user's fusion ``weight``, and the ``part`` of the
            score; the parts add up to it.
        nearest: the user's training items that are most similar to the item by the raw features of a
            modality: ``modality``, ``item``, ``cosine``.
    """

    score: float
    branches: pl.DataFrame
    nearest: pl.DataFrame


@dataclass(frozen=True)
class Recommender:
    """The trained model of a run, in the IDs of its users and items; needs nothing but the run folder.

    It never changes, so threads can share it. Load one by :meth:`load`.

    Attributes:
        run: where it came from.
        graph: with the new items, if there are any.
        users: IDs of the users by position.
        items: IDs of all items by position, the new ones last.
        vectors: of the users and of all items, on the CPU; without columns if the model scores by the items
            that a user took.
        device: where items are ranked; all else is computed on the CPU.
    """

    run: Run
    graph: HeteroData
    users: Vocabulary
    items: Vocabulary
    vectors: Vectors
    device: str = "cpu"

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", verify: bool = True) -> "Recommender":
        """Reads a run folder.

        Args:
            path: the folder that ``fit`` or ``add-items`` made.
            device: where to rank, ``"cpu"``, ``"cuda"`` or ``"auto"``; features and graph stay on the CPU.
            verify: reads every file once and compares it with its checksum, which takes about a second
                a gigabyte.

        Raises:
            RunError: if ``path`` is no run, of a newer format, damaged or changed.
            DataError: instead, for a graph or a list of IDs that is damaged, if they were not verified.
        """
        place = resolve_device(device)
        run = Run.open(path)
        if verify:
            run.check()
        new_items = run.new_items()
        items = run.items() if new_items is None else run.items().extended(new_items.ids)
        graph, vectors = run.graph(), run.vectors()
        if vectors is None:
            vectors = _computed_vectors(run, graph)
        return cls(run, graph, run.users(), items, vectors, place)

    @_Once
    def model(self) -> Any:
        """The model itself, which only new items and new users need."""
        return self.run.model(self.graph)

    @_Once
    def neighbourhood(self) -> Neighbourhood:
        """What new items are attached by."""
        trained = self.vectors.items_until(self.num_trained_items)
        return self.run.neighbourhood() or Neighbourhood.of(self.model, self.graph, trained)

    @_Once
    def _ranked(self) -> tuple[Tensor, Tensor]:
        """Vectors of users and items where they are ranked."""
        return self.vectors.user.to(self.device), self.vectors.item.to(self.device)

    @_Once
    def _ranker(self) -> Ranker:
        """What ranks all items for the trained users."""
        if self._has_vectors:
            return DotProducts(*self._ranked)
        model = self.run.model(self.graph).to(self.device)
        ranker: Ranker = model.ranker(copy.copy(self.graph).to(self.device))
        return ranker

    @property
    def _has_vectors(self) -> bool:
        return self.vectors.item.size(1) > 0

    def _check_vectors(self) -> None:
        if not self._has_vectors:
            raise RunError(
                f"{self.run.path} is a run of --model {self.run.model_config().model}, which scores by the items that "
                "a user took and has no vectors: only evaluate and recommend take it."
            )

    @_Once
    def _seen(self) -> SeenItems:
        return SeenItems.of(self.graph[INTERACTS].edge_index.to(self.device), len(self.users))

    @_Once
    def _has_history(self) -> np.ndarray:
        """Which users have training interactions."""
        return (self._seen.start.diff() > 0).cpu().numpy()

    @_Once
    def popularity(self) -> Tensor:
        """Training interactions of each item, shape ``(|I|,)``."""
        return degree(self.graph[INTERACTS].edge_index[1].as_subclass(Tensor), len(self.items), dtype=torch.long)

    @property
    def num_trained_items(self) -> int:
        """Number of items that the training has met; new ones follow them."""
        return self.graph["item"].num_nodes

    def _positions(self, vocabulary: Vocabulary, ids: IDs) -> Tensor:
        return torch.from_numpy(vocabulary.positions(_series(ids, vocabulary.kind)))

    def user_vectors(self, users: IDs | None = None) -> np.ndarray:
        """Vectors of ``users``, by default of all, float32, shape ``(N, B * d)``."""
        self._check_vectors()
        return _rows(self.vectors.user, None if users is None else self._positions(self.users, users))

    def item_vectors(self, items: IDs | None = None) -> np.ndarray:
        """Vectors of ``items``, by default of all, float32, shape ``(N, B * d)``."""
        self._check_vectors()
        return _rows(self.vectors.item, None if items is None else self._positions(self.items, items))

    def score(self, users: IDs, items: IDs) -> np.ndarray:
        """Scores of pairs, user by user and item by item, float32, shape ``(N,)``.

        Raises:
            DataError: if an ID is unknown, or there are not as many users as items.
        """
        self._check_vectors()
        user, item = self._positions(self.users, users), self._positions(self.items, items)
        if len(user) != len(item):
            raise DataError(f"There are {len(user)} users, but {len(item)} items: give one item for each user.")
        return (self.vectors.user[user] * self.vectors.item[item]).sum(dim=1).numpy()

    def recommend(
        self,
        users: IDs | None = None,
        *,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: IDs | None = None,
        fallback: Fallback = "skip",
    ) -> pl.DataFrame:
        """The ``k`` best items for each user, exactly.

        Args:
            users: IDs, each answered once; by default all users.
            k: items a user; a user with fewer candidates gets those.
            exclude_seen: leaves out what the user has in training.
            candidates: the items to choose from; by default all, the new ones included.
            fallback: what a user gets who is unknown or has no training interactions, and so no vector
                that means anything: nothing (``"skip"``), the items with the most training
                interactions (``"popular"``), or an error (``"error"``). In the first two cases a warning
                names such users.

        Returns:
            ``user``, ``item``, ``rank`` (from 1) and ``score``, which is null for a popular item.

        Raises:
            DataError: if a candidate is unknown, nobody is left to rank for, or ``fallback`` says so.
        """
        return pl.concat(self.recommend_blocks(users, k, exclude_seen, candidates, fallback))

    def recommend_blocks(
        self,
        users: IDs | None = None,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: IDs | None = None,
        fallback: Fallback = "skip",
    ) -> Iterator[pl.DataFrame]:
        """As :meth:`recommend`, in portions that fit into memory. Errors are raised by this call itself."""
        if fallback not in get_args(Fallback):
            raise ConfigError(f"--fallback is {fallback!r}: choose one of {', '.join(get_args(Fallback))}.")
        _check_k(k)
        asked = self.users.ids if users is None else _series(users, "user").unique(maintain_order=True)
        if not len(asked):
            raise DataError("The list of users is empty: name at least one user.")
        position = self.users.find(asked)
        known = (position >= 0) & self._has_history[position]
        others = asked.filter(~pl.Series(known))
        if len(others):
            self._report(others, fallback, nobody=not known.any())
        allowed = None if candidates is None else self._candidates(candidates)
        index = torch.from_numpy(position[known])
        return self._blocks(index, k, self._seen if exclude_seen else None, allowed, others, fallback)

    def _report(self, others: pl.Series, fallback: Fallback, nobody: bool) -> None:
        text = f"Unknown users, or without training interactions: {len(others)} ({_listed(others)})"
        if fallback == "error":
            raise DataError(f"{text}. Leave them out, or take --fallback skip or --fallback popular.")
        if fallback == "skip" and nobody:
            raise DataError(f"{text}. There is no other: --fallback popular gives them the popular items.")
        warnings.warn(f"{text}. They {'are skipped' if fallback == 'skip' else 'get the popular items'}.", stacklevel=4)

    def _candidates(self, candidates: IDs) -> Tensor:
        position = self._positions(self.items, candidates).unique().to(self.device)
        if not len(position):
            raise DataError("The list of candidates is empty: name at least one item.")
        return position

    def _blocks(
        self,
        index: Tensor,
        k: int,
        seen: SeenItems | None,
        allowed: Tensor | None,
        others: pl.Series,
        fallback: Fallback,
    ) -> Iterator[pl.DataFrame]:
        ids = self.users.ids
        if ids.dtype != others.dtype:
            # As texts, all can stand in one column.
            ids, others = ids.cast(pl.String), others.cast(pl.String)
        if len(index):
            for block in self._ranker.top_k(index.to(self.device), k, seen, allowed):
                yield self._table(ids.gather(index[block.rows].numpy()), block.item, block.score)
        if fallback == "popular" and len(others):
            yield self._table(others, self._popular(k, allowed).expand(len(others), -1), None)

    def _popular(self, k: int, allowed: Tensor | None) -> Tensor:
        items = torch.arange(len(self.items)) if allowed is None else allowed.cpu()
        order = self.popularity[items].argsort(descending=True, stable=True)
        return items[order[:k]]

    def _table(self, users: pl.Series, item: Tensor, score: Tensor | None) -> pl.DataFrame:
        """One row for each user and place."""
        k = item.size(1)
        frame = pl.DataFrame(
            {
                "user": users.gather(np.repeat(np.arange(len(users)), k)),
                "item": self.items.ids.gather(item.flatten().cpu().numpy()),
                "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), len(users)),
                "score": pl.Series([None] * item.numel(), dtype=pl.Float32)
                if score is None
                else score.flatten().float().cpu().numpy(),
            }
        )
        return frame.filter(pl.col("score").is_null() | (pl.col("score") > -np.inf))

    def recommend_for_history(
        self,
        history: Mapping[str, IDs] | pl.DataFrame,
        *,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: IDs | None = None,
    ) -> pl.DataFrame:
        """The ``k`` best items for users who came after the training, by the items they took.

        They are folded in, see :func:`~lirdrec_pyg.models.fold_in_users`.

        Args:
            history: a name for each user, and the IDs of the items taken; or a frame with the columns
                ``user`` and ``item``. Unknown items are left out, with a warning.
            k: items a user.
            exclude_seen: leaves out the items of the history.
            candidates: the items to choose from; by default all.

        Returns:
            As :meth:`recommend`.

        Raises:
            DataError: if nothing that a user took is known.
            ConfigError: if the model has no user-item layer.
            RunError: if the model is not LIRDRec.
        """
        _check_k(k)
        self.run.lirdrec_config()
        users, pairs = self._history_pairs(history)
        folded = fold_in_users(self.model, self.graph, self.vectors, pairs, len(users))
        seen = SeenItems.of(pairs.to(self.device), len(users)) if exclude_seen else None
        allowed = None if candidates is None else self._candidates(candidates)
        index = torch.arange(len(users), device=self.device)
        return pl.concat(
            self._table(users[block.rows], block.item, block.score)
            for block in top_k(folded.user.to(self.device), self._ranked[1], index, k, seen, allowed)
        )

    def _history_pairs(self, history: Mapping[str, IDs] | pl.DataFrame) -> tuple[pl.Series, Tensor]:
        """Names of the users, and pairs (place of the user among these, position of the item)."""
        if isinstance(history, pl.DataFrame):
            users = history["user"].unique(maintain_order=True)
            row, items = Vocabulary(users, "user").find(history["user"]), _series(history["item"], "item")
        else:
            users = pl.Series("user", [str(name) for name in history], dtype=pl.String)
            taken = [_series(ids, "item") for ids in history.values()]
            row = np.repeat(np.arange(len(taken)), [len(ids) for ids in taken])
            mixed = len({ids.dtype for ids in taken}) > 1
            items = pl.concat([ids.cast(pl.String) if mixed else ids for ids in taken]) if taken else pl.Series([])
        if not len(users):
            raise DataError("There is no history: name at least one user and an item.")
        position = self.items.find(items) if len(items) else np.empty(0, dtype=np.int64)
        known = position >= 0
        unknown = items.filter(pl.Series(~known)) if len(items) else items
        if (lost := np.bincount(row[known], minlength=len(users)) == 0).any():
            because = f" (unknown items: {_listed(unknown)})" if len(unknown) else ""
            raise DataError(
                f"The history of {users[int(lost.argmax())]} holds no item of the catalogue{because}, "
                "so there is nothing to go by."
            )
        if len(unknown):
            warnings.warn(f"Unknown items are left out of the history: {_listed(unknown)}.", stacklevel=3)
        return users, torch.from_numpy(np.stack([row[known], position[known]]))

    def similar_items(self, item: int | str, k: int = 10, by: str = "vectors") -> pl.DataFrame:
        """The items most similar to one item.

        Args:
            item: its ID.
            k: number of items.
            by: ``"vectors"`` for the cosine of the representations, or a modality for that of the raw
                features.

        Returns:
            ``item``, ``rank`` (from 1) and ``cosine``.

        Raises:
            DataError: if the item is unknown, or has no features in that modality.
            ConfigError: if there is no such modality.
        """
        _check_k(k)
        position = int(self._positions(self.items, [item])[0])
        cosine = self._cosine(position, by)
        cosine[position] = -torch.inf
        best, values = _best(cosine, k)
        return pl.DataFrame(
            {
                "item": self.items.ids.gather(best.numpy()),
                "rank": np.arange(1, len(best) + 1, dtype=np.int32),
                "cosine": values.numpy(),
            }
        )

    def _cosine(self, position: int, by: str) -> Tensor:
        """Cosines of all items with one; minus infinity for an item without features."""
        if by == "vectors":
            self._check_vectors()
            return F.cosine_similarity(self.vectors.item, self.vectors.item[position : position + 1])
        if by not in (names := modalities(self.graph)):
            raise ConfigError(f"--by is {by!r}: choose 'vectors' or a modality, which are {', '.join(names)}.")
        own, real = content.feature_rows(self.graph, by, torch.tensor([position]))
        if not real:
            raise DataError(f"The item {self.items.ids[position]!r} has no features in {by}.")
        return content.cosine_with_all(self.graph, by, own)

    def explain(self, user: int | str, item: int | str, num_nearest: int = 3) -> Explanation:
        """Splits the score of a pair by branch, and names the user's items nearest to the item.

        Args:
            user: an ID.
            item: an ID.
            num_nearest: items to name in each modality.

        Raises:
            DataError: if an ID is unknown.
            RunError: if the model is not LIRDRec.
        """
        config = self.run.lirdrec_config()
        if num_nearest < 0:
            raise ConfigError(f"--nearest is {num_nearest}: it has to be 0 or more.")
        row, column = int(self._positions(self.users, [user])[0]), int(self._positions(self.items, [item])[0])
        num_branches = self.vectors.user_weight.size(1)
        u, v = (x.double().view(num_branches, -1) for x in (self.vectors.user[row], self.vectors.item[column]))
        parts = (u * v).sum(dim=1)
        names = used_modalities(config, modalities(self.graph))
        branches = pl.DataFrame(
            {
                "branch": branch_names(names, config.dct, config.id_branch),
                "weight": self.vectors.user_weight[row].cpu().numpy(),
                "part": parts.cpu().numpy(),
            }
        )
        taken = self._seen.pairs(torch.tensor([row], device=self.device))[1].cpu()
        nearest = pl.concat(self._nearest(column, taken, modality, num_nearest) for modality in names)
        return Explanation(float(parts.sum()), branches, nearest)

    def _nearest(self, item: int, others: Tensor, modality: str, k: int) -> pl.DataFrame:
        """The ``k`` of ``others`` most similar to an item in one modality, as :class:`Explanation` has them."""
        x, real = content.feature_rows(self.graph, modality, torch.cat([others.new_tensor([item]), others]))
        cosine = F.cosine_similarity(x[1:], x[:1]).masked_fill(~(real[1:] & real[0]), -torch.inf)
        best, values = _best(cosine, k)
        return pl.DataFrame(
            {
                "modality": pl.Series([modality] * len(best), dtype=pl.String),
                "item": self.items.ids.gather(others[best].numpy()),
                "cosine": values.numpy(),
            }
        )

    def add_items(self, new: NewItems) -> "Recommender":
        """A recommender that also knows items that came after the training.

        They are encoded by the trained encoders and attached to the graph by their nearest neighbours,
        see :func:`~lirdrec_pyg.models.attach_items`; nothing is trained, and no other item changes.

        Args:
            new: IDs and features, see :func:`~lirdrec_pyg.data.read_new_items`.

        Raises:
            DataError: if an ID is known already, or features don't fit.
            ConfigError: if the model can't encode an item by itself, as with ``--dct 2d``.
        """
        check_inductive(self.model)
        if (known := new.ids.ids.filter(pl.Series(self.items.find(new.ids.ids) >= 0))).len():
            raise DataError(
                f"{len(known)} of the new items are in the catalogue already, such as {known[0]!r}: leave them out."
            )
        added = set_new_items(self.graph, new.features, new.masks)
        if added[NEW_ITEM].num_nodes != len(new.ids):
            raise DataError(
                f"There are {len(new.ids)} IDs of new items for {added[NEW_ITEM].num_nodes} rows of features."
            )
        first = self.num_trained_items
        trained, k = self.vectors.items_until(first), self.run.lirdrec_config().knn_k
        attached = attach_items(self.model, added, trained, self.neighbourhood, k)
        return replace(
            self,
            graph=append_new_items(self.graph, added),
            items=self.items.extended(new.ids.ids),
            vectors=self.vectors.append_items(attached.item[first:], attached.item_layers[:, first:]),
        )

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes a run folder of its own, which :meth:`load` reads; what is unchanged is linked, not copied.

        Raises:
            RunError: if the folder is in use or can't be written, or there are no new items to save.
        """
        if not has_new_items(self.graph):
            raise RunError("There are no new items to save: the run folder has all there is.")
        ids = Vocabulary(self.items.ids[self.num_trained_items :], "item")
        self.run.derive(Path(path), self.graph, ids, self.vectors, overwrite)


def _computed_vectors(run: Run, graph: HeteroData) -> Vectors:
    """The vectors of a run that has saved none: it was cut off before, or its model has none."""
    config = run.model_config()
    kind = model_class(config)
    if issubclass(kind, ItemToItemModel):
        return Vectors.of(torch.empty(graph["user"].num_nodes, 0), torch.empty(graph["item"].num_nodes, 0))
    prepared = kind.input_transform(config)(copy.copy(graph))
    model = run.model(prepared)
    if has_new_items(prepared):
        return model_vectors(model, prepared, run.lirdrec_config().knn_k)
    vectors: Vectors = model.vectors(prepared)
    return vectors


def _check_k(k: int) -> None:
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(f"-k is {k}: ask for at least 1 item.")


def _best(cosine: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Places and values of the ``k`` largest, without those at minus infinity."""
    best = cosine.topk(min(k, len(cosine)))
    kept = best.values > -torch.inf
    return best.indices[kept], best.values[kept]


def _listed(ids: pl.Series) -> str:
    """The first of some IDs, for a message."""
    return ", ".join(map(str, ids.head(_SHOWN))) + (", ..." if len(ids) > _SHOWN else "")


def _series(ids: IDs, kind: str) -> pl.Series:
    """``ids`` as a column of integers or texts."""
    if isinstance(ids, str):
        raise DataError(f"The {kind} IDs are the text {ids!r}: give a list of IDs.")
    try:
        series = pl.Series("id", ids, dtype=pl.String if not len(ids) else None)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"The {kind} IDs are no list of integers or of texts ({first_line(error)}).") from error
    if (missing := missing_ids(series)).any():
        raise DataError(f"The list of {kind} IDs lacks the ID number {missing.arg_max()}, counted from 0.")
    return canonical_ids(series, f"The list of {kind} IDs")


def _rows(x: Tensor, position: Tensor | None) -> np.ndarray:
    """Rows as an array that can't be written, since it may be the recommender's own memory."""
    rows = (x if position is None else x[position]).numpy()
    rows.flags.writeable = False
    return rows
