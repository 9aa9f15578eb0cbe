"""Command-line options made from the fields of the configuration classes."""

import dataclasses
import difflib
import os
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import click
import yaml

from lirdrec_pyg.config import PRESETS, LIRDRecConfig, Preset, option_name
from lirdrec_pyg.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])
Config = TypeVar("Config")


class Pair(click.ParamType):
    """``KEY=VALUE``, with a value of a given type."""

    def __init__(self, value_type: type) -> None:
        self.name = f"name={'number' if value_type is float else 'file'}"
        self._value_type = value_type

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            key, text = value
        else:
            # A name may hold the sign as well as a path may.
            split = str(value).rpartition if self._value_type is float else str(value).partition
            key, _, text = split("=")
        try:
            if not (key and text):
                raise ValueError
            return str(key), self._value_type(str(text))
        except ValueError:
            return self.fail(f"{value!r} is not of the form {self.name.upper()}.", param, ctx)


class FeatureFile(Pair):
    """``MODALITY=FILE``, or a folder of features, which stands for all files in it."""

    def __init__(self) -> None:
        super().__init__(str)
        self.name = "modality=file|folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, str) and os.path.isdir(value):
            return "", value
        return super().convert(value, param, ctx)


def feature_files(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """A callback that makes a dictionary of files by modality, those of each folder among them."""
    found: list[tuple[str, str]] = []
    for modality, path in pairs:
        if modality:
            found.append((modality, path))
        else:
            from lirdrec_pyg.data import find_features

            found += [(name, str(file)) for name, file in find_features(Path(path)).items()]
    return each_name_once(ctx, param, tuple(found))


def each_name_once(_ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """A callback that makes a dictionary of pairs."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{param.opts[0]} names {twice[0]!r} more than once: keep one of them.")
    return dict(pairs)


def config_options(*configs: type, skip: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Adds an option for each field of ``configs``; see :func:`take` for the way back."""

    def decorate(command: Command) -> Command:
        for config in reversed(configs):
            for name, attributes in reversed(_declared(config, {}, skip)):
                command = click.option(name, **attributes)(command)
        return command

    return decorate


def config_params(config: type, defaults: Mapping[str, Any] | None = None) -> list[click.Option]:
    """The options of :func:`config_options` by themselves, some with other defaults."""
    return [click.Option([name], **attributes) for name, attributes in _declared(config, defaults or {})]


def _declared(
    config: type, defaults: Mapping[str, Any], skip: tuple[str, ...] = ()
) -> list[tuple[str, dict[str, Any]]]:
    """Name and attributes of the option for each field."""
    hints = get_type_hints(config)
    fields = [field for field in dataclasses.fields(config) if field.name not in skip]
    # A class's own fields come before those it inherits.
    fields.sort(key=lambda field: field.name not in config.__annotations__)
    return [_option(field, hints[field.name], defaults) for field in fields]


def _option(field: "dataclasses.Field[Any]", hint: Any, defaults: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, doc = option_name(field), field.metadata["doc"]
    if get_origin(hint) is dict:
        of_files = get_args(hint)[1] is str
        return name, {
            "multiple": True,
            "type": FeatureFile() if of_files else Pair(get_args(hint)[1]),
            "callback": feature_files if of_files else each_name_once,
            "help": doc,
        }
    default = defaults.get(field.name, field.default)
    if hint is bool and not default:
        return name, {"is_flag": True, "default": default, "help": doc}
    attributes = {"default": default, "show_default": default is not None, "help": doc}
    if hint is bool:
        return f"{name}/--no-{name.removeprefix('--')}", attributes
    return name, {**attributes, "type": _click_type(field, hint)}


def _click_type(field: "dataclasses.Field[Any]", hint: Any) -> Any:
    if choices := field.metadata["choices"]:
        return click.Choice(choices)
    if get_origin(hint) is types.UnionType:
        hint = get_args(hint)[0]
    low, high, low_open = field.metadata["min"], field.metadata["max"], field.metadata["min_open"]
    if hint is int:
        return click.IntRange(low, high)
    if hint is float:
        return click.FloatRange(low, high, min_open=low_open)
    return str


def take(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A ``config`` from the values that click parsed."""
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    return config(**{name: values[name] for name in names})


def config_file_option(command: Command) -> Command:
    """Adds ``--config``: a YAML file whose entries take the place of the options' defaults."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read_config_file,
        help="YAML file with any of these options, such as config.yaml of a run; an option given here wins. "
        "Paths in it go by the working folder.",
    )(command)


def _read_config_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} can't be read ({error}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or number that is none, a deep list
        raise ConfigError(f"--config {path} is not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path} has to hold 'option: value' lines.")
    options = {param.name: param for param in ctx.command.params if isinstance(param, click.Option)}
    known = options.keys() - {"config", "help"}
    defaults: dict[str, Any] = {}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name == "model" and name not in known:
            if value != LIRDRecConfig.model:
                raise ConfigError(f"--config {path} is for --model {value}: this command is for {LIRDRecConfig.model}.")
            continue
        if name not in known:
            close = difflib.get_close_matches(name, [str(k) for k in known], 1)
            hint = f", did you mean {close[0]!r}?" if close else "."
            raise ConfigError(f"--config {path} has an unknown option {key!r}{hint}")
        if value is None:
            continue
        entries = value.values() if isinstance(value, dict) else [value]
        # Not shown: aliases make a short file hold more than any memory does.
        if options[name].multiple != isinstance(value, dict) or any(isinstance(e, (list, dict, set)) for e in entries):
            kind = "'name: value' lines below it" if options[name].multiple else "a single value"
            raise ConfigError(f"--config {path} has a {type(value).__name__} for {key!r}, which takes {kind}.")
        # As text, so that a value is checked as one on the command line is.
        defaults[name] = list(value.items()) if isinstance(value, dict) else str(value)
    # Over those of a preset.
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def preset_option(command: Command) -> Command:
    """Adds ``--preset``, whose settings take the place of the options' defaults."""
    fast = ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in PRESETS["fast"].items())
    return click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default="paper",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=_take_preset,
        help="'paper' trains as the paper does; 'fast' comes as far by validation in a third of the time or half "
        f"({fast}). An option given here or in --config wins.",
    )(command)


def _take_preset(ctx: click.Context, _param: click.Parameter, preset: Preset) -> None:
    ctx.default_map = {**PRESETS[preset], **(ctx.default_map or {})}
