"""What settings are tried."""

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from lirdrec_pyg.config import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import used_modalities
from lirdrec_pyg.training import check_settings
from lirdrec_pyg.transforms import modality_weights

if TYPE_CHECKING:
    from optuna import Trial

# These say where and by which draws to train, not how.
_FIXED = ("seed", "device", "checkpoint_minutes", "sparse_backend")
# Of these, what one may be depends on what the others are.
_TOGETHER = ("sampling", "user_gradients", "fanout", "num_layers", "edge_dropout", "weight_decay", "id_branch")
_SHARE = "graph_weights."
_TYPES = {**get_type_hints(LIRDRecConfig), **get_type_hints(TrainingConfig)}
_MODEL, _TRAINING = ({field.name for field in fields(config)} for config in (LIRDRecConfig, TrainingConfig))
_NAMES = [name for name in _TYPES if name in _MODEL | _TRAINING and name not in _FIXED and name != "graph_weights"]

Settings = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``, in log scale if ``log``."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Space:
    """The values that each setting may take.

    Attributes:
        entries: a tuple of values, or a :class:`Range`, for each setting: a field of
            :class:`~lirdrec_pyg.config.LIRDRecConfig` or :class:`~lirdrec_pyg.config.TrainingConfig`, or
            ``graph_weights.<modality>``.
    """

    entries: Mapping[str, tuple[Any, ...] | Range]

    @classmethod
    def paper(
        cls,
        modalities: tuple[str, ...],
        model_config: LIRDRecConfig | None = None,
        training_config: TrainingConfig | None = None,
    ) -> "Space":
        """The paper's grid (section 5.1), with the share of the pictures in the item graph beside it.

        Args:
            modalities: of the data.
            model_config: of the model that is tuned; what makes no difference to it is left out.
            training_config: of its training, likewise.
        """
        model_config, training_config = model_config or LIRDRecConfig(), training_config or TrainingConfig()
        names = used_modalities(model_config, modalities)
        entries: dict[str, tuple[Any, ...]] = {"num_layers": (2, 3, 4), "reg_weight": (1e-2, 1e-3, 1e-4)}
        if model_config.fusion == "pwc":
            entries["network_weight"] = (0.9, 0.95, 0.99)
        if training_config.user_gradients == "dense":  # the other optimiser has none
            entries["weight_decay"] = (0.0, 1e-6, 1e-5)
        if model_config.item_graph and "image" in names and len(names) > 1:
            entries[f"{_SHARE}image"] = (0.1, 0.5, 0.9)
        return cls(entries)

    @classmethod
    def read(cls, path: Path) -> "Space":
        """From a YAML file: ``name: [value, ...]``, or ``name: {low: ..., high: ..., log: true}``.

        Raises:
            ConfigError: if it is no such file.
        """
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--space {path} can't be read ({error}).") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"--space {path} is not YAML ({' '.join(str(error).split())}).") from error
        if not isinstance(content, dict) or not content:
            raise ConfigError(f"--space {path} has to hold 'option: [value, ...]' lines.")
        try:
            return cls({(name := _name(str(key))): _entry(name, value) for key, value in content.items()})
        except ConfigError as error:
            raise ConfigError(f"--space {path}: {error}") from error

    def check(self, model_config: LIRDRecConfig, training_config: TrainingConfig, modalities: tuple[str, ...]) -> None:
        """Raises :class:`ConfigError` if there is a value that a training can't take."""
        for name, entry in self.entries.items():
            for value in _bounds(entry):
                model, _ = self.configs({name: value}, model_config, training_config)
                names = used_modalities(model, modalities)
                if name.startswith(_SHARE):
                    modality_weights(names, {name.removeprefix(_SHARE): value})
        for point in self.points() or ():
            model, _ = self.configs(point, model_config, training_config)
            modality_weights(used_modalities(model, modalities), model.graph_weights)
        together = {name: _bounds(entry) for name, entry in self.entries.items() if name in _TOGETHER}
        for values in itertools.product(*together.values()):
            point = dict(zip(together, values, strict=True))
            check_settings(*self.configs(point, model_config, training_config))

    def points(self) -> list[Settings] | None:
        """All combinations; ``None`` if there is a range."""
        if any(isinstance(entry, Range) for entry in self.entries.values()):
            return None
        values = [entry for entry in self.entries.values() if isinstance(entry, tuple)]
        return [dict(zip(self.entries, point, strict=True)) for point in itertools.product(*values)]

    def suggest(self, trial: "Trial") -> Settings:
        """What the study's sampler has chosen for ``trial``."""
        return {name: self._suggest(trial, name, entry) for name, entry in self.entries.items()}

    @staticmethod
    def _suggest(trial: "Trial", name: str, entry: tuple[Any, ...] | Range) -> Any:
        if not isinstance(entry, Range):
            return trial.suggest_categorical(name, entry)
        if _TYPES.get(name) is int:
            return trial.suggest_int(name, int(entry.low), int(entry.high), log=entry.log)
        return trial.suggest_float(name, entry.low, entry.high, log=entry.log)

    @staticmethod
    def configs(
        settings: Mapping[str, Any], model_config: LIRDRecConfig, training_config: TrainingConfig
    ) -> tuple[LIRDRecConfig, TrainingConfig]:
        """The configurations with ``settings`` in them.

        Raises:
            ConfigError: if there can be no such setting.
        """
        shares = {n.removeprefix(_SHARE): value for n, value in settings.items() if n.startswith(_SHARE)}
        model = {name: value for name, value in settings.items() if name in _MODEL}
        training = {name: value for name, value in settings.items() if name in _TRAINING}
        weights = {**model_config.graph_weights, **shares}
        return replace(model_config, **model, graph_weights=weights), replace(training_config, **training)


def _bounds(entry: tuple[Any, ...] | Range) -> tuple[Any, ...]:
    """All values, or the ends of a range."""
    return (entry.low, entry.high) if isinstance(entry, Range) else entry


def _name(key: str) -> str:
    name = key if key.startswith(_SHARE) else key.replace("-", "_")
    if name.startswith(_SHARE) or name in _NAMES:
        return name
    close = difflib.get_close_matches(name, _NAMES, 1)
    raise ConfigError(
        f"{key!r} can't be tuned" + (f", did you mean {close[0]!r}?" if close else f": take of {', '.join(_NAMES)}.")
    )


def _entry(name: str, value: Any) -> tuple[Any, ...] | Range:
    if isinstance(value, list) and value and not any(isinstance(each, (list, dict)) for each in value):
        return tuple(dict.fromkeys(_number(name, each) for each in value))
    if isinstance(value, dict) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
        return _range(name, _number(name, value["low"]), _number(name, value["high"]), value.get("log", False))
    raise ConfigError(f"{name} has to be a list of values, or a range such as {{low: 1e-5, high: 1e-3, log: true}}.")


def _number(name: str, value: Any) -> Any:
    """YAML takes 1e-3 for a text."""
    if isinstance(value, str) and (name.startswith(_SHARE) or _TYPES[name] in (int, float)):
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"{name} has the value {value!r}, which is no number.") from None
    return value


def _range(name: str, low: Any, high: Any, log: Any) -> Range:
    kinds = (int,) if _TYPES.get(name) is int else (int, float)
    numbers = all(isinstance(end, kinds) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not isinstance(log, bool) or not low < high or (log and low <= 0):
        raise ConfigError(
            f"{name} has no range from {low} to {high}: 'low' has to be below 'high', both numbers that it can take, "
            "and above 0 where 'log' is true."
        )
    return Range(low, high, log)
