import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.cli.catalog import check_catalog_options, id_col_option, title_option
from lirdrec_pyg.cli.interrupt import Interrupt
from lirdrec_pyg.cli.options import config_options, features_option, folder_option, id_file, run_argument, take
from lirdrec_pyg.cli.output import counted, table
from lirdrec_pyg.cli.progress import Progress
from lirdrec_pyg.data import ColumnConfig, DataConfig, feature_widths, read_new_items
from lirdrec_pyg.data.extend import knows_all
from lirdrec_pyg.data.interactions import columns_of_training, parse_interactions
from lirdrec_pyg.data.tables import read_table
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.update import UpdateConfig, check_link
from lirdrec_pyg.recommender.update import promote as promote_run

_SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


@click.command(context_settings={"max_content_width": 100})
@run_argument
@click.option(
    "--data",
    required=True,
    type=id_file,
    help="Table of the new interactions. Those that are known already count once.",
)
@features_option(
    "MODALITY=FILE, repeatable, or a folder made by 'features': features of items that RUN does not know. Known items "
    "get those that were missing.",
)
@click.option("--ids", type=id_file, help="Text file with one item ID per line, for feature files without IDs.")
@click.option(
    "--items", type=id_file, help="Table of the items, with titles and other columns, instead of that of RUN."
)
@id_col_option
@title_option
@folder_option("the run", "Run folder to create, other than RUN.")
@config_options(UpdateConfig)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="The gate: by which part Recall@20 may fall, compared with RUN, on the latest interactions and on those for "
    "validation.",
)
@click.option(
    "--promote",
    type=click.Path(path_type=Path),
    help="Symbolic link to point to --out if the update passes the gate, such as runs/current, which a service reads.",
)
@config_options(ColumnConfig, skip=("label_column",))
@click.pass_context
def update(
    ctx: click.Context,
    run: Path,
    data: Path,
    features: dict[str, str],
    ids: Path | None,
    items: Path | None,
    id_col: str | None,
    title: str | None,
    out: Path,
    overwrite: bool,
    max_drop: float,
    promote: Path | None,
    **values: Any,
) -> None:
    """Train the model in RUN further, with later interactions, users and items.

    All weights start from their present values, new users from the items they interacted with, new items from their
    features. The training passes over all interactions, old and new, and stops when the validation no longer improves,
    after a few epochs in most cases.

    Options of columns are those of the training of RUN, unless given.

    The run in --out is compared with RUN on the interactions of known users that were held out. If Recall@20 falls by
    more than --max-drop, on the latest ones or on those for validation, the run is written, but not promoted, and the
    exit code is 3.

    Where RUN is the link of --promote, the same command again has nothing to do.

    \b
    Every night, for a service that reads runs/current:
      lirdrec-pyg update runs/current --data clicks_today.csv --features features_today \\
        --out runs/2026-05-31 --promote runs/current
    """
    if promote is not None:
        check_link(promote)
    check_catalog_options(items, id_col)
    keep_freed_memory()
    recommender = Recommender.load(run.resolve())  # the link may point elsewhere meanwhile
    if items is not None:
        recommender = recommender.with_catalog(read_table(items), title=title, id_col=id_col)
    config = recommender.dataset.config or DataConfig()
    given = [
        entry.name
        for entry in fields(ColumnConfig)
        if ctx.get_parameter_source(entry.name) is ParameterSource.COMMANDLINE
    ]
    explicit = {name: values[name] for name in given}
    reading = replace(config, **explicit)
    rows = read_table(data, reading.separator, reading.header)
    columns = replace(columns_of_training(config, rows.columns), **explicit)
    is_promoted = promote is not None and run.resolve() == out.resolve() == promote.resolve()
    if is_promoted and knows_all(recommender.dataset, parse_interactions(rows, columns, "none", data)):
        if is_first_process():
            click.echo(f"{promote} points to {out}, which has all interactions of {data}: nothing to do.")
        return
    new = None
    if features:
        new = read_new_items(
            features,
            feature_widths(recommender.graph),
            ids,
            zero_features=config.zero_features,
            item_column=columns.item_column,
            facts=recommender.dataset.facts,
            known=recommender.items,
        )
    with Interrupt() as interrupt, closing(Progress()) as progress:
        updated = recommender.update(
            data,
            new,
            out,
            config=take(UpdateConfig, values),
            columns=columns,
            callbacks=(interrupt, progress),
            overwrite=overwrite,
        )
    assert updated.metrics is not None
    if is_first_process():
        _report(updated.dataset.facts, updated.metrics)
        click.echo(f"The run is in {out}")
    if interrupt.signal is not None:
        if promote is not None and is_first_process():
            click.echo("The update was interrupted: not promoted.", err=True)
        sys.exit(128 + interrupt.signal)
    drop = updated.metrics["update"]["drop"] if "update" in updated.metrics else 0
    if drop > max_drop:
        if is_first_process():
            click.echo(f"Recall@20 fell by {drop:.1%}, more than --max-drop {max_drop:g}: not promoted.", err=True)
        sys.exit(3)
    if promote is not None and is_first_process():
        promote_run(out, promote)
        click.echo(f"{promote} points to {out}")


def _report(facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    added = ", ".join(counted(facts[f"{kind}s added"], kind) for kind in ("interaction", "user", "item"))
    if number := facts["items with more features"]:
        added += f", missing features of {counted(number, 'item')}"
    which = "Best" if "valid" in metrics else "Last"
    click.echo(f"\nAdded: {added}. {which} epoch {metrics['best_epoch']} of {metrics['epochs']}.")
    if "update" not in metrics:
        return
    for split, title in (("valid", "Validation interactions"), ("test", "Latest interactions")):
        gate = metrics["update"][split]
        rows = [[name, f"{gate['before'][name]:.4f}", f"{gate['after'][name]:.4f}"] for name in _SHOWN]
        click.echo(f"{title}, {gate['users']:,} known users:\n{table([['', 'before', 'after'], *rows])}")
