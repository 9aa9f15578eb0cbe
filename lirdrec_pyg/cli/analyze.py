import sys
from pathlib import Path
from typing import Any

import click

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.options import config_file_option, config_options, preset_option, take
from lirdrec_pyg.cli.progress import Progress
from lirdrec_pyg.cli.run_options import print_frame, run_argument
from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig

_overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an earlier analysis in --out.")


@click.group()
def analyze() -> None:
    """Measure what a training does: the updates of IDs and features, the weights of the fusion."""


@analyze.command("gradient-bias", context_settings={"max_content_width": 100})
@click.option("--data", required=True, help=DataConfig.doc("data"))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for table, figure and verdict.")
@_overwrite_option
@config_file_option
@preset_option
@config_options(DataConfig, LIRDRecConfig, TrainingConfig, skip=("data",))
def gradient_bias(out: Path, overwrite: bool, **values: Any) -> None:
    """Show whether features get the larger updates, and ID vectors stay poor.

    That is the finding by which LIRDRec has no item IDs. The model is trained with a further branch 'id', in
    which items have free vectors; for each epoch and branch are measured: the gradient of what makes the
    item vectors, the gradient with respect to these, their change, and the validation Recall@20 of the
    branch alone. A second training, in which each item has the features of another one, shows how much of that
    is owed to what the features say. The verdict is computed from the figures, whichever way they fall.

    \b
    --out then holds
      gradient_bias.csv   a line for each training, epoch and branch
      gradient_bias.png   gradients in log scale and Recall@20 over the epochs (extra 'plot')
      verdict.txt         two sentences

    Ctrl-C ends the training; what was measured until then is written.
    """
    from lirdrec_pyg.analysis import AnalysisFolder
    from lirdrec_pyg.analysis import gradient_bias as bias
    from lirdrec_pyg.datasets import load_data
    from lirdrec_pyg.training import Hooks, Trainer

    table_name, figure_name, verdict_name = "gradient_bias.csv", "gradient_bias.png", "verdict.txt"
    keep_freed_memory()
    data_config, model_config = take(DataConfig, values), take(LIRDRecConfig, values)
    training_config = take(TrainingConfig, values)
    bias.check_before(model_config, training_config)
    folder = AnalysisFolder(out, (table_name, figure_name, verdict_name), overwrite)
    data = load_data(data_config, training_config.seed)
    with Interrupt() as interrupt, Progress() as progress:
        whose = iter(("their own features", "the features of other items, dealt out by lot"))

        def on_start(trainer: Trainer) -> None:
            interrupt.listen()
            click.echo(f"Items with {next(whose)}:")
            progress.start(trainer)

        hooks = Hooks(on_start, progress.step, progress.epoch, lambda: interrupt.signal is not None)
        table = bias.measure_gradient_bias(data.graph, model_config, training_config, hooks)
    if len(table):
        sentences = bias.verdict(table)
        folder.save_table(table_name, table)
        folder.save_text(verdict_name, "\n".join(sentences))
        folder.save_figure(figure_name, lambda: bias.draw(table))
        click.echo("\n" + "\n".join(sentences))
        click.echo(f"\nTable and figure are in {out}")
    if interrupt.signal is not None:
        sys.exit(128 + interrupt.signal)


@analyze.command()
@run_argument
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for tables and figure; by default RUN-fusion, beside RUN."
)
@_overwrite_option
def fusion(run: Path, out: Path | None, overwrite: bool) -> None:
    """Show how the weight moved from network to memory in RUN, and which branches its users listen to.

    \b
    --out then holds
      fusion_schedule.csv   a line an epoch: the weight of the network and of the memory
      fusion_weights.csv    a line a user: the weight of each branch by the best epoch
      fusion_summary.csv    a line a branch: mean, spread and quantiles over the users
      fusion.png            both in a figure (extra 'plot')
    """
    from lirdrec_pyg.analysis import AnalysisFolder, fusion_weights
    from lirdrec_pyg.analysis.fusion import draw
    from lirdrec_pyg.training import Run

    out = out or run.absolute().with_name(f"{run.absolute().name}-fusion")
    names = "fusion_schedule.csv", "fusion_weights.csv", "fusion_summary.csv", "fusion.png"
    opened = Run.open(run)
    folder = AnalysisFolder(out, names, overwrite)
    found = fusion_weights(opened)
    for name, table in zip(names, (found.schedule, found.by_user(), found.summary()), strict=False):
        folder.save_table(name, table)
    folder.save_figure(names[-1], lambda: draw(found))
    if len(found.schedule):
        network, memory = (found.schedule[column][-1] for column in ("network_weight", "memory_weight"))
        click.echo(
            f"In the last epoch, {len(found.schedule)}, the network has the weight {network:.3g} and the memory "
            f"{memory:.3g}; the best epoch is {found.best_epoch}.\n"
            f"Weights of the branches, over {len(found.users)} users:\n"
        )
    print_frame(found.summary())
    click.echo(f"\nTables and figure are in {out}")
