import copy
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.callback import Callback, CallbackList
from lirdrec_pyg.data import (
    HELD_OUT,
    INTERACTS,
    ColumnConfig,
    Dataset,
    ItemCatalog,
    NewItems,
    Vocabulary,
    append_new_items,
    feature_widths,
    has_new_items,
    known_interactions,
    modalities,
    set_new_items,
    training_interactions,
)
from lirdrec_pyg.data.dataset import DataConfig, Table, catalog_of, interactions_in_memory, to_polars
from lirdrec_pyg.data.features import ZeroFeatures
from lirdrec_pyg.data.ids import warn_of_look_alikes
from lirdrec_pyg.data.interactions import columns_of_training, parse_interactions
from lirdrec_pyg.data.new_items import new_items_in_memory
from lirdrec_pyg.data.tables import read_table
from lirdrec_pyg.devices import resolve_device
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.explanation import Explanation
from lirdrec_pyg.html import table_of
from lirdrec_pyg.models import (
    Attribution,
    ItemRegression,
    ModelConfig,
    Vectors,
    attach_items,
    attach_unclicked,
    model_class,
)
from lirdrec_pyg.nn import DotProducts, Scores, SeenItems
from lirdrec_pyg.recommender.evaluate import Evaluator
from lirdrec_pyg.recommender.explain import because, explain
from lirdrec_pyg.recommender.history import History
from lirdrec_pyg.recommender.ids import IDs, as_ids
from lirdrec_pyg.recommender.recommend import Fallback, recommend_blocks, recommend_for_history
from lirdrec_pyg.recommender.rules import Rules
from lirdrec_pyg.recommender.run import Run, metric_facts
from lirdrec_pyg.recommender.similar import similar_items, similar_items_blocks
from lirdrec_pyg.training import TrainingConfig

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.update import UpdateConfig

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
        regression: what predicts the vectors of new items; ``None`` if the model does not support them, or was trained
            by an earlier version or not to the end, in which case :meth:`add_items` computes it.
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
    regression: ItemRegression | None = None
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
        return cls(dataset, model, config, training, vectors, run.regression(), metrics, device, run.path, checksums)

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
        return f"{type(self).__name__}({self.model_config.model}, {len(self.users):,} users, {len(self.items):,} items)"

    def _repr_html_(self) -> str:
        facts = {
            "model": self.model_config.model,
            "users": f"{len(self.users):,}",
            "items": f"{len(self.items):,}",
            "features": ", ".join(modalities(self.graph)),
            **metric_facts(self.metrics),
            **({} if self.path is None else {"run": str(self.path)}),
        }
        return table_of(type(self).__name__, facts)

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
        return self.dataset.all_items

    @property
    def num_trained_items(self) -> int:
        """Number of items that were part of the training; new ones follow them."""
        return self.graph["item"].num_nodes

    @_Once
    def catalog_rows(self) -> pl.DataFrame:
        """Rows of the item catalog by position of the item, with nulls for items that it lacks."""
        assert self.dataset.catalog is not None
        return self.dataset.catalog.rows(self.items.ids)

    @_Once
    def ranked_items(self) -> Tensor:
        """Vectors of the items where they are ranked."""
        return self.vectors.item.to(self.device)

    @_Once
    def ranker(self) -> DotProducts | Scores:
        """Ranking function of the model."""
        if self.model_config.has_vectors:
            return DotProducts(self.vectors.user.to(self.device), self.ranked_items)
        return self.model_on(self.device).ranker(copy.copy(self.graph).to(self.device))

    def model_on(self, device: str) -> Any:
        """Return the model, or a copy of it on another device."""
        return self.model if device == "cpu" else copy.deepcopy(self.model).to(device)

    def check_vectors(self) -> None:
        """Raise :class:`ConfigError` if scores are not dot products of vectors."""
        if not self.model_config.has_vectors:
            raise ConfigError(
                f"`model={self.model_config.model!r}` has no vectors, since it scores by the items of a user. It "
                "can recommend, be evaluated, and list similar items by a modality."
            )

    @property
    def compares_items(self) -> bool:
        """``True`` if vectors tell which items are similar; a number per item, such as its popularity, does not."""
        return self.model_config.has_vectors and self.vectors.width > 1

    def check_item_vectors(self) -> None:
        """Raise :class:`ConfigError` if vectors do not say which items are similar."""
        if not self.compares_items:
            reason = "gives each item a number, not a vector" if self.model_config.has_vectors else "has no vectors"
            raise ConfigError(
                f"`model={self.model_config.model!r}` {reason}. Pass a modality as `by`: "
                f"{', '.join(modalities(self.graph))}."
            )

    @_Once
    def history(self) -> SeenItems:
        """Training items of each user."""
        return SeenItems.of(self.graph[INTERACTS].edge_index.to(self.device), len(self.users))

    @_Once
    def seen(self) -> SeenItems:
        """All known items of each user, of the training and held out."""
        return SeenItems.of(known_interactions(self.graph).to(self.device), len(self.users))

    @_Once
    def has_history(self) -> np.ndarray:
        """Which users have training interactions."""
        return (self.history.start.diff() > 0).cpu().numpy()

    def trained_positions(self, users: pl.Series) -> np.ndarray:
        """Return positions of users, -1 for those without training interactions."""
        position = self.users.find(users)
        return np.where((position >= 0) & self.has_history[position], position, -1)

    @_Once
    def attribution(self) -> Attribution:
        """Function that splits scores by the training items of a user."""
        self.model_config.require("explanations")
        return self.model.attribution(self.graph, self.vectors)

    @_Once
    def popularity(self) -> Tensor:
        """Training interactions per item, shape ``(|I|,)``."""
        return degree(training_interactions(self.graph)[1], len(self.items), dtype=torch.long)

    @_Once
    def relative_popularity(self) -> Tensor:
        """Logarithm of 1 + :attr:`popularity`, standardized over all items, where they are ranked."""
        log = self.popularity.to(self.ranked_items).log1p()
        return (log - log.mean()) / log.std(correction=0).clamp(min=1e-12)

    def item_positions(self, items: IDs) -> Tensor:
        """Return positions of items.

        Raises:
            DataError: if an ID is unknown.
        """
        return torch.from_numpy(self.items.positions(as_ids(items, "item")))

    def user_positions(self, users: IDs) -> Tensor:
        """Return positions of users, see :meth:`item_positions`."""
        return torch.from_numpy(self.users.positions(as_ids(users, "user")))

    def user_vectors(self, users: IDs | None = None) -> np.ndarray:
        """Return vectors of ``users``, by default of all, float32, shape ``(N, B * d)``."""
        self.check_vectors()
        return _rows(self.vectors.user, None if users is None else self.user_positions(users))

    def item_vectors(self, items: IDs | None = None) -> np.ndarray:
        """Return vectors of ``items``, by default of all, float32, shape ``(N, B * d)``."""
        self.check_vectors()
        return _rows(self.vectors.item, None if items is None else self.item_positions(items))

    def score(self, users: IDs, items: IDs) -> np.ndarray:
        """Return the score of each pair of a user and an item, float32, shape ``(N,)``.

        Raises:
            DataError: if an ID is unknown, or the lists differ in length.
        """
        self.check_vectors()
        user, item = self.user_positions(users), self.item_positions(items)
        if len(user) != len(item):
            raise DataError(f"There are {len(user)} users, but {len(item)} items. Pass one item per user.")
        return (self.vectors.user[user] * self.vectors.item[item]).sum(dim=1).numpy()

    def with_catalog(
        self,
        items: ItemCatalog | Table,
        *,
        title: str | None = None,
        picture: str | None = None,
        id_col: str | None = None,
    ) -> "Recommender":
        """Return the same recommender with another item catalog, for titles and rules, such as today's stock.

        Args:
            items: a pandas, polars or Arrow table with one row per item, or a catalog.
            title: column with the name of an item; by default that of the present catalog, or one with a usual name.
            picture: column with the path of its image; by default as for ``title``.
            id_col: column of item IDs; by default that of the training, or one with a usual name.

        Raises:
            DataError: if a column is missing, an ID is missing or occurs twice, or no item is known.
        """
        catalog = items if isinstance(items, ItemCatalog) else self._recognized(items, title, picture, id_col)
        catalog.check_known(self.items)
        config = self.dataset.config
        if config is not None and id_col is not None:
            config = replace(config, id_col=id_col)
        return replace(self, dataset=replace(self.dataset, catalog=catalog, config=config))

    def _recognized(self, items: Table, title: str | None, picture: str | None, id_col: str | None) -> ItemCatalog:
        frame, config = to_polars(items).fill_nan(None), self.dataset.config or DataConfig()
        if (present := self.dataset.catalog) is not None:
            title = title or (present.title if present.title in frame.columns else None)
            picture = picture or (present.picture if present.picture in frame.columns else None)
            config = replace(config, image_root=present.image_root)
        id_col = id_col or (config.id_col if config.id_col in frame.columns else None)
        return catalog_of(frame, replace(config, title=title, picture=picture, id_col=id_col))

    def recommend(
        self,
        users: IDs | None = None,
        *,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: IDs | None = None,
        exclude: IDs | None = None,
        fallback: Fallback = "skip",
        columns: Sequence[str] = (),
        **rules: Any,
    ) -> pl.DataFrame:
        """Rank the ``k`` best items per user, exactly.

        Args:
            users: user IDs; duplicates count once; by default all users.
            k: items per user; a user with fewer candidates gets all of them.
            exclude_seen: whether to leave out all known interactions of the user, those held out for validation and
                test among them.
            candidates: IDs of the items to choose from; by default all, including new ones. Unknown ones are skipped,
                with a warning.
            exclude: IDs of items to leave out for all users; unknown ones have no effect.
            fallback: what users get who are unknown or have no training interactions, and so no meaningful vector:
                nothing (``"skip"``), the items with the most training interactions (``"popular"``), or an error
                (``"error"``). In the first two cases a warning names such users. Popular items obey all rules but
                ``popularity_penalty`` and ``diversity``, which are about scores.
            columns: columns of the catalog to add, such as the title; null for items that are missing from it.
            rules: fields of :class:`~lirdrec_pyg.recommender.Rules`.

        Returns:
            ``user``, ``item``, ``rank`` (from 1), ``score``, which is null for a popular item, and ``columns``.

        Raises:
            DataError: if no user or candidate is known, or because of ``fallback``.
            ConfigError: if a rule is invalid, or the catalog has no such column.
        """
        blocks = recommend_blocks(self, users, k, exclude_seen, candidates, exclude, fallback, columns, Rules(**rules))
        return pl.concat(blocks)

    def recommend_blocks(
        self,
        users: IDs | None = None,
        *,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: IDs | None = None,
        exclude: IDs | None = None,
        fallback: Fallback = "skip",
        columns: Sequence[str] = (),
        **rules: Any,
    ) -> Iterator[pl.DataFrame]:
        """Do the same as :meth:`recommend` in portions that fit into memory. The call itself raises all errors."""
        return recommend_blocks(self, users, k, exclude_seen, candidates, exclude, fallback, columns, Rules(**rules))

    def recommend_for_history(
        self,
        history: History,
        *,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: IDs | None = None,
        exclude: IDs | None = None,
        fallback: Fallback = "skip",
        columns: Sequence[str] = (),
        **rules: Any,
    ) -> pl.DataFrame:
        """Rank the ``k`` best items per user, by the items they interacted with since the training.

        New users are represented by these items; users of the training by what was learned about them and these items,
        see :func:`~lirdrec_pyg.models.fold_in_users`.

        Args:
            history: one of

                * item IDs of one user, who is called "new user" in the result;
                * a mapping from users to the IDs of their items;
                * a pandas, polars or Arrow table with the training's columns of users and items, or usual ones, such as
                  ``user`` and ``item``.

                Unknown items are skipped, with a warning. A user of the training without a known item is represented
                by the training alone.
            k: items per user.
            exclude_seen: whether to leave out the items of the history and all known interactions of the user.
            candidates: IDs of the items to choose from; by default all. Unknown ones are skipped, with a warning.
            exclude: IDs of items to leave out for all users; unknown ones have no effect.
            fallback: what users get who have neither training interactions nor a known item, see :meth:`recommend`.
            columns: columns of the catalog to add, such as the title.
            rules: fields of :class:`~lirdrec_pyg.recommender.Rules`.

        Returns:
            As :meth:`recommend`.

        Raises:
            DataError: if there is nothing to rank by for any user, or because of ``fallback``.
            ConfigError: if the model does not support new users, a rule is invalid, or the catalog has no such column.
        """
        return recommend_for_history(
            self, history, k, exclude_seen, candidates, exclude, fallback, columns, Rules(**rules)
        )

    def similar_items(
        self, item: int | str, k: int = 10, by: str = "vectors", columns: Sequence[str] = ()
    ) -> pl.DataFrame:
        """Rank the items most similar to one item.

        Args:
            item: item ID.
            k: number of items.
            by: ``"vectors"`` for the cosine of the learned representations, without the linear branch, or a modality
                for that of the raw features.
            columns: columns of the catalog to add, such as the title.

        Returns:
            ``item``, ``rank`` (from 1), ``cosine``, and ``columns``.

        Raises:
            DataError: if the item is unknown, has no features in that modality, or is equally similar to all others.
            ConfigError: if the modality is unknown, the model has no vectors that compare items, or the catalog lacks a
                column.
        """
        return similar_items(self, item, k, by, columns)

    def similar_items_blocks(
        self, k: int = 10, by: str = "vectors", columns: Sequence[str] = ()
    ) -> Iterator[pl.DataFrame]:
        """Do the same as :meth:`similar_items` for each item, in portions that fit into memory.

        Items for which :meth:`similar_items` has nothing to rank are skipped, and counted in a warning at the end.

        Args:
            k: number of items per item.
            by: as in :meth:`similar_items`.
            columns: columns of the catalog to add for both items of a pair.

        Returns:
            ``item``, ``similar_item``, ``rank`` (from 1), ``cosine``, and for each column, such as ``title``,
            ``item_title`` and ``similar_item_title``.

        Raises:
            DataError: at the end, if there is nothing to rank for any item.
            ConfigError: if the modality is unknown, or the catalog lacks a column.
        """
        return similar_items_blocks(self, k, by, columns)

    def explain(self, user: int | str, item: int | str, nearest: int = 3, columns: Sequence[str] = ()) -> Explanation:
        """Split the score of a pair by the user's training items and by branch, and find the nearest of these items.

        Args:
            user: user ID.
            item: item ID.
            nearest: number of items per modality.
            columns: columns of the catalog to add to the tables of items, such as the title.

        Raises:
            DataError: if an ID is unknown.
            ConfigError: if the model does not support explanations, or the catalog has no such column.
        """
        return explain(self, user, item, nearest, columns)

    def because(self, frame: Table, count: int = 2, history: History | None = None) -> pl.DataFrame:
        """Add the items of the user that contribute most to the score of each recommendation, exactly.

        These are the items of :attr:`Explanation.items` with the largest positive parts, without the recommended item
        itself.

        Args:
            frame: table with the columns ``user`` and ``item``, such as :meth:`recommend` returns.
            count: number of items per row.
            history: for the result of :meth:`recommend_for_history`, the history that it was called with.

        Returns:
            ``frame`` with ``because_1`` (an item ID), ``because_1_title`` if the catalog has titles,
            ``because_1_share`` (see :class:`Explanation`), ``because_2`` and so on; null where there are fewer items,
            and for unknown users.

        Raises:
            DataError: if an item is unknown, or a column is missing.
            ConfigError: if the model does not support explanations.
        """
        return because(self, frame, count, history)

    def add_items(
        self, new: NewItems | Mapping[str, Any], ids: IDs | None = None, zero_features: ZeroFeatures = "error"
    ) -> "Recommender":
        """Return a recommender that also knows items that were not part of the training.

        Their features predict their vectors, see :func:`~lirdrec_pyg.models.attach_items`; nothing is trained, and no
        other item changes.

        Args:
            new: for each modality, a mapping from item IDs to vectors, a table with a column of item IDs, or an array
                with a row for each of ``ids``; or what :func:`~lirdrec_pyg.data.read_new_items` returns. An omitted
                modality is missing for all of them.
            ids: item IDs of the rows of arrays.
            zero_features: whether a row of zeros or of NaN is an error, or stands for missing features.

        Raises:
            DataError: if an ID is known already, or features do not fit.
            ConfigError: if the model does not support new items.
        """
        self.model_config.require("new_items")
        if not isinstance(new, NewItems):
            new = self._new_items(new, ids, zero_features)
        elif ids is not None:
            raise ConfigError("`ids` is for arrays in memory. These new items have IDs. Leave it out.")
        if (present := new.ids.ids.filter(pl.Series(self.items.find(new.ids.ids) >= 0))).len():
            raise DataError(f"{len(present)} of the new items are in the catalog already, such as {present[0]!r}.")
        warn_of_look_alikes(new.ids.ids, self.items.ids, "new item", strip="Remove these")
        if len(x := next(iter(new.features.values()), new.ids.ids)) != len(new.ids):
            raise DataError(f"There are {len(new.ids)} new item IDs for {len(x)} rows of features.")
        added = set_new_items(self.graph, new.features, new.masks, ids=new.ids.ids)
        first = self.num_trained_items
        known = self.vectors.items_until(first)
        regression = self.regression or ItemRegression.of(self.model, self.graph, known)
        attached = attach_items(self.model, added, known, regression)
        ids = self.items.extended(new.ids.ids).ids[first:]
        dataset = replace(self.dataset, graph=append_new_items(self.graph, added), new_items=Vocabulary(ids, "item"))
        more = attached.items_from(first)
        vectors = self.vectors.append_items(more.item, more.item_layers, more.linear)
        return replace(self, dataset=dataset, vectors=vectors, regression=regression)

    def _new_items(
        self, new: Mapping[str, Any], ids: IDs | None = None, zero_features: ZeroFeatures | None = None
    ) -> NewItems:
        """Read features in memory; by default, rows of zeros are what they are in the training."""
        if not isinstance(new, Mapping):
            raise DataError(
                "The new items are not a mapping from modalities to features, such as {'image': x}. "
                "Files are read by `lirdrec_pyg.data.read_new_items`."
            )
        config = self.dataset.config or DataConfig()
        listed = None if ids is None else as_ids(ids, "item")
        widths, zero_features = feature_widths(self.graph), zero_features or config.zero_features
        return new_items_in_memory(new, widths, listed, zero_features, config.item_column, self.items)

    def update(
        self,
        interactions: str | Path | Table | tuple[Any, Any],
        new_items: NewItems | Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        *,
        config: "UpdateConfig | None" = None,
        columns: ColumnConfig | None = None,
        callbacks: Iterable[Callback] = (),
        overwrite: bool = False,
    ) -> "Recommender":
        """Return a recommender that was trained further, with later interactions, users and items.

        All weights, and the vectors of the users, start from their present values, new users from their fold-in, see
        :func:`~lirdrec_pyg.models.continue_from`, and items that are new start as :meth:`add_items` attaches them. The
        training then passes over all interactions, old and new, for as long as the validation on held-out ones, the
        latest among them, improves.

        Args:
            interactions: path of a table, a pandas, polars or Arrow table, or a pair of arrays (user IDs, item IDs).
            new_items: features of items, as in :meth:`add_items`; known ones get those that were missing.
            out: run folder to write; by default nothing is written.
            config: settings of the training.
            columns: columns of ``interactions``, and which rows count; by default as in the training, with usual names
                of columns that the table does not have.
            callbacks: follow the training, and may stop it.
            overwrite: whether to replace an earlier run in ``out``.

        Returns:
            The recommender, of the new folder if there is one. ``metrics["update"]`` compares it with this one.

        Raises:
            DataError: if an ID or a feature does not fit, or there are too few new interactions.
            ConfigError: if the model does not support new items and new users.
        """
        from lirdrec_pyg.recommender.update import UpdateConfig, update  # which makes recommenders

        self.model_config.require("updates")
        if out is not None:
            Run.check_free(Path(out), overwrite, source=self.path)
        frame = self._later_interactions(interactions, columns)
        if new_items is not None and not isinstance(new_items, NewItems):
            new_items = self._new_items(new_items)
        more = new_items and new_items.without(self.items)
        grown = self.add_items(more) if more else self
        folder = None if out is None else Path(out)
        return update(grown, frame, new_items, config or UpdateConfig(), folder, CallbackList(callbacks), overwrite)

    def _later_interactions(
        self, interactions: str | Path | Table | tuple[Any, Any], columns: ColumnConfig | None
    ) -> pl.DataFrame:
        """Read interactions in given columns, or those of the training that they have."""
        trained = self.dataset.config or DataConfig()
        if isinstance(interactions, (str, Path)):
            path = Path(interactions)
            table = read_table(path, *((columns or trained).separator, (columns or trained).header))
            return parse_interactions(table, columns or columns_of_training(trained, table.columns), "none", path)
        if columns is None and isinstance(interactions, tuple):
            columns = ColumnConfig(strip_ids=trained.strip_ids, missing_ids=trained.missing_ids)
        elif columns is None:
            interactions = to_polars(interactions)
            columns = columns_of_training(trained, interactions.columns)
        return interactions_in_memory(interactions, columns, split="none")

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Compute the metrics of a split again, from the weights; see :class:`~lirdrec_pyg.recommender.Evaluator`.

        Raises:
            ConfigError: if ``split`` is neither ``"valid"`` nor ``"test"``.
            DataError: if nothing is held out for it.
        """
        if split not in (held_out := [each.value for each in HELD_OUT]):
            raise ConfigError(f"`split` is {split!r}. Choose {' or '.join(map(repr, held_out))}.")
        return Evaluator(self).metrics(split)


def _computed_vectors(config: ModelConfig, model: Any, graph: HeteroData) -> Vectors:
    """Return the vectors of a run that has none: it is unfinished, or the model has none."""
    if not config.has_vectors:
        return Vectors.of(torch.empty(graph["user"].num_nodes, 0), torch.empty(graph["item"].num_nodes, 0))
    prepared = model_class(config).input_transform(config)(graph)
    vectors: Vectors = model.vectors(prepared)
    if has_new_items(prepared) or config.attaches_unclicked_items:
        regression = ItemRegression.of(model, prepared, vectors)
        if has_new_items(prepared):
            vectors = attach_items(model, prepared, vectors, regression)
        if config.attaches_unclicked_items:
            vectors = attach_unclicked(model, prepared, vectors, regression)
    return vectors


def _rows(x: Tensor, position: Tensor | None) -> np.ndarray:
    """Return rows as a read-only array, since it may be the recommender's own memory."""
    rows = (x if position is None else x[position]).numpy()
    rows.flags.writeable = False
    return rows
