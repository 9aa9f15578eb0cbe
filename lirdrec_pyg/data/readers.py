"""From files to a graph: finds out what a folder or file holds, and reads it."""

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import DataConfig, ZeroFeatures
from lirdrec_pyg.data.features import (
    FEATURE_SUFFIXES,
    FeatureTable,
    blank_rows,
    check_features,
    duplicate_rows,
    read_features,
)
from lirdrec_pyg.data.graph import build_graph, check_catalogue, set_new_items
from lirdrec_pyg.data.interactions import (
    TEST,
    TRAIN,
    VAL,
    is_table,
    k_core,
    merge_duplicates,
    read_interactions,
    resolve_split,
    split_interactions,
)
from lirdrec_pyg.data.lattice import is_lattice, read_lattice
from lirdrec_pyg.data.provenance import PROVENANCE, REPORT, provenance_facts
from lirdrec_pyg.data.tables import canonical_ids, check_ids, is_file, is_integer, listed, parquet_columns, shown
from lirdrec_pyg.data.tiktok_raw import is_tiktok_raw, read_tiktok_raw
from lirdrec_pyg.data.vocabulary import Vocabulary
from lirdrec_pyg.errors import DataError

FEATURE_MARK = "_feat"

# A device such as /dev/zero has no end.
_MAX_LIST_BYTES = 2**29


@dataclass(frozen=True)
class RecommendationData:
    """A graph, and the IDs of its users and items.

    Attributes:
        graph: positions only.
        users: user IDs by position.
        items: item IDs by position.
        new_items: IDs of the items that came after the training, by position among these; ``None`` if
            there are none.
        facts: how the data came about (source, split, merged duplicates, ...), for people and logs.
    """

    graph: HeteroData
    users: Vocabulary
    items: Vocabulary
    facts: dict[str, str | int]
    new_items: Vocabulary | None = None


def read_data(config: DataConfig | str | Path, seed: int = 999) -> RecommendationData:
    """Reads what ``config.data`` names, or what lies at a path.

    * a folder with a ``.inter`` file: MMRec layout, ``<name>.inter`` and ``<modality>_feat.npy``;
    * a folder with ``trnMat.pkl``: TikTok's published raw form;
    * a folder with ``train.json``, ``val.json`` and ``test.json``: LATTICE's form;
    * any other folder: one table of interactions beside ``<modality>_feat.*`` files;
    * a file: a table of interactions.

    Files whose names start with a dot are left alone, as are those in folders of the folder.

    Args:
        config: paths, columns and choices; a path alone stands for ``DataConfig(data=path)``.
        seed: of a random split.

    Raises:
        DataError: in one sentence that names the file, row or option and the way out.
    """
    if not isinstance(config, DataConfig):
        config = DataConfig(data=str(config))
    path = Path(config.data)
    if not os.path.exists(path):  # unlike Path.exists, also for a name that is too long
        raise DataError(f"There is no file or folder {path}: --data takes one, or the word 'synthetic'.")
    source, folder = path, path if path.is_dir() else path.parent
    if path.is_dir() and is_tiktok_raw(path):
        frame = read_tiktok_raw(path)
    elif path.is_dir() and is_lattice(path):
        frame = read_lattice(path)
    else:
        source = _find_table(path) if path.is_dir() else path
        frame = read_interactions(source, config, config.split)
    feature_files = {m: Path(f) for m, f in config.features.items()} or find_features(folder)
    features = {m: read_features(f, _id_column(f, config.item_column)) for m, f in feature_files.items()}
    data = assemble(frame, features, config, seed, source=str(source))
    data.facts.update(provenance_facts(feature_files))
    return data


def _id_column(file: Path, item_column: str | None) -> str | None:
    """The name that the items have in the interactions, if the feature file has it too."""
    named = item_column and file.suffix.lower() == ".parquet" and is_file(file) and item_column in parquet_columns(file)
    return item_column if named else None


def _find_table(folder: Path) -> Path:
    report = {REPORT} if (folder / PROVENANCE).is_file() else set()
    tables = [p for p in _visible(folder) if is_table(p) and not p.stem.endswith(FEATURE_MARK) and p.name not in report]
    inters = [p for p in tables if p.suffix == ".inter"]
    # MMRec names a data set's folder and table alike.
    found = [p for p in inters if p.stem == folder.resolve().name] or inters or tables
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(
            f"{folder} holds no table of interactions: it needs one .inter, .csv, .tsv or .parquet file; a table with "
            "another ending has to be named with --data."
        )
    raise DataError(f"{folder} holds {len(found)} tables ({', '.join(p.name for p in found)}): name one with --data.")


