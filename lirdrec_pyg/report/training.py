"""How a run was trained, and how to repeat it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.race import GIVEN
from lirdrec_pyg.report.charts import Chart, Table
from lirdrec_pyg.report.section import Section
from lirdrec_pyg.training import MONITOR
from lirdrec_pyg.training.journal import HISTORY


def section(recommender: Recommender) -> Section:
    """Return curves, time and memory, the race and the linear branch, and the command that repeats the run."""
    metrics, config = recommender.metrics or {}, recommender.model_config
    content: dict[str, Any] = {
        "facts": _facts(metrics),
        "linear": _linear(recommender),
        "charts": {},
        **_repetition(recommender),
    }
    if record := metrics.get("race"):
        content["race"] = Table(_race(record))
        content["winner"] = _winner(record, config)
    if not config.is_closed_form and recommender.path is not None:
        content["charts"] = _curves(recommender.path, metrics.get("best_epoch"))
    return Section("training", "Training", "training.html", content)


def _facts(metrics: Mapping[str, Any]) -> dict[str, str]:
    if not metrics:
        return {"Ended": "the training is not finished"}
    facts = {"Ended": metrics["stopped"], "Interactions": f"{metrics['interactions']:,}"}
    if metrics["epochs"]:
        facts["Best epoch"] = f"{metrics['best_epoch']} of {metrics['epochs']}"
    facts["Time"] = f"{metrics['seconds']:,.1f} s"
    per_epoch: Mapping[str, float | None] = metrics.get("seconds_per_epoch", {})
    if parts := [f"{name} {seconds:.2g} s" for name, seconds in per_epoch.items() if seconds]:
        facts["Time per epoch"] = ", ".join(parts)
    facts["Peak memory"] = f"{metrics['peak_memory_mib']:,.0f} MiB"
    if gpu := metrics.get("peak_gpu_memory_mib"):
        facts["Peak memory of the GPU"] = f"{gpu:,.0f} MiB"
    if metrics["parameters"]:
        facts["Parameters"] = f"{metrics['parameters']:,}"
    if refit := metrics.get("refit"):
        facts["Refit"] = (
            f"from scratch on all {refit['interactions']:,} interactions, {refit['epochs']} epochs, "
            f"{refit['seconds']:,.1f} s"
        )
    return facts


def _linear(recommender: Recommender) -> str | None:
    """Describe the linear branch, if the model has one."""
    if not recommender.vectors.linear.size(1):
        return None
    config: Any = recommender.model_config
    content = ", ".join(f"{name} {weight:g}" for name, weight in config.linear_content.items()) or "none"
    return (
        f"A linear branch of {config.linear_dim} columns is added to the scores with weight "
        f"{config.linear_weight:.3g} (regularization {config.linear_l2:g}; weights of the features in it: {content})."
    )


def _race(record: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return one row per variant, and one column per round of the race."""
    rows = [{"variant": r["variant"], "round": f"after {r['epochs']} epochs", "value": r[MONITOR]} for r in record]
    return pl.DataFrame(rows).pivot("round", index="variant", values="value")


def _winner(record: Sequence[Mapping[str, Any]], config: Any) -> str:
    """Return the variant whose settings are those of the model."""
    for variant in {row["variant"]: None for row in record}:
        names = [setting.partition("=")[0] for setting in variant.split(", ")]
        if variant != GIVEN and all(f"{name}={getattr(config, name)!r}" in variant for name in names):
            return variant
    return GIVEN


def _curves(run: Path, best_epoch: int | None) -> dict[str, Chart]:
    """Return the curves of the training that validation followed: before a refit, the first."""
    # A run that items were added to has none.
    if (found := next((run / name for name in ("selection.csv", HISTORY) if (run / name).is_file()), None)) is None:
        return {}
    history = pl.read_csv(found)
    if not len(history):
        return {}
    valid = [name for name in ("valid_recall@20", "valid_ndcg@20") if name in history.columns]
    charts = {"Loss": _curve(history, ["loss"], "Loss", best_epoch if valid else None)}
    if valid:
        charts["Validation"] = _curve(history, valid, "Recall@20 and NDCG@20", best_epoch)
    return charts


def _curve(history: pl.DataFrame, columns: Sequence[str], title: str, best_epoch: int | None) -> Chart:
    import altair as alt

    names = [column.removeprefix("valid_") for column in columns]
    frame = history.select("epoch", *(pl.col(column).alias(name) for column, name in zip(columns, names)))
    # Rounded, since a page of many epochs would otherwise be long.
    points = frame.unpivot(names, index="epoch").with_columns(pl.col("value").round_sig_figs(5))
    base = alt.Chart(alt.Data(values=points.to_dicts()), width="container", height=220)
    # A few ticks would be at fractions.
    few: dict[str, Any] = {"values": [*range(1, len(history) + 1)]} if len(history) <= 10 else {}
    axis = alt.Axis(format="d", **few)
    epochs = alt.Scale(domain=[1, max(2, len(history))], nice=False)
    plot: Any = base.mark_line(point=len(history) < 30).encode(
        x=alt.X("epoch:Q", axis=axis, scale=epochs),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
        color=alt.Color("variable:N", title=None, sort=names, legend=alt.Legend() if len(names) > 1 else None),
        tooltip=[alt.Tooltip("epoch:Q"), alt.Tooltip("variable:N", title=" "), alt.Tooltip("value:Q", format=".4f")],
    )
    label = f"Line: {' and '.join(names)} by epoch"
    if best_epoch:
        mark = alt.Chart(alt.Data(values=[{"epoch": best_epoch, "text": f"best epoch: {best_epoch}"}]))
        right = best_epoch > 0.6 * len(history)
        plot = alt.layer(
            plot,
            mark.mark_rule(strokeDash=[4, 3]).encode(x="epoch:Q"),
            mark.mark_text(align="right" if right else "left", y=-8).encode(x="epoch:Q", text="text:N"),
        ).properties(width="container", height=220)
        label += f"; the best epoch is {best_epoch} of {len(history)}"
    return Chart(plot, f"{label}.", frame)


def _repetition(recommender: Recommender) -> dict[str, Any]:
    """Return the command, the settings and the versions of a run folder."""
    run = recommender.path
    if run is None:
        return {}
    config, data = run / "config.yaml", recommender.dataset.config
    versions: dict[str, Any] = json.loads((run / "versions.json").read_text("utf-8"))
    command = f"lirdrec-pyg fit --config {shlex.quote(str(config))} --out {shlex.quote(f'{run}-again')}"
    return {
        "command": command if data is not None and data.data is not None else None,
        "settings": config.read_text("utf-8"),
        "versions": {name: value for name, value in versions.items() if name not in ("format", "data")},
    }
