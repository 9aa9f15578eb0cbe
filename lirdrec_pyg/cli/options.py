"""Options made from the fields of configuration classes, and the options that several commands share."""

import dataclasses
import difflib
import os
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click
import yaml
from click.core import ParameterSource

from lirdrec_pyg.data import find_features
from lirdrec_pyg.devices import Device
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import LIRDRecConfig
from lirdrec_pyg.training.config import PRESETS, Preset

Command = TypeVar("Command", bound=Callable[..., Any])
Config = TypeVar("Config")

run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def choice_option(name: str, choices: Any, default: str, help: str) -> Callable[[Command], Command]:
    """Add an option for one of the values of a ``Literal`` type."""
    return click.option(name, type=click.Choice(get_args(choices)), default=default, show_default=True, help=help)


def folder_option(content: str, help: str, required: bool = True) -> Callable[[Command], Command]:
    """Add ``--out`` and ``--overwrite``."""

    def decorate(command: Command) -> Command:
        command = click.option("--overwrite", is_flag=True, help=f"Replace {content} in --out.")(command)
        return click.option("--out", required=required, type=click.Path(path_type=Path), help=help)(command)

    return decorate


device_option = choice_option("--device", Device, "auto", "Where to compute.")
id_file = click.Path(dir_okay=False, path_type=Path)


def option_name(name: str) -> str:
    """Return the option of a field."""
    return "--" + name.replace("_", "-")


class Pair(click.ParamType):
    """``NAME=VALUE``, with a value of a given type, as a dictionary."""

    def __init__(self, value_type: type) -> None:
        self.name = f"name={'file' if value_type is str else 'number'}"
        self._value_type = value_type

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, tuple):
            key, text = value
        else:
            # A name may hold an equals sign, and so may a path.
            split = str(value).partition if self._value_type is str else str(value).rpartition
            key, _, text = split("=")
        try:
            if not key or text == "":
                raise ValueError
            return {str(key): self._value_type(str(text))}
        except ValueError:
            return self.fail(f"{value!r} is not of the form {self.name.upper()}.", param, ctx)


class FeatureFile(Pair):
    """``MODALITY=FILE``, or a folder of features, which stands for all files in it."""

    def __init__(self) -> None:
        super().__init__(str)
        self.name = "modality=file|folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, str):
            if os.path.isdir(value):
                return {modality: str(file) for modality, file in find_features(Path(value)).items()}
            if "=" not in value:
                self.fail(f"There is no folder {value!r}. Pass a folder of features, or MODALITY=FILE.", param, ctx)
        return super().convert(value, param, ctx)