def _visible(folder: Path) -> list[Path]:
    """The files of a folder, but for hidden ones such as macOS leaves beside others (``._baby.inter``)."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _modality_of(file: Path) -> str | None:
    if file.suffix.lower() in FEATURE_SUFFIXES and file.stem.endswith(FEATURE_MARK):
        return file.stem.removesuffix(FEATURE_MARK) or None
    return None


def find_features(folder: Path) -> dict[str, Path]:
    """The files of a folder that are named ``MODALITY_feat.*``, by modality.

    Raises:
        DataError: if there is none, or more than one of a modality.
    """
    found: dict[str, Path] = {}
    files = _visible(folder)
    for file in files:
        if modality := _modality_of(file):
            if modality in found:
                raise DataError(
                    f"{folder} holds both {found[modality].name} and {file.name}: name one with --features."
                )
            found[modality] = file
    others = [file for file in files if file.stem.endswith(FEATURE_MARK)]
    unread = [file.name for file in others if file.stem.removesuffix(FEATURE_MARK) not in found]
    text = f"{folder} holds {listed(unread)}, but features are read from {', '.join(FEATURE_SUFFIXES)}"
    if unread and found:
        warnings.warn(f"{text}: there will be {listed([*found])} only.", stacklevel=2)
    elif unread:
        raise DataError(f"{text}: save them as one of these.")
    elif not found:
        raise DataError(
            f"{folder} holds no item features: put a MODALITY_feat.npy beside the table, "
            "or name a file with --features MODALITY=FILE."
        )
    return found


def assemble(
    frame: pl.DataFrame,
    features: Mapping[str, FeatureTable],
    config: DataConfig,
    seed: int,
    source: str,
) -> RecommendationData:
    """Merges, filters and splits the interactions, and joins them with the features by item ID.

    The catalogue is every item of the interactions and every item of the feature files, so an item
    that nobody has clicked is in it; with a k-core, it is the items that the core keeps.
    """
    num_rows = len(frame)
    frame = merge_duplicates(frame)
    facts: dict[str, str | int] = {"source": source, "duplicates merged": num_rows - len(frame)}
    if config.k_core:
        frame = k_core(frame, config.k_core)
        facts["k-core"] = config.k_core
    row_ids = _row_ids(features, frame["item"], config.item_ids)
    if len({ids.dtype for ids in (frame["item"], *row_ids.values())}) > 1:
        # One side looked like integers only by chance: as text they can still be told apart.
        frame = frame.with_columns(pl.col("item").cast(pl.String))
        row_ids = {modality: ids.cast(pl.String) for modality, ids in row_ids.items()}
    users = Vocabulary(frame["user"].unique().sort(), "user")
    catalogue = _catalogue(frame["item"], row_ids.values(), closed=config.k_core > 0)
    check_catalogue(len(catalogue))  # before the split, which a single item leaves empty

    strategy = resolve_split(frame) if config.split == "auto" else config.split
    frame = split_interactions(frame, strategy, seed, config.cold_fraction)
    facts["split"] = f"{strategy}, seed {seed}" if strategy in ("random", "cold-items") else strategy
    cold = frame.filter(pl.col("cold")) if "cold" in frame.columns else frame.clear()
    is_new = catalogue.is_in(cold["item"].unique().implode())
    items, new_items = Vocabulary(catalogue.filter(~is_new), "item"), Vocabulary(catalogue.filter(is_new), "item")

    rows = {m: FeatureRows.of(table, row_ids[m], config.zero_features) for m, table in features.items()}
    for modality, features_of in rows.items():
        features_of.check_known(frame["item"])
        if equal := int((duplicate_rows(features_of.table.values) & features_of.real).sum()):
            facts[f"rows of {modality} equal to one before"] = equal
    matrices, masks = select_features(items, rows)
    facts |= {f"items without {modality}": int((~mask).sum()) for modality, mask in masks.items()}
    warm = frame.filter(~pl.col("cold")) if len(new_items) else frame
    pairs = _pairs_by_label(warm, users, items)
    graph = build_graph(pairs[TRAIN], matrices, val=pairs[VAL], test=pairs[TEST], masks=masks, num_users=len(users))
    if not len(new_items):
        return RecommendationData(graph, users, items, facts)
    facts["items held out"] = len(new_items)
    pairs = _pairs_by_label(cold, users, new_items)
    graph = set_new_items(graph, *select_features(new_items, rows), {"val": pairs[VAL], "test": pairs[TEST]})
    return RecommendationData(graph, users, items, facts, new_items)


def _pairs_by_label(frame: pl.DataFrame, users: Vocabulary, items: Vocabulary) -> dict[int, torch.Tensor]:
    """Positions (user, item) of each label's interactions."""
    positions = np.stack([users.positions(frame["user"]), items.positions(frame["item"])])
    labels = frame["label"].to_numpy()
    return {label: torch.from_numpy(positions[:, labels == label]) for label in (TRAIN, VAL, TEST)}


