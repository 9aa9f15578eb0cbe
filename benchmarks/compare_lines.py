"""Lines of the comparison of models: what each trains, and what it tries."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import click

from lirdrec_pyg import TrainingConfig
from lirdrec_pyg.models import MODEL_CONFIGS
from lirdrec_pyg.training import PRESETS
from lirdrec_pyg.training.config import Preset

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A line of the table."""

    model: str  # as for fit --model
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # values to try, also of the training
    settings: Settings = field(default_factory=dict)  # what differs from the model and the preset
    preset: Preset | None = None  # as for fit --preset; by default the settings of the model's own paper

    @property
    def is_peer(self) -> bool:
        """``True`` unless it is LIRDRec or one of its ablations."""
        return self.model != "lirdrec"

    @property
    def is_closed_form(self) -> bool:
        """Whether all seeds give the same model."""
        return MODEL_CONFIGS[self.model].is_closed_form

    @property
    def preset_settings(self) -> Settings | None:
        """Settings of the preset, if there is one."""
        return PRESETS[self.preset] if self.preset else None

    def suits(self, modalities: Sequence[str]) -> bool:
        """Return whether it differs from the other lines on data with these modalities."""
        only = self.settings.get("only_modality")
        return only is None or (only in modalities and len(modalities) > 1)


# Grids of the papers, or of MMRec if a paper has none; MMHCL's is from its released logs.
_LIRDREC = {"num_layers": (2, 3, 4), "network_weight": (0.9, 0.95, 0.99), "reg_weight": (1e-4, 1e-3, 1e-2)}
_WITHOUT_PWC = {name: values for name, values in _LIRDREC.items() if name != "network_weight"}
PEERS = {
    "popularity": Entry("popularity"),
    "content-knn": Entry("content-knn", {"knn_k": (5, 10, 20, 50, 100, 200)}),
    "item-knn": Entry(
        "item-knn", {"num_neighbors": (20, 100), "user_power": (0.5, 1.0), "item_power": (0.0, 0.25, 0.5)}
    ),
    "ease": Entry("ease", {"l2": (1.0, 5.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)}),
    "bpr-mf": Entry("bpr-mf", {"reg_weight": (0.0, 1e-4, 1e-3, 1e-2, 1e-1)}),
    "lightgcn": Entry("lightgcn", {"num_layers": (1, 2, 3, 4), "reg_weight": (1e-5, 1e-4, 1e-3, 1e-2)}),
    "vbpr": Entry("vbpr", {"reg_weight": (0.0, 1e-4, 1e-3, 1e-2, 1e-1), "projection_reg_weight": (0.0, 1e-3)}),
    "bm3": Entry("bm3", {"num_layers": (1, 2), "dropout": (0.3, 0.5), "reg_weight": (0.1, 0.01, 0.0)}),
    "freedom": Entry("freedom", {"modality_weight": (0.0, 1e-5, 1e-4, 1e-3), "edge_dropout": (0.8, 0.9)}),
    "mgcn": Entry("mgcn", {"contrast_weight": (1e-3, 1e-2, 1e-1), "knn_k": (5, 10, 20)}),
    "mm-gf": Entry("mm-gf", {"alpha": (0.5, 0.9), "modality_weight": (0.3, 1.0, 3.0)}),
    "mmhcl": Entry(
        "mmhcl",
        {
            "lr": (1e-3, 1e-4),
            "user_contrast_weight": (0.03, 0.1, 0.3),
            "item_contrast_weight": (0.07, 0.7),
            "temperature": (0.4, 0.5, 0.6),
            "knn_k": (5, 10),
        },
    ),
}
# LIRDRec as people use it. A line with a preset of its own has no grid, and so one run per seed.
LIRDREC = {
    "lirdrec": Entry("lirdrec", _LIRDREC),
    "lirdrec-fast": Entry("lirdrec", preset="fast"),
    "lirdrec-best": Entry("lirdrec", preset="best"),
}
ABLATIONS = {
    "lirdrec-no-transformation": Entry("lirdrec", _LIRDREC, {"dct": "none"}),
    "lirdrec-2d": Entry("lirdrec", _LIRDREC, {"dct": "2d"}),
    "lirdrec-mean-fusion": Entry("lirdrec", _WITHOUT_PWC, {"fusion": "mean"}),
    "lirdrec-static-fusion": Entry("lirdrec", _WITHOUT_PWC, {"fusion": "static"}),
    "lirdrec-attention-fusion": Entry("lirdrec", _WITHOUT_PWC, {"fusion": "attention"}),
    "lirdrec-no-item-graph": Entry("lirdrec", _LIRDREC, {"item_graph": False}),
    "lirdrec-id-branch": Entry("lirdrec", _LIRDREC, {"id_branch": True}),
}


def entries(names: str, modalities: Sequence[str], preset: Preset = "paper") -> dict[str, Entry]:
    """Return the lines that ``names`` lists, separated by commas: names, ``peers``, ``ablations`` or ``all``.

    LIRDRec and its ablations are trained by ``preset``, unless they have their own.
    """
    single = {f"lirdrec-{m}-only": Entry("lirdrec", _LIRDREC, {"only_modality": m}) for m in modalities}
    ablations = {"lirdrec": LIRDREC["lirdrec"]} | ABLATIONS | single
    groups = {"all": PEERS | LIRDREC | ablations, "peers": PEERS, "ablations": ablations}
    found: dict[str, Entry] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name in groups:
            found |= groups[name]
        elif name in groups["all"]:
            found[name] = groups["all"][name]
        else:
            known = ", ".join([*groups, *groups["all"]])
            raise click.UsageError(f"Unknown model {name!r} in --models. Choose from {known}.")
    if not found:
        raise click.UsageError("--models is empty. Pass 'all' for all models.")
    return {n: e if e.is_peer or e.preset else replace(e, preset=preset) for n, e in found.items()}


def configurations(entry: Entry, budget: int) -> list[Settings]:
    """Return up to ``budget`` points of the grid: the defaults, then random others, always the same."""
    defaults = {**{f.name: f.default for f in fields(TrainingConfig)}, **MODEL_CONFIGS[entry.model].training_defaults}
    defaults |= {f.name: f.default for f in fields(MODEL_CONFIGS[entry.model])}
    points = [dict(zip(entry.grid, values, strict=True)) for values in itertools.product(*entry.grid.values())]
    start = {name: defaults[name] for name in entry.grid}
    others = [point for point in points if point != start]
    random.Random(0).shuffle(others)
    return [start, *others][:budget]


def configs(entry: Entry, settings: Settings, shared: Settings) -> tuple[Any, TrainingConfig]:
    """Return the configurations of the model and of its training; ``shared`` has settings of all lines' trainings."""
    kind = MODEL_CONFIGS[entry.model]
    given = {**kind.training_defaults, **(entry.preset_settings or {}), **entry.settings, **settings, **shared}
    of_model = {f.name: given.pop(f.name) for f in fields(kind) if f.name in given}
    return kind(**of_model), TrainingConfig(**given)
