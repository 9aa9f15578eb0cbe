import copy
import warnings
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import degree

from lirdrec_pyg.config import field
from lirdrec_pyg.data.alignment import FeatureRows, find_row_ids, select_features
from lirdrec_pyg.data.drawings import draw_items
from lirdrec_pyg.data.feature_files import read_feature_files
from lirdrec_pyg.data.features import FeatureTable, ZeroFeatures
from lirdrec_pyg.data.generator import generate
from lirdrec_pyg.data.graph import (
    INTERACTS,
    build_checked_graph,
    check_catalog,
    check_graph,
    feature_mask,
    has_new_items,
    held_out_edges,
    item_features,
    known_interactions,
    modalities,
    set_checked_new_items,
    set_interactions,
)
from lirdrec_pyg.data.ids import (
    as_series,
    canonical_ids,
    check_ids,
    missing_ids,
    same_type,
    strip_ids,
    warn_of_damaged_ids,
    warn_of_look_alikes,
)
from lirdrec_pyg.data.interactions import ColumnConfig, Facts, k_core, merge_duplicates, parse_interactions
from lirdrec_pyg.data.item_catalog import ItemCatalog
from lirdrec_pyg.data.layouts import find_features, read_layout
from lirdrec_pyg.data.provenance import provenance_facts
from lirdrec_pyg.data.splits import HELD_OUT, TEST, TRAIN, VAL, Split, SplitStrategy, resolve_split, split_interactions
from lirdrec_pyg.data.tables import read_table
from lirdrec_pyg.data.vocabulary import Vocabulary
from lirdrec_pyg.errors import ConfigError, DataError, first_line, listed, shown
from lirdrec_pyg.html import table_of

Table = Any  # a pandas, polars or Arrow table


@dataclass(frozen=True)
class DataConfig(ColumnConfig):
    """Which data to train on, and how to split them."""

    data: str | None = field(
        None,
        "A folder (MMRec layout, raw files of TikTok or LATTICE, or a table, or a table per split, "
        "beside feature files), a table of interactions, or 'synthetic' for generated data.",
    )
    features: dict[str, str] = field(
        {},
        "MODALITY=FILE, once per modality: item features in .npy, .npz, .pt, .safetensors, .parquet, .csv, .tsv or "
        ".jsonl. Or a folder, "
        "such as 'features' writes, with files named MODALITY_feat.*. By default those beside the table.",
    )
    item_ids: str | None = field(
        None,
        "Text file with one item ID per line, for feature files without item IDs. By default "
        "row r belongs to the item with the integer ID r.",
    )
    items: str | None = field(None, "Table of the items, with titles, images and other columns, for people to read.")
    id_col: str | None = field(
        None, "Column of --items with the item IDs; by default --item-column, or one with a usual name."
    )
    title: str | None = field(None, "Column of --items with the name of an item; by default one with a usual name.")
    picture: str | None = field(None, "Column of --items with the path of its image; by default one with a usual name.")
    image_root: str | None = field(None, "Folder that these paths are relative to; by default that of --items.")
    k_core: int = field(0, "Keep only users and items with at least this many interactions.", min=0)
    split: SplitStrategy = field(
        "auto",
        "How to split: by the labels of the table, 8:1:1 at random per user, the last interactions of each user, or "
        "by time; 'auto' uses the labels if there are any, else random. 'cold-items' holds out whole items, "
        "which the training does not see, and splits the others at random. 'none' uses all interactions for training.",
    )
    cold_fraction: float = field(
        0.2,
        "Fraction of the items that --split cold-items holds out, half for validation.",
        min=0,
        min_open=True,
        max=0.9,
    )
    zero_features: ZeroFeatures = field(
        "error",
        "Whether a feature row of zeros or of NaN is an error, or stands for missing features.",
    )


