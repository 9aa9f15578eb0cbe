from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import polars as pl
from tqdm import tqdm

from lirdrec_pyg.cli.options import choice_option, config_options, device_option, id_file, run_argument, split_ids
from lirdrec_pyg.cli.output import print_frame
from lirdrec_pyg.data import read_ids, read_interactions
from lirdrec_pyg.data.interactions import ColumnConfig
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.recommender import Recommender, check_table_path, write_table
from lirdrec_pyg.recommender.ids import IDs
from lirdrec_pyg.recommender.recommend import Fallback


@click.command()
@run_argument
@click.option("--users", help="Comma-separated user IDs.")
@click.option("--users-file", type=id_file, help="Text file, one user ID per line.")
@click.option("--all", "everyone", is_flag=True, help="Recommend to all users of the training.")
@click.option("--history", help="Comma-separated item IDs of a new user.")
@click.option("--history-file", type=id_file, help="Table of interactions of new users, as fit reads it.")
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
@choice_option("--fallback", Fallback, "skip", "What unknown users, and users without training interactions, get.")
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
    fallback: Fallback,
    device: str,
    **columns: Any,
) -> None:
    """Recommend items by the trained model in RUN, by exact ranking of the whole catalog.

    Items added by add-items are included. Scores order the items of one user and cannot be compared between users.

    \b
    Print recommendations for some users:
      lirdrec-pyg recommend runs/shop --users u1,u2 -k 5
    Write recommendations for all users, with the columns user, item, rank, score:
      lirdrec-pyg recommend runs/shop --all --out recommendations.parquet
    Recommend to a new user by a few clicks:
      lirdrec-pyg recommend runs/shop --history item7,item9
    Recommend to the new users of a table, with the options of columns that fit it:
      lirdrec-pyg recommend runs/shop --history-file today.csv \\
        --user-column customer --item-column sku
    """
    ways = [users is not None, users_file is not None, everyone, history is not None, history_file is not None]
    if sum(ways) != 1:
        raise ConfigError("Pass exactly one of --users, --users-file, --all, --history and --history-file.")
    if everyone and out is None:
        raise ConfigError("--all needs a file, such as --out recommendations.parquet.")

    if history_file is None and ColumnConfig(**columns) != ColumnConfig():
        raise ConfigError("The options of columns, such as --user-column, are for --history-file.")
    if out is not None:
        check_table_path(out)
    asked: IDs | None = None if users is None else split_ids("--users", users)
    if users_file is not None:
        asked = read_ids(users_file, "users_file")
    allowed = None if candidates is None else read_ids(candidates, "candidates")
    clicks: IDs | pl.DataFrame | None = None if history is None else split_ids("--history", history)
    if history_file is not None:
        clicks = read_interactions(history_file, ColumnConfig(**columns), split="none")
    recommender = Recommender.load(run, device)
    if clicks is None:
        frames = recommender.recommend_blocks(
            asked, k=k, exclude_seen=exclude_seen, candidates=allowed, fallback=fallback
        )
    else:
        frames = iter([recommender.recommend_for_history(clicks, k=k, exclude_seen=exclude_seen, candidates=allowed)])
    if out is None:
        print_frame(pl.concat(frames))
        return
    num_rows = write_table(_with_progress(frames), out)
    click.echo(f"{num_rows:,} recommendations are in {out}")


def _with_progress(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    with tqdm(desc="recommending", unit=" users", disable=None) as bar:
        for frame in frames:
            yield frame
            bar.update(frame["user"].n_unique())
