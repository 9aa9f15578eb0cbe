"""Measure what variety and less popular items cost in accuracy.

    python benchmarks/rerank.py [RUN] [-k K] [--by vectors|MODALITY]

Validation metrics of a run, by default of a model trained on generated data, for each method and strength of
re-ranking. Diversity, personalization and average popularity are PyG's; diversity counts pairs of items of different
clusters of the features, whatever the items are compared by.
"""

import time
from pathlib import Path
from typing import get_args

import click
from harness import Row, json_option, report

from lirdrec_pyg import LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.evaluation import BeyondAccuracy, RankingTask, item_clusters, ranking_metrics
from lirdrec_pyg.recommender.rerankers import DiversityMethod
from lirdrec_pyg.recommender.rules import Rules, ruled

_STRENGTHS = (0.3, 0.5, 0.7)
_PENALTIES = (0.1, 0.2, 0.5, 1.0)


def variants(by: str) -> dict[str, Rules]:
    """Return rules by their name in the table."""
    found = {"model": Rules()}
    found |= {f"popularity penalty {penalty}": Rules(popularity_penalty=penalty) for penalty in _PENALTIES}
    for method in get_args(DiversityMethod):
        found |= {f"{method} {x}": Rules(diversity=x, diversity_method=method, diversity_by=by) for x in _STRENGTHS}
    return found


def measure(recommender: Recommender, rules: Rules, k: int) -> Row:
    """Return the metrics of the best ``k`` items by some rules."""
    graph = recommender.graph
    task = RankingTask.from_graph(graph, "valid")
    lists = BeyondAccuracy(graph, item_clusters(graph), (k,))
    start = time.perf_counter()
    blocks = [*ruled(recommender, recommender.ranker, rules).top_k(task.user_index, k, task.seen)]
    seconds = time.perf_counter() - start
    accuracy = ranking_metrics(lists.follow(blocks), task, (k,))
    beyond = lists.compute()
    return {
        **{f"{name}@{k}": accuracy[f"{name}@{k}"] for name in ("recall", "ndcg", "coverage")},
        **{f"{name}@{k}": beyond[f"{name}@{k}"] for name in ("diversity", "personalization", "average_popularity")},
        "seconds": seconds,
    }


@click.command()
@click.argument("run", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-k", default=20, show_default=True, type=click.IntRange(2), help="Items per user.")
@click.option("--by", default="vectors", show_default=True, help="What items are compared by: vectors or a modality.")
@json_option
def main(run: Path | None, k: int, by: str, json_file: Path | None) -> None:
    """Accuracy and variety of re-ranked recommendations."""
    if run is None:
        recommender = fit(synthetic_data(), LIRDRecConfig(), TrainingConfig(epochs=5))
    else:
        recommender = Recommender.load(run)
    report(
        "rerank",
        [{"ranking": name, **measure(recommender, rules, k)} for name, rules in variants(by).items()],
        json_file,
    )


if __name__ == "__main__":
    main()