@dataclass(frozen=True, repr=False)
class Dataset:
    """Interactions, item features and IDs: everything a model is trained on.

    Make one by :meth:`from_frames`, :meth:`from_path` or :meth:`from_graph`.

    Attributes:
        graph: users, items, interactions and features by position, see :mod:`lirdrec_pyg.data.graph`.
        users: user IDs by position.
        items: item IDs by position.
        new_items: IDs of the items that the training does not see, by position; ``None`` if there are none.
        catalog: titles, images and other columns of the items; ``None`` if unknown.
        config: where the data came from, their columns, and how they were split. Its ``data`` is ``None`` for tables in
            memory. ``None`` for a graph.
        facts: origin, split, merged duplicates and so on, for people and logs.
    """

    graph: HeteroData
    users: Vocabulary
    items: Vocabulary
    new_items: Vocabulary | None = None
    catalog: ItemCatalog | None = None
    config: DataConfig | None = None
    facts: Facts = dataclass_field(default_factory=dict)

    @classmethod
    def from_path(cls, data: DataConfig | str | Path, *, seed: int = 999, **options: Any) -> "Dataset":
        """Read a folder or file, or generate data.

        * A folder with a ``.inter`` file: MMRec layout, ``<name>.inter`` and ``<modality>_feat.npy``.
        * A folder with ``trnMat.pkl``: TikTok's published raw form.
        * A folder with ``train.json``, ``val.json`` and ``test.json``: the form of LATTICE and MMSSL.
        * Any other folder: one table of interactions beside ``<modality>_feat.*`` files.
        * A file: a table of interactions.
        * ``"synthetic"``: generated data.

        Hidden files and subfolders are ignored.

        Args:
            data: path, or all settings.
            seed: seed of a random split.
            options: fields of :class:`DataConfig`. ``features`` may also be a folder of files named
                ``<modality>_feat.*``.

        Raises:
            DataError: naming the file, row or parameter, and the fix.
            ConfigError: if an option is invalid.
        """
        if isinstance(place := options.get("features"), (str, Path)):
            if not Path(place).is_dir():
                raise ConfigError(f"`features` is {shown(str(place))}. Pass a folder, or {{'image': FILE}}.")
            options["features"] = {modality: str(file) for modality, file in find_features(Path(place)).items()}
        config = replace(data, **options) if isinstance(data, DataConfig) else DataConfig(data=str(data), **options)
        if config.data is None:
            raise ConfigError("Pass `data`: a folder, a table of interactions, or 'synthetic'.")
        if config.data == "synthetic":
            default = DataConfig(data="synthetic")
            for name, value in vars(config).items():
                if value != getattr(default, name):
                    raise ConfigError(f"`{name}` is for files and cannot be combined with `data='synthetic'`.")
            graph, users, items, facts = generate()
            return cls(graph, users, items, catalog=draw_items(graph, items), config=config, facts=facts)
        for name in ("id_col", "title", "picture", "image_root"):
            if config.items is None and getattr(config, name) is not None:
                raise ConfigError(f"`{name}` is for the item catalog. Pass it as `items`.")
        path = Path(config.data)
        found: Facts = {}
        frame, source = read_layout(path, config, config.split, found)
        folder = path if path.is_dir() else path.parent
        files = {modality: Path(file) for modality, file in config.features.items()} or find_features(folder)
        catalog = None
        if config.items is not None:
            file = Path(config.items)
            config = replace(config, image_root=config.image_root or str(file.parent))
            catalog = catalog_of(read_table(file), _absolute(config))
        dataset = assemble(frame, read_feature_files(files, config.item_column), config, seed)
        facts = {"source": str(source), **found, **dataset.facts, **provenance_facts(files)}
        return replace(_with_catalog(dataset, catalog), config=_absolute(config), facts=facts)

    @classmethod
    def from_frames(
        cls,
        interactions: Table | tuple[Any, Any],
        features: Mapping[str, Any],
        items: Table | None = None,
        *,
        title: str | None = None,
        picture: str | None = None,
        seed: int = 999,
        **options: Any,
    ) -> "Dataset":
        """Use tables or arrays in memory.

        Args:
            interactions: a pandas, polars or Arrow table with a column of users and one of items, and perhaps labels or
                times; or a pair of arrays (user IDs, item IDs).
            features: for each modality one of

                * an array or list of shape ``(num_items, d_m)``, with the rows of ``items``, or else with the row of
                  the item with the integer ID ``r`` in place ``r``;
                * a mapping from item IDs to vectors;
                * a table with a column of item IDs and a list column, or only columns of numbers.
            items: a table with one row per item, with any columns, which is kept as :class:`ItemCatalog`.
            title: column of ``items`` with the name of an item; by default recognized.
            picture: column of ``items`` with the path of its image; by default recognized.
            seed: seed of a random split.
            options: fields of :class:`DataConfig`: names of columns, ``id_col``, ``image_root``, ``k_core``, ``split``,
                ``cold_fraction``, ``zero_features``.

        Raises:
            DataError: naming the column or row, and the fix.
            ConfigError: if an option is invalid.
        """
        config = DataConfig(title=title, picture=picture, **options)
        if config.data is not None:
            raise ConfigError("`data` is for `Dataset.from_path`. Pass tables or arrays.")
        facts = Facts(source="data in memory")
        if not isinstance(features, Mapping):
            raise ConfigError("`features` must be a mapping from modalities to features, such as {'image': x}.")
        frame = interactions_in_memory(interactions, config, config.split, facts)
        catalog = None if items is None else catalog_of(to_polars(items).fill_nan(None), config)
        row_ids = None if catalog is None else catalog.frame["id"]
        tables = {m: feature_table(m, values, row_ids, config.item_column) for m, values in features.items()}
        dataset = assemble(frame, tables, config, seed)
        return replace(_with_catalog(dataset, catalog), config=config, facts={**facts, **dataset.facts})

    @classmethod
    def from_graph(
        cls,
        graph: HeteroData,
        users: Sequence[int | str] | pl.Series | None = None,
        items: Sequence[int | str] | pl.Series | None = None,
        *,
        catalog: ItemCatalog | None = None,
    ) -> "Dataset":
        """Use a graph as described in :mod:`lirdrec_pyg.data.graph`.

        Args:
            graph: for example of :func:`~lirdrec_pyg.data.build_graph`.
            users: user IDs by position; by default the positions.
            items: item IDs by position; by default the positions.
            catalog: titles, images and other columns of the items.

        Raises:
            DataError: if something is missing in the graph, or if the IDs, or those of the catalog, do not fit.
        """
        check_graph(graph)
        if has_new_items(graph):
            raise DataError("The graph has new items, whose IDs are unknown. Pass `without_new_items(graph)`.")
        ids = _vocabulary("user", users, graph), _vocabulary("item", items, graph)
        edges = [graph[INTERACTS].edge_index, *(held_out_edges(graph, split) for split in HELD_OUT)]
        graph = set_interactions(copy.copy(graph), edges)  # a graph made by hand may repeat them or be in any order
        return _with_catalog(cls(graph, *ids, facts={"source": "a graph in memory"}), catalog)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{count} {name}' for name, count in self._sizes().items())})"

    def _repr_html_(self) -> str:
        graph, catalog = self.graph, self.catalog
        facts: dict[str, str] = {
            **self._sizes(),
            "features": ", ".join(f"{m} ({item_features(graph, m).size(1)})" for m in modalities(graph)),
            "catalog": "none" if catalog is None else ", ".join(catalog.frame.columns),
            **{name: str(self.facts[name]) for name in ("source", "split") if name in self.facts},
        }
        return table_of(type(self).__name__, facts)

    def _sizes(self) -> dict[str, str]:
        num_edges = known_interactions(self.graph).size(1)
        counts = {"users": len(self.users), "items": len(self.items), "interactions": num_edges}
        return {name: f"{count:,}" for name, count in counts.items()}

    @property
    def all_items(self) -> Vocabulary:
        """IDs of all items by position, the new ones last."""
        return self.items if self.new_items is None else self.items.extended(self.new_items.ids)

    def summary(self) -> dict[str, Any]:
        """Return counts, sparsity, modalities, missing features and cold items.

        Cold items and users are those without training interactions.
        """
        graph = self.graph
        edge_index = graph[INTERACTS].edge_index
        num_users, num_items = graph["user"].num_nodes, graph["item"].num_nodes
        val, test = (held_out_edges(graph, split) for split in HELD_OUT)
        user_degree = degree(edge_index[0], num_users, dtype=torch.long)
        item_degree = degree(edge_index[1], num_items, dtype=torch.long)
        sizes = {"training": edge_index.size(1), "validation": val.size(1), "test": test.size(1)}
        total = sum(sizes.values())
        facts: dict[str, Any] = {
            **self.facts,
            "users": num_users,
            "items": num_items,
            "interactions": total,
            **sizes,
            "sparsity": 1 - total / (num_users * num_items),
            "training interactions per user": _spread(user_degree),
            "training interactions per item": _spread(item_degree),
            "cold users": int((user_degree == 0).sum()),
            "cold items": int((item_degree == 0).sum()),
            "test pairs with cold items": int((item_degree[test[1]] == 0).sum()),
            "modalities": {},
        }
        for modality in modalities(graph):
            x, mask = item_features(graph, modality), feature_mask(graph, modality)
            missing = 0 if mask is None else int((~mask).sum())
            dtype = str(x.dtype).removeprefix("torch.")
            facts["modalities"][modality] = {"width": x.size(1), "type": dtype, "missing": missing}
        if self.catalog is not None:
            facts["catalog"] = {
                "items": len(self.catalog),
                "title": self.catalog.title,
                "picture": self.catalog.picture,
            }
        return facts


