from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal

from lirdrec_pyg.config import Config, field
from lirdrec_pyg.devices import Device, resolve_device
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.launcher import num_processes
from lirdrec_pyg.models import LIRDRecConfig, ModelConfig
from lirdrec_pyg.sampler import check_sampling
from lirdrec_pyg.transforms import CacheAdjacency, SparseBackend, check_search

Sampling = Literal["full", "neighbors"]
UserGradients = Literal["dense", "sparse"]
UserTable = Literal["replicated", "sharded"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
Preset = Literal["paper", "fast", "best"]


# Triples per step by default, and passes over the whole graph per epoch.
DEFAULT_BATCH, MAX_STEPS = 2048, 500


@dataclass(frozen=True)
class TrainingConfig(Config):
    """How to train (paper, section 5.1)."""

    epochs: int = field(1000, "Maximum number of epochs.", min=1)
    refit: bool = field(
        False,
        "When validation has found the best epoch, train again from scratch on all interactions, also those for "
        "validation and test, for as many epochs: as many passes over the data, in more steps in proportion to the "
        "interactions. The run then holds this model, beside the metrics of the first training.",
    )
    race: bool = field(
        False,
        "Train variants of the model for some epochs first, and the best one by validation to the end. LIRDRec is "
        "tried with and without the item graph. A preset has no race if the item graph is given.",
    )
    minutes: float | None = field(
        None,
        "End the training when an epoch has ended after this time; a race takes a third of it at most. The linear "
        "branch and the evaluation follow, and take minutes with ten thousand items. By default unlimited, or with a "
        "race 1 minute per 8,000 interactions, but at least 3.",
        min=0,
        min_open=True,
    )
    patience: int = field(20, "Stop after this many epochs without a better validation Recall@20.", min=1)
    batch_size: int | None = field(
        None,
        "Triples (user, item, negative) per step. If not set, 2048, as in the paper; with more than a million "
        "interactions a 500th of them, since each step passes over the whole graph, unless --sampling is 'neighbors'.",
        min=1,
    )
    lr: float = field(1e-4, "Learning rate of Adam.", min=0, min_open=True)
    weight_decay: float = field(0.0, "Weight decay of Adam.", min=0)
    ema: float = field(
        0.0,
        "Decay of an average of the weights over the steps, such as 0.97, which is validated and kept instead of the "
        "weights: noise of single epochs then neither ends the training early nor chooses the weights. 0 is off.",
        min=0,
        max=0.9999,
    )
    edge_dropout: float = field(
        0.0, "Share of edges dropped in each epoch, those of popular nodes more often.", min=0, max=0.99
    )
    negatives: int = field(
        1,
        "Negatives per triple. With several, LIRDRec learns from a softmax over them, which may need fewer epochs and "
        "reach more, but each epoch takes longer.",
        min=1,
        max=256,
    )
    popularity_alpha: float = field(
        0.0, "Negatives are drawn in proportion to popularity to this power; 0 is uniform.", min=0, max=4
    )
    seed: int = field(
        999,
        "Seed of the random split, the initial weights and the sampling; generated data do not depend on it.",
        min=0,
        max=2**32 - 1,
    )
    device: Device = field("auto", "Where to train.")
    precision: Precision = field("32-true", "Floating-point precision of the training steps.")
    checkpoint_minutes: float = field(
        10.0,
        "Minutes between checkpoints within a long epoch; there is one at the end of each epoch anyway.",
        min=0,
    )
    sparse_backend: SparseBackend = field(
        "torch",
        "Kernels of the sparse products; 'torch-sparse' needs the extra 'sparse'.",
    )
    sampling: Sampling = field(
        "full",
        "What a step passes over: the 'full' graph, or sampled 'neighbors' of its triples, for graphs too large for a "
        "full pass; sampling needs pyg-lib or the extra 'sparse'.",
    )
    fanout: str | None = field(
        None,
        "Neighbors per node that --sampling neighbors draws in each layer of user-item propagation, such as 20,10; "
        "-1 keeps all. By default 20 in the first layer and 10 in the others.",
    )
    sampling_workers: int = field(0, "Processes that sample neighbors ahead.", min=0)
    user_gradients: UserGradients = field(
        "dense",
        "With --sampling neighbors, 'sparse' updates only the vectors of the users of a step (SparseAdam), which saves "
        "time and memory with millions of users.",
    )
    user_table: UserTable = field(
        "replicated",
        "With several processes and --sampling neighbors, 'sharded' gives each of them a part of the users, with their "
        "vectors, memory and optimizer, so that more processes hold more users. The run folder has to be where all "
        "processes find it.",
    )

    @property
    def is_sharded(self) -> bool:
        """Whether each of several processes has a part of the users."""
        return self.user_table == "sharded" and num_processes() > 1

    def triples_per_step(self, num_interactions: int) -> int:
        """Return ``batch_size``, or its default."""
        if self.batch_size is not None:
            return self.batch_size
        return DEFAULT_BATCH if self.sampling == "neighbors" else max(DEFAULT_BATCH, num_interactions // MAX_STEPS)

    def fanouts(self, num_layers: int) -> tuple[int, ...]:
        """Return ``fanout`` for each layer.

        Raises:
            ConfigError: if it is not a list of numbers, or has another number of layers.
        """
        if self.fanout is None:
            return (20, *[10] * (num_layers - 1))[:num_layers]
        try:
            fanouts = tuple(int(number) for number in self.fanout.split(","))
        except ValueError:
            fanouts = ()
        if not fanouts or any(number != -1 and not 2 <= number < 2**31 for number in fanouts):
            raise ConfigError(f"`fanout` is {self.fanout!r}. Pass numbers of at least 2 such as 20,10, or -1 for all.")
        if len(fanouts) != num_layers:
            raise ConfigError(
                f"`fanout` is {self.fanout!r}, but `num_layers` is {num_layers}. Pass one number per layer."
            )
        return fanouts


def check_settings(model_config: ModelConfig, config: TrainingConfig) -> None:
    """Raise :class:`~lirdrec_pyg.errors.ConfigError` if settings cannot be combined, or do not work on this machine."""
    resolve_device(config.device)
    CacheAdjacency(config.sparse_backend)
    check_search(getattr(model_config, "knn_search", "auto"))
    if config.race and not model_config.variants(()):
        raise ConfigError(
            f"`race` tries variants of a model, and `model={model_config.model!r}` has none. Pass `race=False`."
        )
    if config.negatives > 1:
        model_config.require("negatives")
    if config.sampling == "full":
        if config.user_gradients == "sparse":
            raise ConfigError(
                "`user_gradients='sparse'` needs `sampling='neighbors'`, since a full pass updates every user."
            )
        if config.user_table == "sharded":
            raise ConfigError(
                "`user_table='sharded'` needs `sampling='neighbors'`, since a full pass needs every user."
            )
        return
    check_sampling()
    model_config.require("neighbor_sampling")
    config.fanouts(model_config.num_layers)  # type: ignore[attr-defined]
    if config.edge_dropout:
        raise ConfigError("`edge_dropout` cannot be combined with `sampling='neighbors'`, which draws from all edges.")
    if config.user_gradients == "sparse" and config.weight_decay:
        raise ConfigError("`weight_decay` cannot be combined with `user_gradients='sparse'`: SparseAdam has none.")
    if config.is_sharded:
        _check_sharded(model_config, config)
    elif config.user_gradients == "sparse" and num_processes() > 1:
        raise ConfigError(
            "`user_gradients='sparse'` works in one process only, or with `user_table='sharded'`. Pass this, or "
            "`user_gradients='dense'`."
        )


def _check_sharded(model_config: ModelConfig, config: TrainingConfig) -> None:
    for name in ("race", "refit"):
        if getattr(config, name):
            raise ConfigError(f"`{name}` cannot be combined with `user_table='sharded'`. Pass `{name}=False`.")
    if getattr(model_config, "new_item_scale", 1) == 0:
        raise ConfigError(
            "`new_item_scale=0` needs the vectors of all users to find the factor. With `user_table='sharded'`, pass "
            "a factor, such as 1."
        )


# What each preset sets; everything else keeps its default.
PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {},
    # A step costs a pass over the whole graph however few triples it has, so it has many, which allow a larger rate.
    "fast": {"lr": 3e-4, "batch_size": 8192},
    "best": {
        "race": True,
        "lr": 1e-3,
        "batch_size": 8192,
        "ema": 0.97,
        "patience": 15,
        "loss": "softmax",
        "embedding_dim": 128,
        "feature_dim": 128,
        "fusion": "mean",
        "linear_dim": 256,
        "new_item_scale": 0,
    },
}


def replaces_race(model_config: ModelConfig, given: Collection[str]) -> bool:
    """Return whether the settings that are ``given`` include one that a race varies, and not the race itself."""
    return "race" not in given and any(name in given for variant in model_config.variants(()) for name in variant)


def preset(name: Preset = "best", **changes: Any) -> tuple[LIRDRecConfig, TrainingConfig]:
    """Return the settings of a preset, for ``fit(dataset, *preset("best", minutes=20))``.

    Args:
        name: ``"best"``, ``"fast"`` or ``"paper"``.
        changes: settings of :class:`~lirdrec_pyg.LIRDRecConfig` and :class:`TrainingConfig` that differ. One that a
            race would vary turns the race off, unless ``race`` is given, too.

    Raises:
        ConfigError: if there is no such preset, or a setting is invalid.
    """
    if name not in PRESETS:
        raise ConfigError(f"`name` is {name!r}. Pass one of {', '.join(map(repr, PRESETS))}.")
    settings = {**PRESETS[name], **changes}
    if replaces_race(LIRDRecConfig(), changes):
        settings["race"] = False
    of_model = {field.name: settings.pop(field.name) for field in fields(LIRDRecConfig) if field.name in settings}
    return LIRDRecConfig(**of_model), TrainingConfig(**settings)
