"""The command line: ``lirdrec-pyg``."""

import gc
import importlib
import io
import logging
import sys
import warnings
from types import ModuleType
from typing import Any

import click

from lirdrec_pyg._version import __version__
from lirdrec_pyg.cli.parameters import as_options
from lirdrec_pyg.errors import LIRDRecError
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.log_level import log_level
from lirdrec_pyg.threads import prepare_threads

# Each command is a module of this package. These lines are here so that showing them does not load torch.
COMMANDS = {
    "fit": "Train a model, evaluate it on the test split, and save the run.",
    "features": "Encode the texts, images and audio of a catalog.",
    "check-features": "Check features for invalid, missing and duplicate rows.",
    "evaluate": "Compute the metrics of a run again.",
    "info": "Describe a data set.",
    "recommend": "Recommend items by a trained model.",
    "update": "Train a model further, with later clicks, users and items.",
    "add-items": "Add new items to a trained model, without training.",
    "similar": "List the items most similar to one item.",
    "explain": "Explain the score of an item for a user.",
    "export": "Write the vectors of all users and items.",
    "report": "Show what a model learned, in one HTML file.",
    "serve": "Answer requests over HTTP by a trained model.",
    "analyze": "Measure what happens in a training.",
    "tune": "Search for the best settings on validation data.",
}


class _Log(logging.Handler):
    """Prints progress to standard output, and warnings to standard error."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__()
        self._ctx = ctx

    def emit(self, record: logging.LogRecord) -> None:
        message = as_options(self.format(record), self._ctx.obj)
        if record.levelno < logging.WARNING:
            click.echo(message)
        else:
            click.echo(f"Warning: {message}", err=True)


def _imported(name: str) -> ModuleType:
    """Import a module with torch and PyG.

    None of their many objects is ever garbage, and looking for it among them takes a second while they are imported and
    another one at the exit.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(_imported(f"lirdrec_pyg.cli.{module}"), module)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from lirdrec_pyg.cli.quick import quick_answer  # here, since --help needs neither polars nor numpy

        if not ctx.resilient_parsing and (answer := quick_answer(args[0], args[1:])) is not None:
            return args[0], click.Command(args[0], callback=answer.show), []
        name, ctx.obj, left = super().resolve_command(ctx, args)
        return name, ctx.obj, left

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        prepare_threads()  # before a command loads torch
        if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error, which never fails to print
            sys.stdout.reconfigure(errors="backslashreplace")
        ctx.obj = self  # until the command is known, which may warn while it is loaded
        logger, log = logging.getLogger("lirdrec_pyg"), _Log(ctx)
        # Hints for programmers, such as on the precision of matrix products, are no progress.
        hints = log_level("lightning_fabric.utilities.rank_zero", logging.WARNING)
        if is_first_process():  # the only one of several that prints
            logger.addHandler(log)
        try:
            with log_level("lirdrec_pyg", logging.INFO), hints, warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: logger.warning("%s", message)
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(130)
        except LIRDRecError as error:
            if is_first_process() or error.is_for_each_process:
                click.echo(f"Error: {as_options(str(error), ctx.obj)}", err=True)
            ctx.exit(error.exit_code)
        finally:
            logger.removeHandler(log)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lirdrec-pyg")
def main() -> None:
    """Multimodal recommendation without item IDs: LIRDRec on PyTorch Geometric.

    \b
    Try it on generated data:
      lirdrec-pyg fit --data synthetic --out runs/demo
    Describe a data set of your own, then train on it:
      lirdrec-pyg info shop/
      lirdrec-pyg fit --data shop/ --out runs/shop
    Make features from a table of texts, images and audio:
      lirdrec-pyg features catalog.csv --text-cols title --image-col image --out features
    Compute the test metrics again from the saved run:
      lirdrec-pyg evaluate runs/shop
    Recommend, and add the items that arrived today:
      lirdrec-pyg recommend runs/shop --all --out recommendations.parquet
      lirdrec-pyg add-items runs/shop --features image=new.npy --ids new.txt --out runs/shop-noon
    """