def interactions_in_memory(
    interactions: Table | tuple[Any, Any], columns: ColumnConfig, split: SplitStrategy, facts: Facts | None = None
) -> pl.DataFrame:
    """Read a table in memory, or a pair of arrays (user IDs, item IDs), as :func:`parse_interactions` does."""
    if isinstance(interactions, tuple):
        ids = [as_series(role, x, f"the {role} IDs") for role, x in zip(("user", "item"), interactions)]
        if len(interactions) != 2 or len(ids[0]) != len(ids[1]):
            raise DataError("A tuple of `interactions` must be two arrays of one length: user IDs and item IDs.")
        interactions = pl.DataFrame(ids)
        columns = replace(columns, user_column=None, item_column=None)  # these may be columns of the features
    return parse_interactions(to_polars(interactions), columns, split, "`interactions`", facts)


def assemble(frame: pl.DataFrame, features: Mapping[str, FeatureTable], config: DataConfig, seed: int) -> Dataset:
    """Merge, filter and split the interactions, and join them with the features by item ID.

    The items are those of the interactions and of the feature tables, so they include items
    without interactions; with a k-core, they are those that remain in it.
    """
    if not features:
        raise DataError("The dataset has no item features. Pass `features` with at least one modality.")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"`seed` is {shown(seed)}. Pass an integer of at least 0.")
    num_rows, lowest = len(frame), frame["item"].min()
    frame = merge_duplicates(frame)
    facts: Facts = {"duplicates merged": num_rows - len(frame)}
    if config.k_core:
        frame = k_core(frame, config.k_core)
        facts["k-core"] = config.k_core
    row_ids = find_row_ids(features, frame["item"], lowest, config.item_ids)
    if config.strip_ids:
        row_ids = {m: canonical_ids(strip_ids(ids), features[m].source) for m, ids in row_ids.items()}
    # Some may look like integers only by chance: as text they can still be told apart.
    item, *by_row = same_type([frame["item"], *row_ids.values()])
    frame, row_ids = frame.with_columns(item), dict(zip(row_ids, by_row))
    users = Vocabulary(frame["user"].unique().sort(), "user")
    catalog = pl.concat([frame["item"], *([] if config.k_core else by_row)]).unique().sort()
    if config.missing_ids != "keep" and len(words := catalog.filter(missing_ids(catalog, words=True))):
        if config.missing_ids == "error":
            raise DataError(
                f"The features have the item ID {shown(words[0])}, a word for a missing one. Leave out its row, or "
                f"pass `missing_ids='drop'`, or `missing_ids='keep'` if it is an ID."
            )
        catalog = catalog.filter(~catalog.is_in(words.implode()))
    check_catalog(len(catalog))  # before the split, which a single item leaves empty

    strategy = resolve_split(frame) if config.split == "auto" else config.split
    frame = split_interactions(frame, strategy, seed, config.cold_fraction)
    facts["split"] = strategy
    if strategy in ("random", "cold-items"):
        facts["seed"] = seed
    cold = frame.filter(pl.col("cold")) if "cold" in frame.columns else frame.clear()
    is_new = catalog.is_in(cold["item"].unique().implode())
    items, new_items = Vocabulary(catalog.filter(~is_new), "item"), Vocabulary(catalog.filter(is_new), "item")

    rows = {m: FeatureRows.of(table, row_ids[m], config.zero_features, True) for m, table in features.items()}
    item = frame["item"].unique(maintain_order=True)
    _warn_of_odd_ids(users.ids, item, pl.concat([catalog, *by_row]), rows)
    for modality, features_of in rows.items():
        features_of.check_known(item)
        if repeated := int((features_of.scan.duplicate & features_of.real).sum()):
            facts[f"duplicate rows of {modality}"] = repeated
    matrices, masks = select_features(items, rows)
    facts |= {f"items without {modality}": int((~mask).sum()) for modality, mask in masks.items()}
    warm = frame.filter(~pl.col("cold")) if len(new_items) else frame
    graph = build_checked_graph(_pairs_by_label(warm, users, items), matrices, masks, len(users))
    if not len(new_items):
        return Dataset(graph, users, items, facts=facts)
    facts["items held out"] = len(new_items)
    _, val, test = _pairs_by_label(cold, users, new_items)
    graph = set_checked_new_items(graph, *select_features(new_items, rows), {Split.VALID: val, Split.TEST: test})
    return Dataset(graph, users, items, new_items, facts=facts)


