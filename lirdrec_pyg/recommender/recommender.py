import copy
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.config import check_choice
from lirdrec_pyg.data import (
    INTERACTS,
    NEW_ITEM,
    Dataset,
    NewItems,
    Vocabulary,
    append_new_items,
    has_new_items,
    modalities,
    set_new_items,
)
from lirdrec_pyg.data.column_names import find_column
from lirdrec_pyg.data.dataset import Table, to_polars
from lirdrec_pyg.data.ids import same_type, warn_of_look_alikes
from lirdrec_pyg.devices import resolve_device
from lirdrec_pyg.errors import ConfigError, DataError, listed, shown
from lirdrec_pyg.models import (
    ModelConfig,
    Neighborhood,
    Vectors,
    attach_items,
    fold_in_users,
    model_class,
    model_vectors,
)
from lirdrec_pyg.nn import DotProducts, Ranker, SeenItems, top_k
from lirdrec_pyg.recommender.evaluate import Evaluator
from lirdrec_pyg.recommender.explain import Explanation, cosine_with_all, feature_rows, largest, nearest_of
from lirdrec_pyg.recommender.ids import IDs, as_ids, is_table
from lirdrec_pyg.recommender.run import Run
from lirdrec_pyg.training import TrainingConfig

Fallback = Literal["skip", "popular", "error"]

NEW_USER = "new user"

# Cosines of vectors that all point in one direction differ by rounding only.
_SAME_COSINE = 1e-5

Value = TypeVar("Value")

_COMPUTING = threading.RLock()


class _Once(cached_property[Value]):
    """A cached property that one thread computes while others wait; since Python 3.12, each would compute it."""

    if not TYPE_CHECKING:

        def __get__(self, instance, owner=None):
            with _COMPUTING:
                return super().__get__(instance, owner)


