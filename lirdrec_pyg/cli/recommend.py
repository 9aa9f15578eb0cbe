from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import click
import polars as pl
from tqdm import tqdm

from lirdrec_pyg.cli.run_options import device_option, print_frame, run_argument, split_ids
from lirdrec_pyg.config import Fallback
from lirdrec_pyg.errors import ConfigError

_NEW_USER = "new user"


@click.command()
@run_argument
@click.option("--users", help="User IDs, with commas between them.")
@click.option("--users-file", type=click.Path(dir_okay=False, path_type=Path), help="Text file, one user ID a line.")
@click.option("--all", "everyone", is_flag=True, help="All users of the training.")
@click.option("--history", help="Items that a new user took, with commas between them; the user need not be known.")
@click.option(
    "--history-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Table of what new users took, with a column of users and one of items, as fit reads it.",
)
@click.option("-k", default=20, show_default=True, type=click.IntRange(1), help="Items a user.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Table to write: .parquet, .csv or .jsonl. Without it, a table is printed; not with --all.",
)
@click.option(
    "--exclude-seen/--include-seen",
    default=True,
    show_default=True,
    help="Whether to leave out what a user has in training.",
)
@click.option(
    "--candidates",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Text file, one item ID a line: choose from these items only.",
)
@click.option(
    "--fallback",
    type=click.Choice(get_args(Fallback)),
    default="skip",
    show_default=True,
    help="What users get who are unknown or have no training interactions.",
)
@device_option
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
) -> None:
    """Recommend items by the trained model in RUN, exactly, from the whole catalogue.

    Items added by add-items are in the catalogue. Scores are dot products: they order the items of
    one user, and say nothing between users.

    \b
    For some users, printed:
      lirdrec-pyg recommend runs/shop --users u1,u2 -k 5
    For everybody, into a file with the columns user, item, rank, score:
      lirdrec-pyg recommend runs/shop --all --out recommendations.parquet
    For somebody new, by a few clicks:
      lirdrec-pyg recommend runs/shop --history item7,item9
    """
    ways = [users is not None, users_file is not None, everyone, history is not None, history_file is not None]
    if sum(ways) != 1:
        raise ConfigError(
            "Say whom to recommend to by one of --users, --users-file, --all, --history and --history-file."
        )
    if everyone and out is None:
        raise ConfigError("--all needs a file: name one with --out, such as --out recommendations.parquet.")

    from lirdrec_pyg.data import read_ids, read_interactions
    from lirdrec_pyg.serving import Recommender, check_table_path, write_table

    if out is not None:
        check_table_path(out)
    asked = None if users is None else split_ids("--users", users)
    if users_file is not None:
        asked = read_ids(users_file, "--users-file")
    allowed = None if candidates is None else read_ids(candidates, "--candidates")
    taken: dict[str, pl.Series] | pl.DataFrame = {}
    if history is not None:
        taken = {_NEW_USER: split_ids("--history", history)}
    if history_file is not None:
        taken = read_interactions(history_file)
    recommender = Recommender.load(run, device)
    if history is None and history_file is None:
        frames = recommender.recommend_blocks(asked, k, exclude_seen, allowed, fallback)
    else:
        frames = iter([recommender.recommend_for_history(taken, k=k, exclude_seen=exclude_seen, candidates=allowed)])
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