def _warn_of_odd_ids(user: pl.Series, item: pl.Series, known: pl.Series, rows: Mapping[str, FeatureRows]) -> None:
    """Warn of IDs that a spreadsheet rewrote, of users that look alike, and of items that look like ``known`` ones.

    Items that differ only in capitals are in order if all of them have features.
    """
    warn_of_damaged_ids(user, "user")
    warn_of_damaged_ids(item, "item")
    warn_of_look_alikes(user, user, "user")
    incomplete = np.any([features_of.rows.find(item) < 0 for features_of in rows.values()], axis=0)
    warn_of_look_alikes(item.filter(pl.Series(incomplete) | (strip_ids(item) != item)), known, "item")


def _pairs_by_label(frame: pl.DataFrame, users: Vocabulary, items: Vocabulary) -> list[torch.Tensor]:
    """Return the positions (user, item) of the interactions for training, validation and test."""
    positions = np.stack([users.positions(frame["user"]), items.positions(frame["item"])])
    labels = frame["label"].to_numpy()
    return [torch.from_numpy(positions[:, labels == label]) for label in (TRAIN, VAL, TEST)]


def to_polars(table: Table) -> pl.DataFrame:
    """Convert a pandas, polars or Arrow table; numbers in an index of pandas without a name are left out."""
    try:
        if isinstance(table, pl.LazyFrame):
            return table.collect()
        if type(table).__module__.split(".")[0] == "pandas" and hasattr(table, "columns"):
            if not table.columns.is_unique:
                name = table.columns[table.columns.duplicated()][0]
                raise DataError(f"Two columns of a table have the name {str(name)!r}. Rename one.")
            if any(name is not None for name in table.index.names) or table.index.inferred_type == "string":
                table = table.reset_index()
            # Column by column: polars converts pandas tables only if pyarrow is installed.
            return pl.DataFrame([as_series(str(name), x, f"column {str(name)!r}") for name, x in table.items()])
        if table is None or isinstance(table, str):
            raise TypeError("files are read by `Dataset.from_path` and `read_new_items`")
        return pl.DataFrame(table)
    except DataError:
        raise
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"Cannot read a table of type {type(table).__name__} ({first_line(error)}).") from error


