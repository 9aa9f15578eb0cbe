"""Tables of the comparison of models: means, significance and sentences, all computed from the runs."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from compare_lines import LIRDREC, Entry, Settings

from lirdrec_pyg.evaluation import holm, paired_bootstrap
from lirdrec_pyg.training import MONITOR

Run = Mapping[str, Any]
Row = Mapping[str, Any]

SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
TESTED = ("recall@20", "ndcg@20")
BEYOND_ACCURACY = tuple(
    f"{metric}@20" for metric in ("average_popularity", "novelty", "diversity", "personalization", "gini", "coverage")
)


def best_peer(runs: Mapping[str, Sequence[Run]], lines: Mapping[str, Entry]) -> str | None:
    """Return the peer with the best mean validation Recall@20."""
    peers = [name for name in runs if lines[name].is_peer]
    return max(peers, key=lambda name: _mean(runs[name], "valid", MONITOR), default=None)


def reference(runs: Mapping[str, Sequence[Run]], lines: Mapping[str, Entry]) -> str | None:
    """Return the line that the others are tested against: the best peer, or LIRDRec without peers."""
    return best_peer(runs, lines) or ("lirdrec" if "lirdrec" in runs else None)


def rows(data: str, runs: Mapping[str, Sequence[Run]], against: str | None) -> list[dict[str, Any]]:
    """Return one row per line of a data set, as in the CSV file."""
    found = []
    for name, of_line in runs.items():
        row: dict[str, Any] = {
            "data": data,
            "model": name,
            "settings": text(of_line[0]["settings"]),
            "runs": len(of_line),
            f"valid {MONITOR} mean": _mean(of_line, "valid", MONITOR),
        }
        for metric in SHOWN:
            values = [run["test"][metric] for run in of_line]
            row[f"test {metric} mean"] = statistics.fmean(values)
            row[f"test {metric} sd"] = statistics.stdev(values) if len(values) > 1 else None
        for metric in BEYOND_ACCURACY:
            of_run = ({**run["test"], **run["beyond_accuracy"]["test"]} for run in of_line)
            row[f"test {metric} mean"] = statistics.fmean(values[metric] for values in of_run)
        row["compared with"] = None if name == against else against
        for metric in TESTED:
            row[f"{metric} p"] = row[f"{metric} p by Holm"] = None
        row["epochs"] = statistics.fmean(run["epochs"] for run in of_line)
        row["seconds"] = statistics.fmean(run["seconds"] for run in of_line)
        found.append(row)
    if against is not None and len(found) > 1:
        for metric in TESTED:
            _add_p_values(found, runs, against, metric)
    return found


def _add_p_values(
    table: Sequence[dict[str, Any]], runs: Mapping[str, Sequence[Run]], against: str, metric: str
) -> None:
    tested = [row for row in table if row["model"] != against]
    by_user = {
        name: torch.tensor([run["test_by_user"][metric] for run in of_line], dtype=torch.float64).mean(dim=0)
        for name, of_line in runs.items()
    }
    p = paired_bootstrap(torch.stack([by_user[row["model"]] for row in tested]), by_user[against])
    for row, raw, corrected in zip(tested, p.tolist(), holm(p).tolist(), strict=True):
        row[f"{metric} p"], row[f"{metric} p by Holm"] = raw, corrected


def markdown(table: Sequence[Row], against: str | None) -> str:
    """Format the rows of a data set as a Markdown section: metrics with the best mean in bold, a verdict, variety."""
    best = {metric: max(row[f"test {metric} mean"] for row in table) for metric in SHOWN}
    head = ["", *(f"test {metric}" for metric in SHOWN), f"validation {MONITOR}", "p", "seconds", "settings"]
    out = [f"## {table[0]['data']}", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in table:
        cells = [row["model"]]
        for metric in SHOWN:
            mean, sd = row[f"test {metric} mean"], row[f"test {metric} sd"]
            cell = f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"
            cells.append(f"**{cell}**" if mean == best[metric] else cell)
        p = row[f"{MONITOR} p by Holm"]
        cells += [f"{row[f'valid {MONITOR} mean']:.4f}", "" if p is None else f"{p:.4f}"]
        cells += [f"{row['seconds']:.1f}", row["settings"]]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join([*out, "", *verdict(table, against), "", *_beyond_accuracy(table)])


def _beyond_accuracy(table: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a Markdown table about the recommendations themselves."""
    yield f"| {' | '.join(['', *(f'test {metric}' for metric in BEYOND_ACCURACY)])} |"
    yield f"|{' --- |' * (1 + len(BEYOND_ACCURACY))}"
    for row in table:
        means = (f"{row[f'test {metric} mean']:.4f}" for metric in BEYOND_ACCURACY)
        yield f"| {' | '.join([row['model'], *means])} |"


def verdict(table: Sequence[Row], against: str | None) -> Iterator[str]:
    """Yield sentences that compare LIRDRec with the best peer."""
    by_name = {row["model"]: row for row in table}
    if against is None or against in LIRDREC:
        return
    peer = by_name[against]
    yield f"Best peer by validation: {against}."
    for name in filter(by_name.get, LIRDREC):
        yield f"{name} against {against}: test {', '.join(_change(by_name[name], peer, metric) for metric in TESTED)}."


def _change(row: Row, peer: Row, metric: str) -> str:
    own, other = (side[f"test {metric} mean"] for side in (row, peer))
    return f"{metric} {own - other:+.4f} ({own / other - 1:+.1%}, p = {row[f'{metric} p by Holm']:.4f})"


def text(settings: Settings) -> str:
    """Format settings as in the table."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def _mean(runs: Sequence[Run], split: str, metric: str) -> float:
    return statistics.fmean(run[split][metric] for run in runs)
