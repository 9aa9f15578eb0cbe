"""A command whose options depend on the model that it trains."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lirdrec_pyg.cli.options import config_params, option_name, read_preset, read_settings
from lirdrec_pyg.data import DataConfig
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import MODEL_CONFIGS, LIRDRecConfig, ModelConfig
from lirdrec_pyg.training import TrainingConfig

_MOST_USED = ("data", "items", "features", "out", "model", "preset", "epochs", "refit", "device", "resume")
_SAMPLING = (
    *("batch_size", "negatives", "popularity_alpha", "edge_dropout"),
    *("sampling", "fanout", "sampling_workers", "user_gradients", "sparse_backend"),
)
# The settings of a training that a model in closed form uses.
_OF_CLOSED_FORMS = ("seed", "device", "refit")


class ModelCommand(click.Command):
    """A command with the options of the model that ``--model``, or else the file of ``--config``, names.

    It is written without these, and without those of :class:`~lirdrec_pyg.training.TrainingConfig`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._common = self.params
        self._add_options(LIRDRecConfig)

    def _add_options(self, config: type[ModelConfig]) -> None:
        self.config = config
        common = [param for param in self._common if config is LIRDRecConfig or param.name != "preset"]
        training = config_params(TrainingConfig, config.training_defaults)
        for param in training:
            param.hidden = config.is_closed_form and param.name not in _OF_CLOSED_FORMS
        self.params = [*common, *config_params(config), *training]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        command = copy.copy(self)
        command._add_options(MODEL_CONFIGS.get(_model_in(args), LIRDRecConfig))
        if parent is not None:
            parent.obj = command  # whose options the messages name
        return super(ModelCommand, command).make_context(info_name, args, parent, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options by what they are about, those that most people use first."""
        read_preset(self, ctx)
        left = {param.name: record for param in self.get_params(ctx) if (record := param.get_help_record(ctx))}
        groups = {
            "Most used": _MOST_USED,
            "Data": _field_names(DataConfig),
            f"Model ({self.config.model})": _field_names(self.config),
            "Sampling": _SAMPLING,
            "Training": _field_names(TrainingConfig),
            "Output": list(left),
        }
        for title, names in groups.items():
            if records := [left.pop(name) for name in names if name in left]:
                with formatter.section(title):
                    formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            left = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if owners := _owners(error.option_name):
                raise click.UsageError(
                    f"{error.option_name} is an option of --model {', '.join(owners)}, not of {self.config.model}.", ctx
                ) from error
            raise
        for param in ctx.command.params:
            given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
            if given and getattr(param, "hidden", False):
                raise click.UsageError(
                    f"{param.opts[0]} has no meaning for --model {self.config.model}, a model in closed form.",
                    ctx,
                )
        return left


def _model_in(args: list[str]) -> str:
    """Return the model that ``--model`` or the file of ``--config`` names, before other options are known."""
    peek = click.Command(
        "peek",
        params=[click.Option(["--model"]), click.Option(["--config"])],
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    found = peek.make_context("peek", list(args), resilient_parsing=True).params
    if found["model"] is not None or found["config"] is None:
        return str(found["model"])
    try:
        return str(read_settings(Path(found["config"])).get("model"))
    except ConfigError:
        return ""  # reported when the file is read again


def _field_names(config: type) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def _owners(option: str) -> list[str]:
    """Return the models that have the option."""
    if option == "--preset":
        return [LIRDRecConfig.model]
    name = option.replace("--no-", "--")
    return [model for model, config in MODEL_CONFIGS.items() if name in map(option_name, _field_names(config))]