def catalog_of(frame: pl.DataFrame, config: DataConfig) -> ItemCatalog:
    """Recognize the columns of a table of items, with IDs as the interactions have them."""
    id_col = config.id_col or (config.item_column if config.item_column in frame.columns else None)
    names = {name: getattr(config, name) for name in ("title", "picture", "image_root")}
    catalog = ItemCatalog.of(frame, id_col=id_col, **names)
    if catalog.title is None:
        warnings.warn(
            f"No column of the item catalog has a usual name for titles (columns: {listed(frame.columns)}), so items "
            "are shown by their IDs. Pass `title` if there is one.",
            stacklevel=3,
        )
    if not config.strip_ids:
        return catalog
    ids = canonical_ids(strip_ids(catalog.frame["id"]), "The item catalog")
    check_ids(ids, "The item catalog")
    return replace(catalog, frame=catalog.frame.with_columns(ids))


def _with_catalog(dataset: Dataset, catalog: ItemCatalog | None) -> Dataset:
    """Return ``dataset`` with ``catalog``, which must know some of its items, and should know all."""
    if catalog is None:
        return dataset
    items = dataset.all_items
    catalog.check_known(items)
    if len(missing := catalog.missing(items.ids)):
        warnings.warn(
            f"{len(missing)} of {len(items)} items have no row in the item catalog ({listed(missing)}). They are shown "
            "by their IDs.",
            stacklevel=3,
        )
    return replace(dataset, catalog=catalog)


