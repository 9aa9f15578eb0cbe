from pathlib import Path
from typing import Any

import click
import polars as pl

from lirdrec_pyg.cli.catalog import catalog_options, load_with_catalog
from lirdrec_pyg.cli.explain import reasons_as_text
from lirdrec_pyg.cli.options import (
    choice_option,
    config_options,
    device_option,
    id_file,
    run_argument,
    split_ids,
    take,
)
from lirdrec_pyg.cli.output import counted, print_frame
from lirdrec_pyg.cli.progress import with_progress
from lirdrec_pyg.data import ColumnConfig, DataConfig, read_ids
from lirdrec_pyg.data.interactions import parse_interactions, with_trained_columns
from lirdrec_pyg.data.tables import read_table
from lirdrec_pyg.errors import ConfigError, listed
from lirdrec_pyg.launcher import num_processes, process_index
from lirdrec_pyg.recommender import check_table_path, write_table
from lirdrec_pyg.recommender.ids import IDs
from lirdrec_pyg.recommender.recommend import Fallback
from lirdrec_pyg.recommender.rules import Rules


@click.command()
@run_argument
@click.option("--users", help="Comma-separated user IDs.")
@click.option("--users-file", type=id_file, help="Text file, one user ID per line.")
@click.option("--all", "everyone", is_flag=True, help="Recommend to all users of the training.")
@click.option("--history", help="Comma-separated item IDs of a new user.")
@click.option(
    "--history-file",
    type=id_file,
    help="Table of interactions that came after the training, of known or new users, as fit reads it. Columns of users "
    "and items are those of the training if the table has them, else recognized by usual names.",
)
@click.option("-k", default=20, show_default=True, type=click.IntRange(1), help="Items per user.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Table to write: .parquet, .csv or .jsonl. By default, the table is printed; required with --all.",
)
@click.option(
    "--exclude-seen/--include-seen",
    default=True,
    show_default=True,
    help="Whether to leave out all known interactions of a user.",
)
@click.option("--candidates", type=id_file, help="Text file with one item ID per line: choose from these items only.")
@click.option("--exclude", type=id_file, help="Text file with one item ID per line: leave out these items.")
@config_options(Rules)
@catalog_options
@click.option("--explain", is_flag=True, help="Add the two past items with the largest shares in each score.")
@choice_option(
    "--fallback",
    Fallback,
    "skip",
    "What to recommend to users without known interactions: nothing, popular items, or an error.",
)
@device_option
@config_options(ColumnConfig, skip=("label_column", "time_column", "time_format"))
def recommend(
    run: Path,
    users: str | None,
    users_file: Path | None,
    everyone: bool,
    history: str | None,
    history_file: Path | None,
    k: int,
    out: Path | None,
    exclude_seen: bool,
    candidates: Path | None,
    exclude: Path | None,
    items: Path | None,
    id_col: str | None,
    title: str | None,
    columns: str | None,
    explain: bool,
    fallback: Fallback,
    device: str,
    **values: Any,
) -> None:
    """Recommend items by the trained model in RUN, by exact ranking of the whole catalog.

    Items added by add-items are included. Scores order the items of one user and cannot be compared between users.
    Titles are shown if the run has an item catalog.

    Several processes share the users of --all, each with a part of the folder --out, and the pages of the run:
    torchrun --nproc-per-node 4 -m lirdrec_pyg recommend runs/shop --all --out recommendations

    \b
    Print recommendations for some users:
      lirdrec-pyg recommend runs/shop --users u1,u2 -k 5
    Write recommendations for all users, with the columns user, item, rank, score, and the title:
      lirdrec-pyg recommend runs/shop --all --out recommendations.parquet
    Recommend what is in stock today, at most three items per category:
      lirdrec-pyg recommend runs/shop --users u1 --items stock.csv \\
        --where "stock > 0 AND category <> 'Socks'" --max-per category=3
    Prefer variety, and less popular items:
      lirdrec-pyg recommend runs/shop --users u1 --diversity 0.3 --popularity-penalty 0.2
    Say why, by the past items that contribute most to each score:
      lirdrec-pyg recommend runs/shop --users u1 --explain
    Recommend to a new user by a few clicks:
      lirdrec-pyg recommend runs/shop --history item7,item9
    Recommend to the users of a table whose columns have other names than the training's:
      lirdrec-pyg recommend runs/shop --history-file today.csv \\
        --user-column customer --item-column sku
    """
    ways = [users is not None, users_file is not None, everyone, history is not None, history_file is not None]
    if sum(ways) != 1:
        raise ConfigError("Pass exactly one of --users, --users-file, --all, --history and --history-file.")
    if everyone and out is None:
        raise ConfigError("--all needs a file, such as --out recommendations.parquet.")
    rules = take(Rules, values)
    column_config = ColumnConfig(**{name: value for name, value in values.items() if not hasattr(rules, name)})
    if history_file is None and column_config != ColumnConfig():
        hint = " That of --items is --id-col." if column_config.item_column else ""
        raise ConfigError(f"The options of columns, such as --user-column, are for --history-file.{hint}")
    if num_processes() > 1:
        out = _part(out, everyone)
    if out is not None:
        check_table_path(out)
    recommender, shown = load_with_catalog(run, device, items, id_col, title, columns)
    trained = recommender.dataset.config or DataConfig()
    user_column, item_column = (trained.user_column, trained.item_column) if trained.header else (None, None)
    asked: IDs | None = None if users is None else split_ids("--users", users)
    if users_file is not None:
        asked = read_ids(users_file, "users_file", user_column)
    clicks: IDs | pl.DataFrame | None = None if history is None else split_ids("--history", history)
    if history_file is not None:
        clicks = _read_history(history_file, column_config, trained)
    options: dict[str, Any] = {
        "k": k,
        "exclude_seen": exclude_seen,
        "candidates": None if candidates is None else read_ids(candidates, "candidates", item_column),
        "exclude": None if exclude is None else read_ids(exclude, "exclude", item_column),
        "fallback": fallback,
        "columns": shown,
        **vars(rules),
    }
    if explain:
        recommender.model_config.require("explanations")
    if num_processes() > 1:
        asked = recommender.users.ids.gather_every(num_processes(), process_index())
    if clicks is None:
        frames = recommender.recommend_blocks(asked, **options)
    else:
        frames = iter([recommender.recommend_for_history(clicks, **options)])
    if explain:
        frames = (recommender.because(frame, history=clicks) for frame in frames)
    if out is None:
        frame = pl.concat(frames)
        print_frame(reasons_as_text(frame) if explain else frame)
        return
    num_rows = write_table(with_progress(frames, "recommending", "user"), out)
    click.echo(f"{counted(num_rows, 'recommendation is', 'recommendations are')} in {out}")


def _read_history(path: Path, columns: ColumnConfig, trained: DataConfig) -> pl.DataFrame:
    frame = read_table(path, columns.separator, columns.header)
    return parse_interactions(frame, with_trained_columns(columns, trained, frame.columns), "none", path)


def _part(out: Path | None, everyone: bool) -> Path:
    """Return the file of this process in the folder ``out``."""
    if not everyone or out is None or out.suffix:
        raise ConfigError("Several processes write a folder for all users: pass --all and --out FOLDER.")
    count = f"-of-{num_processes():05}.parquet"
    try:
        out.mkdir(exist_ok=True)
        others = sorted(path.name for path in out.iterdir() if count not in path.name)
    except OSError as error:
        raise ConfigError(f"Cannot write {out} ({error}). Pass another folder as `out`.") from error
    if others:
        raise ConfigError(f"{out} holds other files ({listed(others)}). Pass another folder as `out`.")
    return out / f"part-{process_index():05}{count}"