def each_name_once(_ctx: click.Context, param: click.Parameter, found: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Join dictionaries that have no name in common."""
    names = [name for each in found for name in each]
    if duplicates := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{param.opts[0]} names {duplicates[0]!r} more than once.")
    return {name: value for each in found for name, value in each.items()}


def features_option(help: str, required: bool = False) -> Callable[[Command], Command]:
    """Add ``--features``: files by modality."""
    return click.option(
        "--features", required=required, multiple=True, type=FeatureFile(), callback=each_name_once, help=help
    )


def config_options(*configs: type, skip: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Add an option for each field of ``configs``; :func:`take` is the way back."""

    def decorate(command: Command) -> Command:
        for config in reversed(configs):
            for name, attributes in reversed(_declared(config, {}, skip)):
                command = click.option(name, **attributes)(command)
        return command

    return decorate


def config_params(config: type, defaults: Mapping[str, Any] | None = None) -> list[click.Option]:
    """Return the options of :func:`config_options`, some with other defaults."""
    return [click.Option([name], **attributes) for name, attributes in _declared(config, defaults or {})]


def _declared(
    config: type, defaults: Mapping[str, Any], skip: tuple[str, ...] = ()
) -> list[tuple[str, dict[str, Any]]]:
    """Return name and attributes of the option for each field."""
    hints = get_type_hints(config)
    fields = [field for field in dataclasses.fields(config) if field.name not in skip]
    # A class's own fields come before inherited ones.
    fields.sort(key=lambda field: field.name not in config.__annotations__)
    return [_option(field, hints[field.name], defaults) for field in fields]


def _option(field: "dataclasses.Field[Any]", hint: Any, defaults: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, doc = option_name(field.name), field.metadata["doc"]
    if get_origin(hint) is dict:
        value_type = get_args(hint)[1]
        pair = FeatureFile() if value_type is str else Pair(value_type)
        return name, {"multiple": True, "type": pair, "callback": each_name_once, "help": doc}
    default = defaults.get(field.name, field.default)
    attributes = {"default": default, "show_default": True, "help": doc}
    if hint is bool:  # both forms, as a preset or a configuration file may set either
        return f"{name}/--no-{name.removeprefix('--')}", attributes
    # Read before --preset, whose default depends on it.
    return name, {**attributes, "type": _click_type(field, hint), "is_eager": field.name == "sampling"}


def _click_type(field: "dataclasses.Field[Any]", hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if get_origin(hint) is types.UnionType:
        hint = get_args(hint)[0]
    low, high, low_open = field.metadata["min"], field.metadata["max"], field.metadata["min_open"]
    if hint is int:
        return click.IntRange(low, high)
    if hint is float:
        return click.FloatRange(low, high, min_open=low_open)
    return str


def take(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Make a ``config`` of the values that click parsed."""
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    return config(**{name: values[name] for name in names})


def config_file_option(command: Command) -> Command:
    """Add ``--config``: a YAML file whose entries replace the defaults of options."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_use_config_file,
        help="YAML file with any of these options, such as config.yaml of a run. Options on the command line win. "
        "Paths are relative to the working directory.",
    )(command)


def read_settings(path: Path) -> dict[Any, Any]:
    """Read the YAML file of ``--config``."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read --config {path} ({error}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also invalid dates and deep nesting
        raise ConfigError(f"--config {path} is not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path} must hold 'option: value' lines.")
    return settings


# Where click keeps the names of the options in a --config file.
_IN_FILE = f"{__name__}.in_file"


def _use_config_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    options = {str(param.name): param for param in ctx.command.params if isinstance(param, click.Option)}
    del options["config"]
    defaults: dict[str, Any] = {}
    for key, value in read_settings(path).items():
        name = str(key).replace("-", "_")
        if name == "model" and name not in options:
            if value != LIRDRecConfig.model:
                raise ConfigError(f"--config {path} is for --model {value}. This command is for {LIRDRecConfig.model}.")
            continue
        if name not in options:
            close = difflib.get_close_matches(name, options, 1)
            hint = f", did you mean {close[0]!r}?" if close else "."
            raise ConfigError(f"--config {path} has an unknown option {key!r}{hint}")
        if value is None:
            continue
        entries = value.values() if isinstance(value, dict) else [value]
        # The value is not shown: with aliases, a short file can hold more than fits into memory.
        if options[name].multiple != isinstance(value, dict) or any(isinstance(e, (list, dict, set)) for e in entries):
            kind = "'name: value' lines below it" if options[name].multiple else "a single value"
            raise ConfigError(f"--config {path} has a {type(value).__name__} for {key!r}, which takes {kind}.")
        # As text, so that a value is checked as one on the command line is.
        defaults[name] = list(value.items()) if isinstance(value, dict) else str(value)
    ctx.meta[_IN_FILE] = [*defaults]
    # These win over a preset.
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def preset_option(default: Preset) -> Callable[[Command], Command]:
    """Add ``--preset``, whose settings replace the defaults of options.

    Where the default is 'best', it is 'paper' beside a file of settings, which says what differs from the defaults of
    the paper, and beside ``--sampling neighbors``, for which 'best' has no loss.
    """
    fast = ", ".join(f"{option_name(name)} {value:g}" for name, value in PRESETS["fast"].items())
    exceptions = " By default 'paper' with --config and with --sampling neighbors." if default == "best" else ""
    return click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default=default,
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=_apply_preset,
        help="'best' recommends best, by a softmax over all items, averaged weights, a linear model beside, and a race "
        "that decides about the item graph; 'paper' trains as the paper does (--preset paper --help shows its "
        f"settings); 'fast' reaches the same validation metrics as 'paper' in a third to half of the time ({fast}). "
        f"Options on the command line or in --config win.{exceptions}",
    )


def read_preset(command: click.Command, ctx: click.Context) -> None:
    """Read ``--preset`` before the help is shown, which was asked for before, so that it has the right defaults."""
    for param in command.params:
        if param.name == "preset" and ctx.get_parameter_source("preset") is None:
            param.handle_parse_result(ctx, {}, [])


class PresetCommand(click.Command):
    """A command whose help shows the defaults of its default preset."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        read_preset(self, ctx)
        super().format_options(ctx, formatter)


def _apply_preset(ctx: click.Context, _param: click.Parameter, preset: Preset) -> None:
    """Make the settings of a preset the defaults of the other options."""
    is_given = ctx.get_parameter_source("preset") is not ParameterSource.DEFAULT
    if is_given or not (ctx.default_map or ctx.params.get("sampling") == "neighbors"):
        ctx.default_map = {**PRESETS[preset], **(ctx.default_map or {})}


def given_options(ctx: click.Context) -> set[str]:
    """Return the options that are given on the command line or in a file, other than by a preset."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return given.union(ctx.meta.get(_IN_FILE, ()))


def split_ids(option: str, text: str) -> list[str]:
    """Split comma-separated IDs."""
    ids = [part.strip() for part in text.split(",")]
    if "" in ids:
        raise ConfigError(
            f"{option} is {text!r}. Pass comma-separated IDs, such as {option} a1,b2. For IDs that contain commas, use "
            f"{option}-file."
        )
    return ids
