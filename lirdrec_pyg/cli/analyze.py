import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lirdrec_pyg.callback import Callback, CallbackList
from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.options import config_file_option, config_options, folder_option, preset_option, run_argument, take
from lirdrec_pyg.cli.output import print_frame
from lirdrec_pyg.cli.parameters import as_options
from lirdrec_pyg.cli.progress import Progress
from lirdrec_pyg.data import DataConfig, Dataset
from lirdrec_pyg.experiments import fusion_weights
from lirdrec_pyg.experiments import gradient_bias as bias
from lirdrec_pyg.experiments.plots import draw_fusion, draw_gradient_bias
from lirdrec_pyg.files import check_output_folder, write_file
from lirdrec_pyg.models import LIRDRecConfig
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.training import Trainer, TrainingConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)


@click.group()
@click.pass_context
def analyze(ctx: click.Context) -> None:
    """Measure what happens in a training: gradients of IDs and features, weights of the fusion."""
    assert ctx.invoked_subcommand is not None
    ctx.find_root().obj = analyze.commands[ctx.invoked_subcommand]  # whose options messages name


@analyze.command("gradient-bias", context_settings={"max_content_width": 100})
@click.option("--data", required=True, help=DataConfig.doc("data"))
@folder_option("an earlier analysis", "Folder for table, plot and verdict.")
@config_file_option
@preset_option("paper")
@config_options(DataConfig, LIRDRecConfig, TrainingConfig, skip=("data",))
def gradient_bias(out: Path, overwrite: bool, **values: Any) -> None:
    """Test whether features get larger updates than ID vectors, which stay poor.

    This finding of the paper is why LIRDRec has no item IDs. The model is trained with an additional branch 'id', in
    which items have free vectors. For each epoch and branch, the gradient of what makes the item vectors, the gradient
    with respect to the item vectors, their change, and the validation Recall@20 of the branch alone are measured. A
    second training with shuffled features is the control. The verdict is computed from these numbers; there is none
    while Recall@20 still rises, or if a difference may be noise.

    \b
    --out then holds
      gradient_bias.csv   one line per training, epoch and branch
      gradient_bias.png   gradients on a log scale and Recall@20 by epoch (extra 'plot')
      verdict.txt         the updates, and the verdict

    Ctrl-C ends the training; earlier measurements are written.
    """
    keep_freed_memory()
    data_config, model_config = take(DataConfig, values), take(LIRDRecConfig, values)
    training_config = take(TrainingConfig, values)
    bias.check_before(model_config, training_config)
    _check_before(out, ("gradient_bias.csv", "verdict.txt", "gradient_bias.png"), overwrite)
    dataset = Dataset.from_path(data_config, seed=training_config.seed)
    with Interrupt() as interrupt, closing(Progress()) as progress:
        callback = CallbackList((interrupt, _Titles(), progress))
        table = bias.measure_gradient_bias(dataset, model_config, training_config, callback)
    if len(table):
        text = as_options("\n".join(bias.verdict(table)), click.get_current_context().command)
        click.echo(f"\n{text}\n")
        files: dict[str, Callable[[Path], object]] = {
            "gradient_bias.csv": table.write_csv,
            "verdict.txt": lambda path: path.write_text(text + "\n", "utf-8"),
        }
        _write(out, files, "gradient_bias.png", lambda: draw_gradient_bias(table))
    if interrupt.signal is not None:
        sys.exit(128 + interrupt.signal)


class _Titles(Callback):
    def __init__(self) -> None:
        self._titles = iter(("Items with their own features:", "Items with shuffled features:"))

    def on_fit_start(self, trainer: Trainer) -> None:
        click.echo(next(self._titles))


@analyze.command()
@run_argument
@folder_option("an earlier analysis", "Folder for tables and plot; by default RUN-fusion.", required=False)
def fusion(run: Path, out: Path | None, overwrite: bool) -> None:
    """Show the weights of network and memory by epoch in RUN, and those of the branches by user.

    \b
    --out then holds
      fusion_schedule.csv   one line per epoch: weights of the network and of the memory
      fusion_weights.csv    one line per user: weight of each branch in the best epoch
      fusion_summary.csv    one line per branch: mean, standard deviation and quantiles over the users, and the share of
                            users for whom it is the heaviest, more than 5 % above each other branch
      fusion.png            plot of both (extra 'plot')
    """
    out = out or run.absolute().with_name(f"{run.absolute().name}-fusion")
    tables = "fusion_schedule.csv", "fusion_weights.csv", "fusion_summary.csv"
    _check_before(out, (*tables, "fusion.png"), overwrite)
    found = fusion_weights(Recommender.load(run))
    summary = found.summary()
    if len(found.schedule):
        network, memory = (found.schedule[column][-1] for column in ("network_weight", "memory_weight"))
        click.echo(
            f"In the last epoch, {len(found.schedule)}, the weight of the network is {network:.3g} and that of the "
            f"memory {memory:.3g}; the best epoch is {found.best_epoch}.\n"
            f"Weights of the branches, over {len(found.users)} users:\n"
        )
    print_frame(summary)
    if (equal := 1 - summary["heaviest"].sum()) > 0.0005:
        click.echo(f"\n{equal:.1%} of the users have no heaviest branch: their largest weights are equal (within 5 %).")
    click.echo()
    files = {name: table.write_csv for name, table in zip(tables, (found.schedule, found.by_user(), summary))}
    _write(out, files, "fusion.png", lambda: draw_fusion(found))


def _check_before(out: Path, files: tuple[str, ...], overwrite: bool) -> None:
    check_output_folder(out, files, files[0], overwrite)
    if find_spec("matplotlib") is None:
        _log.warning("matplotlib is not installed, so there will be no plot: pip install 'lirdrec-pyg[plot]'.")


def _write(out: Path, files: Mapping[str, Callable[[Path], object]], plot: str, draw: "Callable[[], Figure]") -> None:
    """Write files, and a plot if matplotlib is installed; print what was written."""
    if find_spec("matplotlib") is not None:
        files = {**files, plot: lambda path: draw().savefig(path, dpi=150)}
    out.mkdir(parents=True, exist_ok=True)
    for name, write in files.items():
        write_file(out, name, write)
    click.echo(f"Written to {out}: {', '.join(files)}")
