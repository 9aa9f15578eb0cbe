import dataclasses
import difflib
import itertools
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import ModelConfig
from lirdrec_pyg.training import TrainingConfig, check_settings
from lirdrec_pyg.transforms import kept_modalities, modality_weights

if TYPE_CHECKING:
    from optuna import Trial

# These do not change what is learned, or only by chance.
_FIXED = {"seed", "device", "checkpoint_minutes", "sparse_backend", "graph_weights"}
_SHARE = "graph_weights."

Settings = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``, on a log scale if ``log``."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (self.low < self.high and (self.low > 0 or not self.log)):
            raise ConfigError(
                f"There is no range from {self.low} to {self.high}: 'low' must be less than 'high', and greater than 0 "
                "if 'log' is true."
            )


Entry = tuple[Any, ...] | Range


@dataclass(frozen=True)
class Space:
    """The values that are tried for each setting.

    Attributes:
        entries: a tuple of values or a :class:`Range` per setting: a field of the model's configuration or of
            :class:`~lirdrec_pyg.training.TrainingConfig`, or ``graph_weights.<modality>``.
    """

    entries: Mapping[str, Entry]

    @classmethod
    def default(
        cls, modalities: tuple[str, ...], model_config: ModelConfig, training_config: TrainingConfig
    ) -> "Space":
        """Return the values that the model declares, without those that have no effect.

        Raises:
            ConfigError: if the model has no default.
        """
        entries = model_config.search_space(modalities)
        if not entries:
            raise ConfigError(f"Pass `space`: there is no default for `model={model_config.model!r}`.")
        if training_config.user_gradients == "sparse":  # SparseAdam has no weight decay
            entries.pop("weight_decay", None)
        return cls(entries)

    @classmethod
    def read(cls, path: Path, model_config: ModelConfig) -> "Space":
        """Read a YAML file with lines ``name: [value, ...]`` or ``name: {low: ..., high: ..., log: true}``.

        Raises:
            ConfigError: if the file cannot be read or has an invalid entry.
        """
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # also invalid dates and deep nesting
            raise ConfigError(f"Cannot read {path} as YAML ({' '.join(str(error).split())}).") from error
        if not isinstance(content, dict) or not content:
            raise ConfigError(f"{path} has no 'name: [value, ...]' lines.")
        kinds = _kinds(model_config)
        try:
            names = [_name(str(key), model_config) for key in content]
            return cls({n: _entry(n, value, kinds.get(n, float)) for n, value in zip(names, content.values())})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def check(self, model_config: ModelConfig, training_config: TrainingConfig, modalities: tuple[str, ...]) -> None:
        """Raise :class:`ConfigError` if a combination of values cannot be trained with; of ranges, the ends count."""
        for name in self.entries:
            _name(name, model_config)
        ends = [(e.low, e.high) if isinstance(e, Range) else e for e in self.entries.values()]
        for values in itertools.product(*ends):
            model, training = self.configs(dict(zip(self.entries, values)), model_config, training_config)
            names = kept_modalities(modalities, getattr(model, "only_modality", None))
            modality_weights(names, getattr(model, "graph_weights", {}))
            check_settings(model, training)

    @property
    def num_points(self) -> int | None:
        """Number of combinations, ``None`` if there is a range."""
        sizes = [len(entry) for entry in self.entries.values() if not isinstance(entry, Range)]
        return math.prod(sizes) if len(sizes) == len(self.entries) else None

    def suggest(self, trial: "Trial", model_config: ModelConfig) -> Settings:
        """Return the settings of ``trial``, chosen by the study's sampler."""
        kinds = _kinds(model_config)
        settings: Settings = {}
        for name, entry in self.entries.items():
            if not isinstance(entry, Range):
                settings[name] = trial.suggest_categorical(name, entry)
            elif kinds.get(name) is int:
                settings[name] = trial.suggest_int(name, int(entry.low), int(entry.high), log=entry.log)
            else:
                settings[name] = trial.suggest_float(name, entry.low, entry.high, log=entry.log)
        return settings

    @staticmethod
    def configs(
        settings: Mapping[str, Any], model_config: ModelConfig, training_config: TrainingConfig
    ) -> tuple[ModelConfig, TrainingConfig]:
        """Return the configurations with ``settings``.

        Raises:
            ConfigError: if a value is invalid.
        """
        changes: list[dict[str, Any]] = [
            {name: value for name, value in settings.items() if name in config.__dataclass_fields__}
            for config in (model_config, training_config)
        ]
        if shares := {n.removeprefix(_SHARE): value for n, value in settings.items() if n.startswith(_SHARE)}:
            changes[0]["graph_weights"] = {**model_config.graph_weights, **shares}  # type: ignore[attr-defined]
        return replace(model_config, **changes[0]), replace(training_config, **changes[1])


def _kinds(model_config: ModelConfig) -> dict[str, Any]:
    """Return the types of all settings that can be tuned."""
    configs = type(model_config), TrainingConfig
    hints = {name: hint for config in configs for name, hint in get_type_hints(config).items()}
    return {f.name: hints[f.name] for config in configs for f in dataclasses.fields(config) if f.name not in _FIXED}


def _name(key: str, model_config: ModelConfig) -> str:
    """Return the name of a setting that can be tuned."""
    if key.startswith(_SHARE) and hasattr(model_config, "graph_weights"):
        return key
    name, names = key.replace("-", "_"), list(_kinds(model_config))
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, 1)
    raise ConfigError(
        f"{key!r} cannot be tuned"
        + (f", did you mean {close[0]!r}?" if close else f". Choose from {', '.join(names)}.")
    )


def _entry(name: str, value: Any, kind: Any) -> Entry:
    def number(entry: Any) -> Any:
        with suppress(ValueError):  # YAML reads 1e-3 as text
            return float(entry) if isinstance(entry, str) and kind in (int, float) else entry
        return entry

    match value:
        case [_, *_] if not any(isinstance(entry, (list, dict)) for entry in value):
            return tuple(dict.fromkeys(map(number, value)))
        case {"low": low, "high": high, **rest} if kind in (int, float) and rest in ({}, {"log": True}, {"log": False}):
            low, high = number(low), number(high)
            if isinstance(low, (int, float)) and isinstance(high, (int, float)):
                return Range(low, high, bool(rest.get("log")))
    raise ConfigError(f"{name} must be a list of values, or a range such as {{low: 1e-5, high: 1e-3, log: true}}.")