def _row_ids(features: Mapping[str, FeatureTable], item: pl.Series, id_file: str | None) -> dict[str, pl.Series]:
    """The item ID of each row of each modality."""
    listed = _read_unique_ids(Path(id_file), "--item-ids") if id_file else None
    by_position = {table.source: len(table) for table in features.values() if table.ids is None}
    if len(set(by_position.values())) > 1:
        text = ", ".join(f"{source} has {rows}" for source, rows in by_position.items())
        raise DataError(f"Feature files whose rows go by position need as many rows as each other, but {text}.")
    return {
        modality: _ids_by_position(table, item, listed) if table.ids is None else table.ids
        for modality, table in features.items()
    }


@dataclass(frozen=True)
class NewItems:
    """Items that came after the training.

    Attributes:
        ids: their IDs.
        features: a matrix of shape ``(len(ids), d_m)`` for each modality.
        masks: for a modality that lacks some of them, ``True`` where a row is real.
    """

    ids: Vocabulary
    features: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor]


def read_new_items(
    features: Mapping[str, str | Path],
    widths: Mapping[str, int],
    ids: str | Path | None = None,
    zero_features: ZeroFeatures = "error",
    item_column: str | None = None,
) -> NewItems:
    """Reads features of new items.

    Args:
        features: a file for each modality, see :func:`~lirdrec_pyg.data.read_features`. A modality that
            is left out is missing for all of the items.
        widths: feature width of each modality of the model.
        ids: text file with one item ID a line, for feature files whose rows go by position; with it,
            these are the items, else those that any of the files has.
        zero_features: what a row of zeros alone, or of NaN alone, is: an error or a missing one.
        item_column: name of the ID column in Parquet; by default it is found as in training.

    Raises:
        DataError: in one sentence that names the file, row or option and the way out.
    """
    if not features:
        raise DataError("There are no features of the new items: name a file with --features MODALITY=FILE.")
    if unknown := [m for m in features if m not in widths]:
        raise DataError(f"--features names {unknown[0]!r}, but the model was trained with {', '.join(widths)}.")
    listed = None if ids is None else _read_unique_ids(Path(ids), "--ids")
    files = {modality: Path(path) for modality, path in features.items()}
    tables = {m: read_features(file, _id_column(file, item_column)) for m, file in files.items()}
    row_ids = {}
    for modality, table in tables.items():
        if table.values.size(1) != widths[modality]:
            raise DataError(
                f"{table.source} has {table.values.size(1)} columns, but {modality} had {widths[modality]} in the "
                "training: make the features as they were made then."
            )
        if table.ids is not None:
            row_ids[modality] = table.ids
        elif listed is None:
            raise DataError(f"{table.source} says of no row which item it belongs to: list the IDs with --ids FILE.")
        else:
            row_ids[modality] = _listed_rows(table, listed, "--ids")
    found = [*([] if listed is None else [listed]), *row_ids.values()]
    if len({series.dtype for series in found}) > 1:
        found = [series.cast(pl.String) for series in found]
    new = Vocabulary(found[0] if listed is not None else pl.concat(found).unique(maintain_order=True), "item")
    rows = {m: FeatureRows.of(table, row_ids[m], zero_features) for m, table in tables.items()}
    matrices, masks = select_features(new, rows)
    for modality in widths.keys() - features.keys():
        matrices[modality] = torch.zeros(len(new), widths[modality])
        masks[modality] = torch.zeros(len(new), dtype=torch.bool)
    bare = torch.ones(len(new), dtype=torch.bool)
    for modality in widths:
        bare &= ~masks.get(modality, torch.ones_like(bare))
    if bare.any():
        raise DataError(f"The new item {shown(new.ids[int(bare.int().argmax())])} has no features in any modality.")
    return NewItems(new, matrices, masks)


def _ids_by_position(table: FeatureTable, item: pl.Series, listed: pl.Series | None) -> pl.Series:
    if listed is not None:
        return _listed_rows(table, listed, "--item-ids")
    if item.dtype != pl.Int64:
        text = item.filter(~is_integer(item))[0]
        way = "write whole numbers without .0, or " if text.endswith(".0") else ""
        raise DataError(
            f"{table.source} says of no row which item it belongs to, and the interactions have text IDs such as "
            f"{shown(text)}: {way}list the IDs, one a line, in a file and name it with --item-ids."
        )
    low, high = int(item.to_numpy().min()), int(item.to_numpy().max())
    if low < 0:
        raise DataError(f"The item ID {low} is negative, so it can't be a row of {table.source}: name --item-ids.")
    if high >= len(table):
        raise DataError(
            f"{table.source} has {len(table)} rows, but the interactions name item {high}, which needs row {high} "
            f"(rows count from 0; the lowest item is {low}): if the rows go by something else, list their item IDs, "
            "one a line, in a file and name it with --item-ids."
        )
    return pl.Series("id", np.arange(len(table)))