def feature_table(modality: str, values: Any, row_ids: pl.Series | None, item_column: str | None) -> FeatureTable:
    """Read the features of one modality from memory, see :meth:`Dataset.from_frames`.

    Bare arrays have the items ``row_ids`` in their rows.
    """
    source = f"`features[{modality!r}]`"
    if isinstance(values, Mapping):
        return FeatureTable.of(_stacked([*values.values()], source, [*values]), [*values], source)
    if isinstance(values, (list, tuple)):
        values = _stacked([*values], source, range(len(values)))
    if isinstance(values, (np.ndarray, Tensor)):
        if row_ids is not None and len(values) != len(row_ids):
            raise DataError(f"{source} has {len(values)} rows, but `items` has {len(row_ids)}.")
        return FeatureTable.of(values, row_ids, source)
    frame = to_polars(values)
    return FeatureTable.from_frame(frame, item_column if item_column in frame.columns else None, source)


def _stacked(vectors: list[Any], source: str, names: Sequence[Any]) -> Tensor | np.ndarray:
    """Return a matrix of vectors, of which a message names the first that does not fit."""
    if not vectors:
        raise DataError(f"{source} is empty. Pass a vector for at least one item.")
    try:
        if all(isinstance(x, Tensor) for x in vectors):
            return torch.stack(vectors)
        return np.stack([np.asarray(x) for x in vectors])
    except (TypeError, ValueError, RuntimeError) as error:
        sizes = [len(x) if isinstance(x, Sized) and getattr(x, "ndim", True) else 1 for x in vectors]
        odd = next((row for row, size in enumerate(sizes) if size != sizes[0]), 0)
        reason = f"{shown(names[0])} has {sizes[0]}, {shown(names[odd])} has {sizes[odd]}" if odd else first_line(error)
        raise DataError(f"{source} must be vectors of numbers of one length ({reason}).") from error


def _absolute(config: DataConfig) -> DataConfig:
    """Return ``config`` with paths that hold in any folder."""
    paths: dict[str, Any] = {name: getattr(config, name) for name in ("data", "item_ids", "items", "image_root")}
    paths = {name: path and str(Path(path).absolute()) for name, path in paths.items()}
    features = {modality: str(Path(path).absolute()) for modality, path in config.features.items()}
    return replace(config, features=features, **paths)


def _vocabulary(kind: str, ids: Sequence[int | str] | pl.Series | None, graph: HeteroData) -> Vocabulary:
    """Return the IDs of all nodes of one kind, by default their positions."""
    count, source = graph[kind].num_nodes, f"`{kind}s`"
    series = canonical_ids(as_series("id", np.arange(count) if ids is None else ids, source), source)
    if len(series) != count:
        raise DataError(f"{source} has {len(series)} IDs, but the graph has {count} {kind}s.")
    return Vocabulary(series, kind)


def _spread(count: Tensor) -> dict[str, float | int]:
    return {"mean": count.double().mean().item(), "median": int(count.median()), "max": int(count.max())}
