"""The first lines of the report: what was trained on what, and how good it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lirdrec_pyg.data import HELD_OUT, held_out_interactions, modalities
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.report.metrics import AS_RECOMMENDED
from lirdrec_pyg.report.section import Section
from lirdrec_pyg.training.config import PRESETS

# What a training replaces with its own choice.
_CHOSEN = ("race", "new_item_scale")


def lead(recommender: Recommender, metrics: Section) -> dict[str, Any]:
    """Return the variables of the template, from a run and the section with its metrics."""
    num_held_out = {split.title: held_out_interactions(recommender.graph, split).size(1) for split in HELD_OUT}
    return {
        "recommender": recommender,
        "preset": _preset({**asdict(recommender.model_config), **asdict(recommender.training_config)}),
        "modalities": modalities(recommender.graph),
        "num_users": int(recommender.has_history.sum()),
        "num_trained": recommender.history.item.numel(),
        "num_held_out": {name: number for name, number in num_held_out.items() if number},
        "measured": metrics.content.get("split"),
        "num_measured": metrics.content.get("num_users"),
        "values": _values(metrics.content.get("names", ()), metrics.content.get("metrics", ())),
    }


def _preset(settings: Mapping[str, Any]) -> str | None:
    """Return the preset whose settings these are, ``None`` for that of the defaults and for others."""
    kept = {name: {key: value for key, value in PRESETS[name].items() if key not in _CHOSEN} for name in PRESETS}
    fits = [name for name, preset in kept.items() if preset and preset.items() <= settings.items()]
    return fits[-1] if fits else None


def _values(names: Sequence[str], rows: Sequence[tuple[str, str, list[tuple[float, bool]]]]) -> dict[str, Any]:
    """Return the Recall@20 of the model as it recommends and of the baselines, and the share of users with a hit."""
    found = {metric: [value for value, _ in values] for metric, _, values in rows}
    if not names:
        return {}
    own = names.index(AS_RECOMMENDED) if AS_RECOMMENDED in names else 0
    recall = dict(zip(names, found["recall@20"]))
    others = {name: recall[name] for name in ("ease", "popularity") if name in names[1:]}
    hit_rate = found["hit_rate@20"][own]
    return {"recall": found["recall@20"][own], "others": others, "hit_rate": hit_rate, "own": names[own]}