def _listed_rows(table: FeatureTable, listed: pl.Series, option: str) -> pl.Series:
    if len(listed) != len(table):
        raise DataError(f"{table.source} has {len(table)} rows, but {option} lists {len(listed)} items.")
    return listed


def read_ids(path: Path, option: str) -> pl.Series:
    """IDs of a text file, one a line.

    Args:
        path: the file.
        option: what named it, for messages.

    Raises:
        DataError: if it can't be read, or an ID is missing.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_LIST_BYTES + 1)
        if len(content) > _MAX_LIST_BYTES:
            raise DataError(f"{path}, named by {option}, is larger than any list of IDs.")
        lines = content.decode("utf-8-sig").splitlines()
    except DataError:
        raise
    except (OSError, ValueError) as error:  # text in another encoding, or a name with a null character
        raise DataError(f"{path}, named by {option}, is not a readable text file ({error}).") from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(f"{path} has no ID in line {lines.index('') + 1}.")
    return canonical_ids(pl.Series("id", lines, dtype=pl.String), source=str(path))


def _read_unique_ids(path: Path, option: str) -> pl.Series:
    ids = read_ids(path, option)
    check_ids(ids.cast(pl.String), source=str(path))
    return ids


def _catalogue(item: pl.Series, row_ids: Iterable[pl.Series], closed: bool) -> pl.Series:
    ids = [item.unique()] if closed else [item.unique(), *row_ids]
    return pl.concat([s.rename("id") for s in ids]).unique().sort()


@dataclass(frozen=True)
class FeatureRows:
    """The features of one modality by item ID.

    Attributes:
        table: as the file has them.
        rows: the item ID of each row.
        real: which rows are features, and not zeros or NaN that stand for missing ones.
    """

    table: FeatureTable
    rows: Vocabulary
    real: torch.Tensor

    @classmethod
    def of(cls, table: FeatureTable, ids: pl.Series, zero_features: ZeroFeatures) -> "FeatureRows":
        """Rows of ``table``, which belong to ``ids``."""
        real = ~blank_rows(table.values) if zero_features == "missing" else torch.ones(len(table), dtype=torch.bool)
        return cls(table, Vocabulary(ids, "item"), real)

    def check_known(self, item: pl.Series) -> None:
        """Raises :class:`DataError` if none of ``item`` has a row, and warns if most have none or zeros were lost."""
        item = item.unique(maintain_order=True)
        unknown = item.filter(self.rows.find(item) < 0)
        ids = f"its item IDs are such as {shown(self.rows.ids[0])}, theirs such as "
        if len(unknown) == len(item):
            raise DataError(
                f"{self.table.source} has features for none of the items in the interactions: {ids}{shown(item[0])}."
            )
        bare = unknown.cast(pl.String).str.strip_chars_start("0")
        shorn = unknown.filter(pl.Series(self.rows.find(bare) >= 0) & ~bare.is_in(item.cast(pl.String).implode()))
        if len(shorn) or len(unknown) > len(item) / 2:
            why = f"did {shown(shorn[0])} lose its zeros there?" if len(shorn) else f"{ids}{shown(unknown[0])}."
            warnings.warn(
                f"{self.table.source} has no features for {len(unknown)} of the {len(item)} items in the interactions: "
                f"{why}",
                stacklevel=3,
            )

    def select(self, items: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of ``items``, shape ``(len(items), d_m)``, and which of them are real."""
        values = self.table.values
        own = self.rows.find(items.ids)
        row = torch.from_numpy(np.maximum(own, 0))
        mask = torch.from_numpy(own >= 0) & self.real[row]
        used = torch.zeros_like(self.real)
        used[row[mask]] = True
        check_features(values, source=self.table.source, used=used)
        # Rows that are in place already are left alone, so a mapped matrix stays mapped.
        in_place = len(own) == len(values) and np.array_equal(own, np.arange(len(own)))
        return values if in_place else values[row], mask


def select_features(
    items: Vocabulary, features: Mapping[str, FeatureRows]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Matrices of ``items`` by modality, and masks of those modalities that lack some of them.

    Raises:
        DataError: if a row that is needed is no row of features.
    """
    selected = {modality: rows.select(items) for modality, rows in features.items()}
    return (
        {modality: values for modality, (values, _) in selected.items()},
        {modality: mask for modality, (_, mask) in selected.items() if not mask.all()},
    )
