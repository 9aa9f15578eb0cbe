"""Several runs on the same data: which metrics differ by more than chance, and whose lists changed most."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from lirdrec_pyg.data import HELD_OUT, INTERACTS, held_out_edges
from lirdrec_pyg.edge_index import plain
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, holm, metrics_by_user, paired_bootstrap
from lirdrec_pyg.recommender import Evaluator, Recommender
from lirdrec_pyg.report.charts import Chart
from lirdrec_pyg.report.gallery import Gallery, Item
from lirdrec_pyg.report.metrics import evaluated_split
from lirdrec_pyg.report.section import Section

_LENGTHS = (10, 20)
_LIST, _SHOWN, _USERS = 20, 12, 4


class Difference(NamedTuple):
    """A metric as the mean over the users for the first run and for another one."""

    run: str
    metric: str
    first: float
    value: float
    p: float  # of the paired bootstrap
    corrected: float  # by Holm for all differences of the table


class Change(NamedTuple):
    """A user whose list changed."""

    user: int | str
    num_taken: int  # training interactions
    common: int  # items that are in both lists
    lists: list[list[tuple[Item, bool]]]  # first items of both, and whether the other one has them


def check_comparable(recommenders: Sequence[Recommender]) -> None:
    """Raise :class:`ConfigError` unless all runs have the same users, items and split."""
    first = recommenders[0]
    for other in recommenders[1:]:
        if not (
            first.users.ids.equals(other.users.ids)
            and first.items.ids.equals(other.items.ids)
            and all(map(torch.equal, _pairs(first), _pairs(other)))
        ):
            raise ConfigError(
                f"{other.path} and {first.path} have different data or splits, so their metrics cannot be compared. "
                "Train both with the same `data`, `split` and `seed`, or report on each alone."
            )


def _pairs(recommender: Recommender) -> list[Tensor]:
    """Return the interactions for training, validation and test."""
    graph = recommender.graph
    pairs = [graph[INTERACTS].edge_index, *(held_out_edges(graph, split) for split in HELD_OUT)]
    return [plain(pair) for pair in pairs]


def section(recommenders: Sequence[Recommender], names: Sequence[str], gallery: Gallery) -> Section | None:
    """Compare each run, for which :func:`check_comparable` passes, with the first; ``None`` for a single one."""
    if len(recommenders) < 2:
        return None
    split = evaluated_split(recommenders[0])
    content = {
        "first": names[0],
        "split": split,
        "differences": [] if split is None else differences(recommenders, names, split),
        "changes": _changes(recommenders, names, gallery),
    }
    return Section("comparison", "Comparison of the runs", "comparison.html", content)


def differences(recommenders: Sequence[Recommender], names: Sequence[str], split: str) -> list[Difference]:
    """Compare the metrics of all users of a split with those of the first run."""
    by_run = []
    for recommender in tqdm(recommenders, desc="metrics of each user", unit="run", leave=False, disable=None):
        evaluator = Evaluator(recommender, recommender.device)
        task = RankingTask.from_graph(evaluator.data, split)
        found = [metrics_by_user(evaluator.ranker, task, k) for k in _LENGTHS]
        by_run.append({name: values.cpu() for metrics in found for name, values in metrics.items()})
    first, *others = by_run
    rows = [
        (name, metric, float(first[metric].mean()), float(other[metric].mean()))
        for metric in first
        for name, other in zip(names[1:], others)
    ]
    p = torch.cat([paired_bootstrap(torch.stack([other[m] for other in others]), first[m]) for m in first])
    return [Difference(*row, *values) for row, *values in zip(rows, p.tolist(), holm(p).tolist())]


def _changes(recommenders: Sequence[Recommender], names: Sequence[str], gallery: Gallery) -> list[dict[str, Any]]:
    """Return by run how many of the best 20 items it has in common with the first, and for whom the fewest."""
    bar = tqdm(recommenders, desc="lists", unit="run", leave=False, disable=None)
    users = recommenders[0].users.ids.filter(pl.Series(recommenders[0].has_history))
    first, *others = [recommender.recommend(users, k=_LIST) for recommender in bar]
    return [
        {"run": name, **_change(recommenders[0], (first, other), gallery)} for name, other in zip(names[1:], others)
    ]


def _change(recommender: Recommender, lists: tuple[pl.DataFrame, pl.DataFrame], gallery: Gallery) -> dict[str, Any]:
    common = common_items(*lists)
    count = pl.DataFrame({"user": recommender.users.ids, "taken": recommender.history.start.diff().cpu().numpy()})
    changed = common.join(count, on="user").sort(["common", "taken"], descending=[False, True], maintain_order=True)
    changes = []
    for user, number, taken in changed.head(_USERS).select("user", "common", "taken").iter_rows():
        items = [frame.filter(pl.col("user") == user)["item"] for frame in lists]
        shown = [
            list(zip(gallery.items(own[:_SHOWN]), own[:_SHOWN].is_in(other.implode())))
            for own, other in (items, items[::-1])
        ]
        changes.append(Change(user, taken, number, shown))
    return {"mean": common["common"].mean(), "chart": _chart(common["common"]), "users": changes}


def common_items(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Return for each user of ``a`` how many items the lists have in common: ``user`` and ``common``."""
    both = a.join(b, on=["user", "item"], how="semi").group_by("user").len("common")
    users = a.select(pl.col("user").unique(maintain_order=True))
    return users.join(both, on="user", how="left", maintain_order="left").with_columns(pl.col("common").fill_null(0))


def _chart(common: pl.Series) -> Chart:
    import altair as alt

    table = pl.DataFrame({"common": range(_LIST + 1), "users": np.bincount(common, minlength=_LIST + 1)})
    plot = (
        alt.Chart(alt.Data(values=table.to_dicts()), width="container", height=160)
        .mark_bar()
        .encode(
            x=alt.X("common:O", title=f"items in common, of {_LIST}", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("users:Q", title="users"),
            tooltip=[alt.Tooltip("common:O", title="in common"), alt.Tooltip("users:Q", format=",")],
        )
    )
    return Chart(plot, "Bars: number of users by the items that both lists have in common.", table, 200)
