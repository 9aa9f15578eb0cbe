"""Metrics of a run, beside those of EASE and of the most popular items."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from lirdrec_pyg.data import HELD_OUT, INTERACTS, held_out_edges, new_item_edges, without_new_items
from lirdrec_pyg.data.graph import set_interactions
from lirdrec_pyg.evaluation import CUTOFFS, Bucket, RankingTask, evaluate_buckets, evaluate_splits
from lirdrec_pyg.models import EASEConfig, ModelConfig, PopularityConfig
from lirdrec_pyg.models.closed_form import MAX_ITEMS
from lirdrec_pyg.nn import DotProducts, Ranker, SeenItems, TopK
from lirdrec_pyg.recommender import Evaluator, Recommender, fit
from lirdrec_pyg.report.charts import PALETTE, Chart, Table, number
from lirdrec_pyg.report.section import Section

AS_RECOMMENDED = "as recommended"

_MEANINGS = {
    "recall@20": "share of a user's held-out items among the first 20",
    "recall@10": "the same among the first 10",
    "ndcg@20": "the same, where higher ranks count more",
    "mrr@20": "1 divided by the rank of the first hit, if it is among the first 20",
    "hit_rate@20": "share of the users with a hit among the first 20",
    "coverage@20": "share of the items that anyone is recommended",
}
_OF_LISTS = {
    "average_popularity@20": "training interactions of the recommended items, on average",
    "novelty@20": "how surprising they are, in bits: one bit more is half as popular",
    "diversity@20": "share of the pairs of items in a list that differ in kind",
    "personalization@20": "share of a list that another user does not get",
    "gini@20": "0 if all items are recommended equally often, 1 if only one is",
}


def section(recommender: Recommender) -> Section:
    """Return the metrics of the test split, or of the validation split if there is no other."""
    split = evaluated_split(recommender)
    content = _kept(recommender) if split is None else _measured(recommender, split)
    return Section("metrics", "Metrics", "metrics.html", content)


def evaluated_split(recommender: Recommender) -> str | None:
    """Return the last split with held-out interactions, ``None`` if the model was trained on all of them."""
    found = [split.value for split in HELD_OUT if held_out_edges(recommender.graph, split).numel()]
    return found[-1] if found else None


def _measured(recommender: Recommender, split: str) -> dict[str, Any]:
    evaluator = Evaluator(recommender, recommender.device)
    data, task = evaluator.data, RankingTask.from_graph(evaluator.data, split)
    rankers = {recommender.model_config.model: evaluator.ranker}
    unclicked = int((recommender.popularity[: recommender.num_trained_items] == 0).sum())
    attached = recommender.model_config.attaches_unclicked_items and unclicked
    if attached:
        vectors = recommender.vectors.items_until(recommender.num_trained_items).to(task.user_index.device)
        rankers[AS_RECOMMENDED] = DotProducts(vectors.user, vectors.item)
    for config in _baselines(recommender):
        rankers[config.model] = _trained(recommender, config).ranker
    found = []
    for each in tqdm(rankers.values(), desc="metrics", unit="model", leave=False, disable=None):
        lists = _Lists(each, task)
        found.append((evaluate_splits(lists, {split: task}, data), evaluate_buckets(data, lists, task)))
    metrics, buckets = zip(*found, strict=True)
    names = list(rankers)
    content = _tables(names, [each[split] for each in metrics], [each["beyond_accuracy"][split] for each in metrics])
    if new_item_edges(data, split) is not None:
        cold = evaluator.cold_start(split)
        content |= {"cold": Table(_cold_start(cold)), "shares": cold["cold among all"]}
    charts = {f"By {kind}": _bucket_chart(kind, names, buckets) for kind in ("user activity", "item popularity")}
    shown = {
        "split": split,
        "num_users": len(task.user_index),
        "charts": charts,
        "unclicked": attached and unclicked,
        "max_items": MAX_ITEMS,
    }
    return {**shown, "too_large": recommender.num_trained_items > MAX_ITEMS, **content}


def _kept(recommender: Recommender) -> dict[str, Any]:
    """Return the metrics of metrics.json, which are those of a training before this one if there are any."""
    saved = recommender.metrics or {}
    split = next((name for name in ("test", "valid") if name in saved), None)
    if split is None:
        return {"note": "All interactions were used for training, so there is nothing to measure the model by."}
    beyond = saved.get("beyond_accuracy", {}).get(split, {})
    note = (
        "This model was trained on all interactions. These metrics are those of the training before it, which held "
        "some out; so there are no baselines to compare with."
    )
    return {"split": split, "note": note, **_tables([recommender.model_config.model], [saved[split]], [beyond])}


def _baselines(recommender: Recommender) -> Iterable[ModelConfig]:
    is_small = recommender.num_trained_items <= MAX_ITEMS
    configs = (EASEConfig(), PopularityConfig()) if is_small else (PopularityConfig(),)
    return (config for config in configs if config.model != recommender.model_config.model)


def _trained(recommender: Recommender, config: ModelConfig) -> Recommender:
    """Return another model of the same training interactions."""
    graph = without_new_items(recommender.graph)
    train, none = graph[INTERACTS].edge_index, graph[INTERACTS].edge_index.new_empty(2, 0)
    dataset = replace(recommender.dataset, graph=set_interactions(graph, [train, none, none]), new_items=None)
    return replace(fit(dataset, config), device=recommender.device)


class _Lists:
    """Ranker that remembers the lists of the users of a task, which the metrics of each bucket need again."""

    def __init__(self, ranker: Ranker, task: RankingTask) -> None:
        blocks = [*ranker.top_k(task.user_index, max(CUTOFFS), task.seen)]
        self.user_index = task.user_index
        self.score = torch.cat([b.score for b in blocks])
        self.item = torch.cat([b.item for b in blocks])

    def top_k(
        self, user_index: Tensor, k: int, seen: SeenItems | None = None, candidates: Tensor | None = None
    ) -> Iterator[TopK]:
        row = torch.searchsorted(self.user_index, user_index)
        yield TopK(slice(0, len(row)), self.score[row, :k], self.item[row, :k])


def _tables(
    names: Sequence[str], metrics: Sequence[Mapping[str, float]], of_lists: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    best = {metric: max(each[metric] for each in metrics) for metric in _MEANINGS}
    return {
        "names": names,
        "metrics": [
            (metric, meaning, [(each[metric], len(names) > 1 and each[metric] == best[metric]) for each in metrics])
            for metric, meaning in _MEANINGS.items()
        ],
        "of_lists": [
            (metric, meaning, [number(each.get(metric)) for each in of_lists])
            for metric, meaning in _OF_LISTS.items()
            if metric in of_lists[0]
        ],
        "all": Table(_by_cutoff({**metrics[0], **of_lists[0]})),
    }


def _by_cutoff(metrics: Mapping[str, float]) -> pl.DataFrame:
    """Return one row per metric, and one column per length of the lists."""
    rows = [(*key.split("@"), value) for key, value in metrics.items()]
    frame = pl.DataFrame(rows, schema={"metric": pl.String, "k": pl.String, "value": pl.Float64}, orient="row")
    return frame.pivot("k", index="metric", values="value").rename(lambda k: k if k == "metric" else f"@{k}")


def _cold_start(metrics: Mapping[str, Mapping[str, float]]) -> pl.DataFrame:
    """Return the metrics of held-out items, one row per kind of candidates."""
    shown = ("recall@20", "ndcg@20", "recall@50", "ndcg@50")
    return pl.DataFrame([{"ranking": name, **{m: row[m] for m in shown}} for name, row in metrics.items()])


def _bucket_chart(kind: str, names: Sequence[str], buckets: Sequence[Sequence[Bucket]]) -> Chart:
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"interactions": b.interactions, "model": name, "recall@20": b.metrics["recall@20"], "pairs": b.num_pairs}
        for name, of_model in zip(names, buckets)
        for b in of_model
        if b.kind == kind
    ]
    order = list(dict.fromkeys(row["interactions"] for row in rows))
    known = {AS_RECOMMENDED: PALETTE[4], "ease": PALETTE[1], "popularity": PALETTE[2]}
    colors = [PALETTE[0], *(known[name] for name in names[1:])]
    plot = (
        alt.Chart(alt.Data(values=[{**row, "value": row["recall@20"]} for row in rows]), width="container", height=240)
        .mark_bar()
        .encode(
            x=alt.X("interactions:N", sort=order, title=f"{kind} (training interactions)", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("model:N", sort=list(names)),
            y=alt.Y("value:Q", title="Recall@20"),
            color=alt.Color("model:N", sort=list(names), title=None, scale=alt.Scale(domain=names, range=colors)),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("interactions:N"),
                alt.Tooltip("value:Q", format=".4f", title="Recall@20"),
                alt.Tooltip("pairs:Q", format=",", title="held-out interactions"),
            ],
        )
    )
    table = pl.DataFrame(rows).pivot("model", index=["interactions", "pairs"], values="recall@20")
    return Chart(plot, f"Bars: Recall@20 of {', '.join(names)} by {kind}.", table.rename({"pairs": "held-out pairs"}))