@dataclass(frozen=True, repr=False, eq=False)
class Recommender:
    """A trained model with its data, which answers in the IDs of users and items.

    :func:`~lirdrec_pyg.fit` returns one, :meth:`load` reads one from a run folder, :meth:`save` writes one. It is
    immutable, so threads can share it, and never goes back to the disk.

    Attributes:
        dataset: the data it was trained on, and the new items.
        model: the model with the weights of the best epoch, on the CPU.
        model_config: hyperparameters, and what the model supports.
        training_config: settings of the training.
        vectors: representations of the users and of all items, on the CPU; without columns if scores are not dot
            products of vectors.
        neighborhood: what new items are attached by; ``None`` if the model does not support them or was not trained to
            the end, in which case :meth:`add_items` computes it.
        metrics: validation and test metrics, time and memory; ``None`` for an unfinished run.
        device: device on which items are ranked; everything else is computed on the CPU.
        path: run folder it was read from or written to.
        checksums: checksums of the files in that folder.
    """

    dataset: Dataset
    model: Any
    model_config: ModelConfig
    training_config: TrainingConfig
    vectors: Vectors
    neighborhood: Neighborhood | None = None
    metrics: dict[str, Any] | None = None
    device: str = "cpu"
    path: Path | None = None
    checksums: dict[str, str] | None = None

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", verify: bool = True) -> "Recommender":
        """Read a run folder.

        Args:
            path: the folder.
            device: where to rank, ``"cpu"``, ``"cuda"`` or ``"auto"``.
            verify: whether to compare every file with its checksum, which takes about a second per gigabyte.

        Raises:
            RunError: if ``path`` is not a run, of a newer format, damaged or changed.
            DataError: instead, for a damaged graph or list of IDs, if files are not verified.
        """
        device = resolve_device(device)
        run = Run.open(path)
        checksums = run.check() if verify else None
        config, training, metrics = run.model_config(), run.training_config(), run.metrics()
        dataset, vectors = run.dataset(), run.vectors()
        model = run.model(dataset.graph)
        if vectors is None:
            vectors = _computed_vectors(config, model, dataset.graph)
        return cls(dataset, model, config, training, vectors, run.neighborhood(), metrics, device, run.path, checksums)

    def save(self, path: str | Path, overwrite: bool = False) -> "Recommender":
        """Write a run folder, which :meth:`load` reads.

        Args:
            path: folder to create. What is the same in the folder that this recommender was read from is linked, not
                copied, where the file system allows it.
            overwrite: whether to replace a run that is there.

        Returns:
            This recommender, of the new folder.

        Raises:
            RunError: if the folder is in use or cannot be written.
        """
        Run(Path(path)).save(self, overwrite)
        return replace(self, path=Path(path), checksums=None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_config.model}, {len(self.users)} users, {len(self.items)} items)"

    @property
    def graph(self) -> HeteroData:
        """The graph of the training, with the new items."""
        return self.dataset.graph

    @property
    def users(self) -> Vocabulary:
        """User IDs by position."""
        return self.dataset.users

    @_Once
    def items(self) -> Vocabulary:
        """IDs of all items by position, the new ones last."""
        new = self.dataset.new_items
        return self.dataset.items if new is None else self.dataset.items.extended(new.ids)

    @property
    def num_trained_items(self) -> int:
        """Number of items that were part of the training; new ones follow them."""
        return self.graph["item"].num_nodes

    @_Once
    def _ranked(self) -> tuple[Tensor, Tensor]:
        """Vectors of users and items where they are ranked."""
        return self.vectors.user.to(self.device), self.vectors.item.to(self.device)

    @_Once
    def _ranker(self) -> Ranker:
        if self.model_config.has_vectors:
            return DotProducts(*self._ranked)
        ranker: Ranker = self.model_on(self.device).ranker(copy.copy(self.graph).to(self.device))
        return ranker

    def model_on(self, device: str) -> Any:
        """Return the model, or a copy of it on another device."""
        return self.model if device == "cpu" else copy.deepcopy(self.model).to(device)

    def _check_vectors(self) -> None:
        if not self.model_config.has_vectors:
            raise ConfigError(
                f"`model={self.model_config.model!r}` has no vectors, since it scores by the items of a user. It "
                "can recommend, be evaluated, and list similar items by a modality."
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
        """Training interactions per item, shape ``(|I|,)``."""
        return degree(self.graph[INTERACTS].edge_index[1].as_subclass(Tensor), len(self.items), dtype=torch.long)

    def _positions(self, vocabulary: Vocabulary, ids: IDs) -> Tensor:
        return torch.from_numpy(vocabulary.positions(as_ids(ids, vocabulary.kind)))

    def user_vectors(self, users: IDs | None = None) -> np.ndarray:
        """Return vectors of ``users``, by default of all, float32, shape ``(N, B * d)``."""
        self._check_vectors()
        return _rows(self.vectors.user, None if users is None else self._positions(self.users, users))

    def item_vectors(self, items: IDs | None = None) -> np.ndarray:
        """Return vectors of ``items``, by default of all, float32, shape ``(N, B * d)``."""
        self._check_vectors()
        return _rows(self.vectors.item, None if items is None else self._positions(self.items, items))

    def score(self, users: IDs, items: IDs) -> np.ndarray:
        """Return the score of each pair of a user and an item, float32, shape ``(N,)``.

        Raises:
            DataError: if an ID is unknown, or the lists differ in length.
        """
        self._check_vectors()
        user, item = self._positions(self.users, users), self._positions(self.items, items)
        if len(user) != len(item):
            raise DataError(f"There are {len(user)} users, but {len(item)} items. Pass one item per user.")
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
        """Rank the ``k`` best items per user, exactly.

        Args:
            users: user IDs; duplicates count once; by default all users.
            k: items per user; a user with fewer candidates gets all of them.
            exclude_seen: whether to leave out training interactions of the user.
            candidates: IDs of the items to choose from; by default all, including new ones. Unknown ones are skipped,
                with a warning.
            fallback: what users get who are unknown or have no training interactions, and so no meaningful vector:
                nothing (``"skip"``), the items with the most training interactions (``"popular"``), or an error
                (``"error"``). In the first two cases a warning names such users.

        Returns:
            ``user``, ``item``, ``rank`` (from 1) and ``score``, which is null for a popular item.

        Raises:
            DataError: if no user or candidate is known, or because of ``fallback``.
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
        """Do the same as :meth:`recommend` in portions that fit into memory. The call itself raises all errors."""
        check_choice("fallback", fallback, Fallback)
        _check_count("k", k)
        asked = self.users.ids if users is None else as_ids(users, "user").unique(maintain_order=True)
        if not len(asked):
            raise DataError("The list of users is empty.")
        position = self.users.find(asked)
        known = (position >= 0) & self._has_history[position]
        others = asked.filter(~pl.Series(known))
        if len(others):
            self._report(others, asked.filter(pl.Series(position < 0)), len(asked), fallback)
        allowed = None if candidates is None else self._candidates(candidates)
        index = torch.from_numpy(position[known])
        return self._blocks(index, k, self._seen if exclude_seen else None, allowed, others, fallback)

    def _report(self, others: pl.Series, unknown: pl.Series, num_asked: int, fallback: Fallback) -> None:
        text = f"{len(others)} of {num_asked} users are unknown or have no training interactions ({listed(others)})."
        hint = f" {self.users.hint(unknown)}" if len(unknown) else ""
        if fallback == "error":
            raise DataError(f"{text}{hint} Leave them out, or pass `fallback='skip'` or `fallback='popular'`.")
        if fallback == "skip" and len(others) == num_asked:
            raise DataError(f"{text}{hint} Pass `fallback='popular'` to recommend popular items.")
        warnings.warn(
            f"{text} They {'are skipped' if fallback == 'skip' else 'get popular items'}.{hint}", stacklevel=4
        )

    def _candidates(self, candidates: IDs) -> Tensor:
        ids = as_ids(candidates, "candidate")
        if not len(ids):
            raise DataError("The list of candidates is empty.")
        position = self.items.find(ids)
        if len(unknown := ids.filter(pl.Series(position < 0))):
            text = f"{len(unknown)} of {len(ids)} candidates are unknown ({listed(unknown)})."
            if len(unknown) == len(ids):
                raise DataError(f"{text} {self.items.hint(unknown)}")
            warnings.warn(f"{text} They are skipped. {self.items.hint(unknown)}", stacklevel=4)
        return torch.from_numpy(position[position >= 0]).unique().to(self.device)

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
            # As text, all fit into one column.
            ids, others = ids.cast(pl.String), others.cast(pl.String)
        if len(index):
            for block in self._ranker.top_k(index.to(self.device), k, seen, allowed):
                yield self._table(ids.gather(index[block.rows].numpy()), block.item, block.score)
        if fallback == "popular" and len(others):
            items = torch.arange(len(self.items)) if allowed is None else allowed.cpu()
            order = self.popularity[items].argsort(descending=True, stable=True)
            yield self._table(others, items[order[:k]].expand(len(others), -1), None)

    def _table(self, users: pl.Series, item: Tensor, score: Tensor | None) -> pl.DataFrame:
        """Return one row per user and rank."""
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
        history: Mapping[Any, IDs] | IDs | Table,
        *,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: IDs | None = None,
    ) -> pl.DataFrame:
        """Rank the ``k`` best items per new user, by the items they interacted with.

        New users are folded in, see :func:`~lirdrec_pyg.models.fold_in_users`.

        Args:
            history: one of

                * item IDs of one user, who is called "new user" in the result;
                * a mapping from users to the IDs of their items;
                * a pandas, polars or Arrow table with columns of users and items that have usual names, such as
                  ``user`` and ``item``.

                Unknown items, and users without a known item, are skipped, with a warning.
            k: items per user.
            exclude_seen: whether to leave out the items of the history.
            candidates: IDs of the items to choose from; by default all. Unknown ones are skipped, with a warning.

        Returns:
            As :meth:`recommend`.

        Raises:
            DataError: if no item of any user is known.
            ConfigError: if the model does not support new users.
        """
        _check_count("k", k)
        self.model_config.require("new_users")
        users, pairs = self._history_pairs(history)
        folded = fold_in_users(self.model, self.graph, self.vectors, pairs, len(users))
        seen = SeenItems.of(pairs.to(self.device), len(users)) if exclude_seen else None
        allowed = None if candidates is None else self._candidates(candidates)
        index = torch.arange(len(users), device=self.device)
        return pl.concat(
            self._table(users[block.rows], block.item, block.score)
            for block in top_k(folded.user.to(self.device), self._ranked[1], index, k, seen, allowed)
        )

    def _history_pairs(self, history: Mapping[Any, IDs] | IDs | Table) -> tuple[pl.Series, Tensor]:
        """Return names of the users, and pairs (place of the user among these, position of the item)."""
        frame = _history_frame(history)
        if not frame["item"].count():
            raise DataError("The history is empty. Pass at least one user with one item.")
        position = self.items.find(frame["item"])
        known = pl.Series(position >= 0)
        users = frame["user"].filter(known).unique(maintain_order=True)
        unknown = frame["item"].filter(~known).unique(maintain_order=True).drop_nulls()
        if not len(users):
            raise DataError(f"No item of the history is in the catalog ({listed(unknown)}). {self.items.hint(unknown)}")
        if len(unknown):
            hint = self.items.hint(unknown)
            warnings.warn(f"Unknown items are left out of the history: {listed(unknown)}. {hint}", stacklevel=3)
        lost = frame["user"].unique(maintain_order=True)
        if len(lost := lost.filter(~lost.is_in(users.implode()))):
            warnings.warn(f"Users without a known item are skipped: {listed(lost)}.", stacklevel=3)
        row = Vocabulary(users, "user").find(frame["user"].filter(known))
        return users, torch.from_numpy(np.stack([row, position[known.to_numpy()]]))

    def similar_items(self, item: int | str, k: int = 10, by: str = "vectors") -> pl.DataFrame:
        """Rank the items most similar to one item.

        Args:
            item: item ID.
            k: number of items.
            by: ``"vectors"`` for the cosine of the representations, or a modality for that of the raw features.

        Returns:
            ``item``, ``rank`` (from 1) and ``cosine``.

        Raises:
            DataError: if the item is unknown, has no features in that modality, or is equally similar to all others.
            ConfigError: if there is no such modality.
        """
        _check_count("k", k)
        position = int(self._positions(self.items, [item])[0])
        cosine = self._cosine(position, by)
        cosine[position] = -torch.inf
        others = cosine[cosine > -torch.inf]
        if len(others) > 1 and others.max() - others.min() < _SAME_COSINE:
            raise DataError(
                f"By {by}, all items are equally similar to {shown(self.items.ids[position])} (cosine "
                f"{others[0]:.4f}), so there is nothing to rank. Pass another `by`."
            )
        best, values = largest(cosine, k)
        return pl.DataFrame(
            {
                "item": self.items.ids.gather(best.numpy()),
                "rank": np.arange(1, len(best) + 1, dtype=np.int32),
                "cosine": values.numpy(),
            }
        )

    def _cosine(self, position: int, by: str) -> Tensor:
        """Return the cosines of all items with one; minus infinity for items without features."""
        if by == "vectors":
            self._check_vectors()
            return F.cosine_similarity(self.vectors.item, self.vectors.item[position : position + 1])
        if by not in (names := modalities(self.graph)):
            raise ConfigError(f"`by` is {by!r}. Choose 'vectors' or a modality: {', '.join(names)}.")
        own, real = feature_rows(self.graph, by, torch.tensor([position]))
        if not real:
            raise DataError(f"The item {self.items.ids[position]!r} has no features in {by}.")
        return cosine_with_all(self.graph, by, own)

    def explain(self, user: int | str, item: int | str, nearest: int = 3) -> Explanation:
        """Split the score of a pair by branch, and find the user's other items nearest to the item.

        Args:
            user: user ID.
            item: item ID.
            nearest: number of items per modality.

        Raises:
            DataError: if an ID is unknown.
            ConfigError: if the model does not support explanations.
        """
        self.model_config.require("explanations")
        _check_count("nearest", nearest, least=0)
        row, column = int(self._positions(self.users, [user])[0]), int(self._positions(self.items, [item])[0])
        u, v = (self.model.split_branches(x) for x in (self.vectors.user[row], self.vectors.item[column]))
        parts = (u.double() * v.double()).sum(dim=-1).flatten()
        branches = pl.DataFrame(
            {
                "branch": self.model.branches,
                "weight": self.vectors.user_weight[row].cpu().numpy(),
                "part": parts.cpu().numpy(),
            }
        )
        seen = self._seen.pairs(torch.tensor([row], device=self.device))[1].cpu()
        seen = seen[seen != column]
        found = []
        for modality in self.model.in_channels:
            best, cosine = nearest_of(self.graph, column, seen, modality, nearest)
            names = pl.Series([modality] * len(best), dtype=pl.String)
            ids = self.items.ids.gather(seen[best].numpy())
            found.append(pl.DataFrame({"modality": names, "item": ids, "cosine": cosine.numpy()}))
        return Explanation(float(parts.sum()), branches, pl.concat(found))

    def add_items(self, new: NewItems) -> "Recommender":
        """Return a recommender that also knows items that were not part of the training.

        They are encoded by the trained encoders and attached to the graph by their nearest neighbors, see
        :func:`~lirdrec_pyg.models.attach_items`; nothing is trained, and no other item changes.

        Args:
            new: IDs and features, see :func:`~lirdrec_pyg.data.read_new_items`.

        Raises:
            DataError: if an ID is known already, or features do not fit.
            ConfigError: if the model does not support new items.
        """
        self.model_config.require("new_items")
        if (present := new.ids.ids.filter(pl.Series(self.items.find(new.ids.ids) >= 0))).len():
            raise DataError(f"{len(present)} of the new items are in the catalog already, such as {present[0]!r}.")
        warn_of_look_alikes(new.ids.ids, self.items.ids, "new item", strip="Remove these in the files")
        added = set_new_items(self.graph, new.features, new.masks)
        if added[NEW_ITEM].num_nodes != len(new.ids):
            raise DataError(f"There are {len(new.ids)} new item IDs for {added[NEW_ITEM].num_nodes} rows of features.")
        first = self.num_trained_items
        known = self.vectors.items_until(first)
        neighborhood = self.neighborhood or Neighborhood.of(self.model, self.graph, known)
        attached = attach_items(self.model, added, known, neighborhood)
        ids = self.items.extended(new.ids.ids).ids[first:]
        dataset = replace(self.dataset, graph=append_new_items(self.graph, added), new_items=Vocabulary(ids, "item"))
        return replace(
            self,
            dataset=dataset,
            vectors=self.vectors.append_items(attached.item[first:], attached.item_layers[:, first:]),
            neighborhood=neighborhood,
        )

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Compute the metrics of a split again, from the weights; see :class:`~lirdrec_pyg.recommender.Evaluator`."""
        return Evaluator(self).metrics(split)


def _history_frame(history: Mapping[Any, IDs] | IDs | Table) -> pl.DataFrame:
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


def _computed_vectors(config: ModelConfig, model: Any, graph: HeteroData) -> Vectors:
    """Return the vectors of a run that has none: it is unfinished, or the model has none."""
    if not config.has_vectors:
        return Vectors.of(torch.empty(graph["user"].num_nodes, 0), torch.empty(graph["item"].num_nodes, 0))
    prepared = model_class(config).input_transform(config)(copy.copy(graph))
    if has_new_items(prepared):
        return model_vectors(model, prepared)
    vectors: Vectors = model.vectors(prepared)
    return vectors


def _check_count(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(f"`{name}` is {value}. It must be an integer of at least {least}.")


def _rows(x: Tensor, position: Tensor | None) -> np.ndarray:
    """Return rows as a read-only array, since it may be the recommender's own memory."""
    rows = (x if position is None else x[position]).numpy()
    rows.flags.writeable = False
    return rows
