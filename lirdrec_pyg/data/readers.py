"""From files to a graph: finds out what a folder or file holds, and reads it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch_geometric.data import HeteroData

from lirdrec_pyg.config import DataConfig
from lirdrec_pyg.data.features import (
    FEATURE_SUFFIXES,
    FeatureTable,
    check_features,
    read_features,
    zero_rows,
)
from lirdrec_pyg.data.graph import build_graph, check_catalogue
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
from lirdrec_pyg.data.tables import canonical_ids, check_ids, parquet_columns
from lirdrec_pyg.data.tiktok_raw import is_tiktok_raw, read_tiktok_raw
from lirdrec_pyg.data.vocabulary import Vocabulary
from lirdrec_pyg.errors import DataError

_FEATURE_MARK = "_feat"


@dataclass(frozen=True)
class RecommendationData:
    """A graph, and the IDs of its users and items.

    Attributes:
        graph: positions only.
        users: user IDs by position.
        items: item IDs by position.
        facts: how the data came about (source, split, merged duplicates, ...), for people and logs.
    """

    graph: HeteroData
    users: Vocabulary
    items: Vocabulary
    facts: dict[str, str | int]


def read_data(config: DataConfig | str | Path, seed: int = 999) -> RecommendationData:
    """Reads what ``config.data`` names, or what lies at a path.

    * a folder with a ``.inter`` file: MMRec layout, ``<name>.inter`` and ``<modality>_feat.npy``;
    * a folder with ``trnMat.pkl``: TikTok's published raw form;
    * any other folder: one table of interactions beside ``<modality>_feat.*`` files;
    * a file: a table of interactions.

    Args:
        config: paths, columns and choices; a path alone stands for ``DataConfig(data=path)``.
        seed: of a random split.

    Raises:
        DataError: in one sentence that names the file, row or option and the way out.
    """
    if not isinstance(config, DataConfig):
        config = DataConfig(data=str(config))
    path = Path(config.data)
    if not path.exists():
        raise DataError(f"There is no file or folder {path}: --data takes one, or the word 'synthetic'.")
    source, folder = path, path if path.is_dir() else path.parent
    if path.is_dir() and is_tiktok_raw(path):
        frame = read_tiktok_raw(path)
    else:
        source = _find_table(path) if path.is_dir() else path
        frame = read_interactions(source, config, config.split)
    feature_files = {m: Path(f) for m, f in config.features.items()} or _find_features(folder)
    features = {m: read_features(f, _id_column(f, config.item_column)) for m, f in feature_files.items()}
    return assemble(frame, features, config, seed, source=str(source))


def _id_column(file: Path, item_column: str | None) -> str | None:
    """The name that the items have in the interactions, if the feature file has it too."""
    named = item_column and file.suffix == ".parquet" and file.is_file() and item_column in parquet_columns(file)
    return item_column if named else None


def _find_table(folder: Path) -> Path:
    tables = sorted(p for p in folder.iterdir() if p.is_file() and is_table(p) and not _modality_of(p))
    inters = [p for p in tables if p.suffix == ".inter"]
    found = inters or tables
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(f"{folder} holds no table of interactions: it needs one .inter, .csv, .tsv or .parquet file.")
    raise DataError(f"{folder} holds {len(found)} tables ({', '.join(p.name for p in found)}): name one with --data.")


def _modality_of(file: Path) -> str | None:
    if file.suffix in FEATURE_SUFFIXES and file.stem.endswith(_FEATURE_MARK):
        return file.stem.removesuffix(_FEATURE_MARK) or None
    return None


def _find_features(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if modality := _modality_of(file):
            if modality in found:
                raise DataError(
                    f"{folder} holds both {found[modality].name} and {file.name}: name one with --features."
                )
            found[modality] = file
    if not found:
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
    items = Vocabulary(_catalogue(frame["item"], row_ids.values(), closed=config.k_core > 0), "item")
    check_catalogue(len(items))  # before the split, which a single item leaves empty

    strategy = resolve_split(frame) if config.split == "auto" else config.split
    frame = split_interactions(frame, strategy, seed)
    facts["split"] = f"{strategy}, seed {seed}" if strategy == "random" else strategy

    matrices, masks = {}, {}
    for modality, table in features.items():
        matrices[modality], mask = _align(table, row_ids[modality], frame["item"], items, config.zero_features)
        if not mask.all():
            masks[modality] = mask
            facts[f"items without {modality}"] = int((~mask).sum())

    positions = np.stack([users.positions(frame["user"]), items.positions(frame["item"])])
    labels = frame["label"].to_numpy()
    train, val, test = (torch.from_numpy(positions[:, labels == label]) for label in (TRAIN, VAL, TEST))
    graph = build_graph(train, matrices, val=val, test=test, masks=masks, num_users=len(users))
    return RecommendationData(graph, users, items, facts)


def _row_ids(features: Mapping[str, FeatureTable], item: pl.Series, id_file: str | None) -> dict[str, pl.Series]:
    """The item ID of each row of each modality."""
    listed = _read_id_file(Path(id_file)) if id_file else None
    by_position = {table.source: len(table) for table in features.values() if table.ids is None}
    if len(set(by_position.values())) > 1:
        text = ", ".join(f"{source} has {rows}" for source, rows in by_position.items())
        raise DataError(f"Feature files whose rows go by position need as many rows as each other, but {text}.")
    return {
        modality: _ids_by_position(table, item, listed) if table.ids is None else table.ids
        for modality, table in features.items()
    }


def _ids_by_position(table: FeatureTable, item: pl.Series, listed: pl.Series | None) -> pl.Series:
    if listed is not None:
        if len(listed) != len(table):
            raise DataError(f"{table.source} has {len(table)} rows, but --item-ids lists {len(listed)} items.")
        return listed
    if item.dtype != pl.Int64:
        raise DataError(
            f"{table.source} says of no row which item it belongs to, and the interactions have text IDs such as "
            f"{item[0]!r}: list the IDs, one a line, in a file and name it with --item-ids."
        )
    low, high = int(item.to_numpy().min()), int(item.to_numpy().max())
    if low < 0:
        raise DataError(f"The item ID {low} is negative, so it can't be a row of {table.source}: name --item-ids.")
    if high >= len(table):
        raise DataError(
            f"{table.source} has {len(table)} rows, but the interactions name item {high}, which needs row {high} "
            "(rows count from 0)."
        )
    return pl.Series("id", np.arange(len(table)))


def _read_id_file(path: Path) -> pl.Series:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}, named by --item-ids, is not a readable text file ({error}).") from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(f"{path} has no item ID in line {lines.index('') + 1}.")
    ids = pl.Series("id", lines, dtype=pl.String)
    check_ids(ids, source=str(path))
    return canonical_ids(ids, source=str(path))


def _catalogue(item: pl.Series, row_ids: Iterable[pl.Series], closed: bool) -> pl.Series:
    ids = [item.unique()] if closed else [item.unique(), *row_ids]
    return pl.concat([s.rename("id") for s in ids]).unique().sort()


def _align(
    table: FeatureTable, ids: pl.Series, item: pl.Series, items: Vocabulary, zero_features: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ``table``, which belong to ``ids``, in the catalogue's order, and which of them are real."""
    rows = Vocabulary(ids, "item")
    if (rows.find(item) < 0).all():
        raise DataError(
            f"{table.source} has features for none of the items in the interactions: its item IDs are "
            f"such as {ids[0]!r}, theirs such as {item[0]!r}."
        )
    own = rows.find(items.ids)
    row = torch.from_numpy(np.maximum(own, 0))
    # By row of the table: is it real; by item: has it a row, and a real one.
    real = ~zero_rows(table.values) if zero_features == "missing" else torch.ones(len(table), dtype=torch.bool)
    mask = torch.from_numpy(own >= 0) & real[row]
    used = torch.zeros_like(real)
    used[row[mask]] = True
    check_features(table.values, source=table.source, used=used)
    # Rows that are in place already are left alone, so a mapped matrix stays mapped.
    in_place = len(own) == len(table) and np.array_equal(own, np.arange(len(own)))
    return table.values if in_place else table.values[row], mask
