"""The command line: ``lirdrec-pyg``."""

import logging
import warnings
from typing import Any

import click

from lirdrec_pyg._version import __version__
from lirdrec_pyg.cli.add_items import add_items
from lirdrec_pyg.cli.analyze import analyze
from lirdrec_pyg.cli.check_features import check_features
from lirdrec_pyg.cli.evaluate import evaluate
from lirdrec_pyg.cli.explain import explain
from lirdrec_pyg.cli.export import export
from lirdrec_pyg.cli.features import features
from lirdrec_pyg.cli.fit import fit
from lirdrec_pyg.cli.info import info
from lirdrec_pyg.cli.recommend import recommend
from lirdrec_pyg.cli.similar import similar
from lirdrec_pyg.cli.tune import tune
from lirdrec_pyg.environment import is_first_process
from lirdrec_pyg.errors import LIRDRecError


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if is_first_process():
        click.echo(f"Warning: {message}", err=True)


class _Log(logging.Handler):
    """Shows what the package logs: what it does on the standard output, what is amiss on the other."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            click.echo(self.format(record))
        else:
            click.echo(f"Warning: {self.format(record)}", err=True)


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        logger, log = logging.getLogger("lirdrec_pyg"), _Log()
        level = logger.level
        logger.setLevel(logging.INFO)
        if is_first_process():  # of several that train together only this one speaks
            logger.addHandler(log)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(130)
        except LIRDRecError as error:
            if is_first_process():
                click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        finally:
            logger.removeHandler(log)
            logger.setLevel(level)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lirdrec-pyg")
def main() -> None:
    """Multimodal recommendation without item IDs: LIRDRec on PyTorch Geometric.

    \b
    Try it on generated data:
      lirdrec-pyg fit --data synthetic --out runs/demo --lr 1e-3 --epochs 30
    Look at a data set of your own, then train on it:
      lirdrec-pyg info  shop/
      lirdrec-pyg fit --data shop/ --out runs/shop
    Make its features from a table of texts, pictures and sounds:
      lirdrec-pyg features catalogue.csv --text-cols title --image-col picture --out features
    Compute the test figures again from what was saved:
      lirdrec-pyg evaluate runs/shop
    Use it, and add the items that came today:
      lirdrec-pyg recommend runs/shop --all --out recommendations.parquet
      lirdrec-pyg add-items runs/shop --features image=new.npy --ids new.txt --out runs/shop-noon
    """


_COMMANDS = (
    *(fit, features, check_features, evaluate, info, recommend, add_items),
    *(similar, explain, export, analyze, tune),
)
for command in _COMMANDS:
    main.add_command(command)
