"""A command whose options depend on the model that it is for."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from click.core import ParameterSource

from lirdrec_pyg.cli.options import Command, config_params
from lirdrec_pyg.config import MODEL_CONFIGS, LIRDRecConfig, ModelConfig, TrainingConfig, option_name

# The settings of the training that a model goes by which is computed at once.
_OF_CLOSED_FORMS = ("seed", "device")


def model_option(command: Command) -> Command:
    """Adds ``--model``."""
    return click.option(
        "--model",
        type=click.Choice(list(MODEL_CONFIGS)),
        default=LIRDRecConfig.model,
        show_default=True,
        help="Model to train. Each has options of its own: fit --model NAME --help shows them.",
    )(command)


class ModelCommand(click.Command):
    """Has the options of the model that ``--model`` names, or else the file of ``--config``.

    It is written with the options of LIRDRec and those of :class:`~lirdrec_pyg.config.TrainingConfig`.
    """

    config: type[ModelConfig] = LIRDRecConfig

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        chosen = _named(args, "--model") or _model_in(_named(args, "--config"))
        command = self._of(MODEL_CONFIGS[chosen]) if chosen in MODEL_CONFIGS else self
        return super(ModelCommand, command).make_context(info_name, args, parent, **extra)

    def _of(self, config: type[ModelConfig]) -> "ModelCommand":
        """This command with the options of another model."""
        if config is LIRDRecConfig:
            return self
        command = copy.copy(self)
        command.config = config
        training = {param.name: param for param in config_params(TrainingConfig, config.training)}
        if config.closed_form:
            for name in training.keys() - _OF_CLOSED_FORMS:
                training[name].hidden = True
        left_out = {*(field.name for field in dataclasses.fields(LIRDRecConfig)), *training, "preset"}
        kept = [param for param in self.params if param.name not in left_out]
        command.params = [*kept, *config_params(config), *training.values()]
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            left = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if owners := _owners(error.option_name):
                raise click.UsageError(
                    f"{error.option_name} is no option of --model {self.config.model}, but of {', '.join(owners)}.", ctx
                ) from error
            raise
        if self.config.closed_form:
            self._refuse_settings_of_steps(ctx)
        return left

    def _refuse_settings_of_steps(self, ctx: click.Context) -> None:
        for param in ctx.command.params:
            given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
            if given and getattr(param, "hidden", False):
                raise click.UsageError(
                    f"{param.opts[0]} can't go with --model {self.config.model}, which is computed at once, without "
                    "training steps.",
                    ctx,
                )


def _named(args: Sequence[str], option: str) -> str | None:
    """What ``option`` is given in ``args``, before they are parsed."""
    found = None
    for arg, following in zip(args, [*args[1:], None]):
        if arg == "--":
            break
        if arg == option:
            found = following
        elif arg.startswith(f"{option}="):
            found = arg.partition("=")[2]
    return found


def _model_in(config_file: str | None) -> str | None:
    """The model that a configuration file names; what is wrong with the file is said when it is read."""
    if config_file is None:
        return None
    try:
        settings = yaml.safe_load(Path(config_file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    named = settings.get("model") if isinstance(settings, dict) else None
    return named if isinstance(named, str) else None


def _owners(option: str) -> list[str]:
    """The models that have the option."""
    if option == "--preset":
        return [LIRDRecConfig.model]
    name = option.replace("--no-", "--")
    return [
        model
        for model, config in MODEL_CONFIGS.items()
        if name in [option_name(field) for field in dataclasses.fields(config)]
    ]
