"""Ten nights of updates, against training from scratch on the same interactions.

    python benchmarks/nights.py [--scratch 1,5,10]
    python benchmarks/nights.py --data ratings.csv --features features --min-user 5 --min-item 5

Without --data, the interactions are generated, in random order. A random tenth of each user's interactions is kept for
testing and another for the validation of trainings from scratch; neither is ever trained on. The first part of the
others in time, with the items that occur in it, trains the first model. The rest arrives in equal nights, each with its
new users and items, and each night updates the model of the night before. On some nights, a model is trained from
scratch on everything until then. Both are tested on the test interactions until that night. Before each update, users
who returned are also served by the first half of their clicks of that night, and tested on the second. Seconds are
those of the processor, so that other programs do not count.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import torch
from harness import Row, json_option, report

from lirdrec_pyg import Dataset, Recommender, fit
from lirdrec_pyg.data import (
    INTERACTS,
    NewItems,
    Vocabulary,
    find_features,
    item_features,
    known_interactions,
    modalities,
    read_features,
)
from lirdrec_pyg.data.interactions import merge_duplicates, read_interactions
from lirdrec_pyg.data.splits import TEST, TRAIN, split_interactions
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import fold_in_users
from lirdrec_pyg.nn import DotProducts, SeenItems
from lirdrec_pyg.recommender.update import UpdateConfig
from lirdrec_pyg.training import PRESETS, preset
from lirdrec_pyg.training.config import Preset

Features = dict[str, dict[Any, np.ndarray]]


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Table of interactions with times.")
@click.option("--features", type=click.Path(path_type=Path), help="Folder of features with item IDs.")
@click.option("--min-user", default=1, help="Keep users with at least this many interactions.")
@click.option("--min-item", default=1, help="Keep items with at least this many interactions.")
@click.option("--nights", default=10, show_default=True)
@click.option("--last", default=0.2, show_default=True, help="Share of the interactions that arrives in these nights.")
@click.option("--scratch", default="1,5,10", show_default=True, help="Nights to train from scratch in.")
@click.option("--preset", "preset_name", default="fast", show_default=True, type=click.Choice(list(PRESETS)))
@click.option("--lr", type=float, help="Learning rate of the trainings from scratch.")
@click.option("--update-lr", type=float, help="Learning rate of the updates; by default the same.")
@click.option("--patience", default=UpdateConfig.patience, show_default=True, help="Patience of the updates.")
@click.option("--seed", default=0, show_default=True)
@json_option
def main(
    data: Path | None,
    features: Path | None,
    min_user: int,
    min_item: int,
    nights: int,
    last: float,
    scratch: str,
    preset_name: Preset,
    lr: float | None,
    update_lr: float | None,
    patience: int,
    seed: int,
    json_file: Path | None,
) -> None:
    """Compare nightly updates with training from scratch."""
    frame, vectors = _generated(seed) if data is None else _read(data, features, min_user, min_item)
    frame = split_interactions(frame, "random", seed).sort("time")
    first = round(len(frame) * (1 - last))
    ends = [first + round((len(frame) - first) * night / nights) for night in range(nights + 1)]
    model_config, config = preset(preset_name, **({} if lr is None else {"lr": lr}))
    from_scratch = {int(night) for night in scratch.split(",")}
    model, seconds = _timed(fit, _dataset(frame[: ends[0]], vectors), model_config, config)
    rows: list[Row] = []
    for night in range(nights + 1):
        known = frame[: ends[night]]
        if night:
            today = frame[ends[night - 1] : ends[night]].filter(pl.col("label") == TRAIN)
            served = _served_today(model, today)
            update = replace(UpdateConfig(patience=patience), lr=update_lr)
            new = _new_items(known, model.items, vectors)
            model, seconds = _timed(model.update, today.select("user", "item", "time"), new, config=update)
        row: Row = {"night": night, "interactions": len(known), "epochs": model.metrics["epochs"], "seconds": seconds}
        row |= _metrics(model, known, "") | (served if night else {})
        if night in from_scratch:
            other, seconds = _timed(fit, _dataset(known, vectors), model_config, config)
            row |= {"scratch epochs": other.metrics["epochs"], "scratch seconds": seconds}
            row |= _metrics(other, known, "scratch ")
        rows.append(row)
        click.echo("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    report("nights", rows, json_file)


def _timed(work: Callable[..., Recommender], *args: Any, **options: Any) -> tuple[Recommender, float]:
    start = time.process_time()
    return work(*args, **options), time.process_time() - start


def _generated(seed: int) -> tuple[pl.DataFrame, Features]:
    dataset = Dataset.from_path("synthetic")
    graph = dataset.graph
    edges = torch.cat([graph[INTERACTS].edge_index, graph[INTERACTS].val_edge_label_index], dim=1)
    user, item = edges.as_subclass(torch.Tensor).numpy()
    order = np.random.default_rng(seed).permutation(len(user))
    frame = pl.DataFrame({"user": user[order], "item": item[order], "time": np.arange(len(order))})
    return frame, {m: dict(enumerate(item_features(graph, m).numpy())) for m in modalities(graph)}


def _read(data: Path, features: Path | None, min_user: int, min_item: int) -> tuple[pl.DataFrame, Features]:
    frame = merge_duplicates(read_interactions(data, split="time")).select("user", "item", "time")
    size = 0
    while size != len(frame):
        size = len(frame)
        frame = frame.filter((pl.len().over("user") >= min_user) & (pl.len().over("item") >= min_item))
    tables = {m: read_features(path) for m, path in find_features(features or data.parent).items()}
    return frame, {m: dict(zip(table.ids.to_list(), np.asarray(table.values))) for m, table in tables.items()}


def _dataset(known: pl.DataFrame, vectors: Features) -> Dataset:
    items = set(known["item"].unique())
    features = {m: {item: x for item, x in rows.items() if item in items} for m, rows in vectors.items()}
    return Dataset.from_frames(known.filter(pl.col("label") != TEST), features, split="labels", label_column="label")


def _new_items(known: pl.DataFrame, items: Vocabulary, vectors: Features) -> NewItems | None:
    ids = known["item"].unique(maintain_order=True)
    ids = ids.filter(pl.Series(items.find(ids) < 0))
    if not len(ids):
        return None
    features, masks = {}, {}
    for modality, rows in vectors.items():
        none = np.zeros_like(next(iter(rows.values())))
        features[modality] = torch.from_numpy(np.stack([rows.get(item, none) for item in ids]))
        masks[modality] = torch.tensor([item in rows for item in ids])
    return NewItems(Vocabulary(ids, "item"), features, masks)


def _served_today(model: Recommender, today: pl.DataFrame) -> Row:
    """Return the recall of the second half of the clicks that known users made today, without an update.

    Once for the vectors of the model, and once for those that the first half of these clicks gives.
    """
    pairs = np.stack([model.users.find(today["user"]), model.items.find(today["item"])])
    known = (pairs >= 0).all(axis=0) & model.has_history[pairs[0]]
    frame = pl.DataFrame({"user": pairs[0, known], "item": pairs[1, known]})
    place, count = pl.int_range(pl.len()).over("user"), pl.len().over("user")
    earlier, later = (
        torch.from_numpy(frame.filter(half & (count > 1)).to_numpy().T.copy())
        for half in (place < count // 2, place >= count // 2)
    )
    position, row = later[0].unique(), torch.zeros(len(model.users), dtype=torch.long)
    row[position] = torch.arange(len(position))
    history = torch.stack([row[earlier[0]], earlier[1]])
    folded = fold_in_users(model.model, model.vectors, model.history, model.popularity, history, position)
    with_clicks = model.vectors.user.index_copy(0, position, folded.user)
    seen = SeenItems.of(torch.cat([known_interactions(model.graph), earlier], dim=1), len(model.users))
    task = RankingTask.of(later, seen, len(model.items))
    found = [
        evaluate_ranker(DotProducts(user, model.vectors.item), task)["recall@20"]
        for user in (model.vectors.user, with_clicks)
    ]
    return {"returning": len(position), "returning recall@20": found[0], "with today's clicks": found[1]}


def _metrics(model: Recommender, known: pl.DataFrame, name: str) -> Row:
    pairs = np.stack([model.users.find(known["user"]), model.items.find(known["item"])])
    trained = known["label"].to_numpy() == TRAIN
    train = torch.from_numpy(pairs[:, trained & (pairs >= 0).all(axis=0)])
    test = torch.from_numpy(pairs[:, (known["label"].to_numpy() == TEST) & (pairs >= 0).all(axis=0)])
    test = test[:, torch.isin(test[0], train[0])]
    task = RankingTask.of(test, SeenItems.of(train, len(model.users)), len(model.items))
    vectors = model.vectors
    found = evaluate_ranker(DotProducts(vectors.user, vectors.item), task)
    return {f"{name}{metric}": found[metric] for metric in ("recall@20", "ndcg@20")}


if __name__ == "__main__":
    main()
