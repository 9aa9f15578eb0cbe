import json
from pathlib import Path

import click

from lirdrec_pyg.cli.options import device_option, json_option, run_argument
from lirdrec_pyg.cli.output import print_frame, printable
from lirdrec_pyg.recommender import Recommender


@click.command()
@run_argument
@click.option("--user", required=True, help="User ID.")
@click.option("--item", required=True, help="Item ID.")
@click.option("--nearest", default=3, show_default=True, type=click.IntRange(0), help="Past items per modality.")
@json_option
@device_option
def explain(run: Path, user: str, item: str, nearest: int, as_json: bool, device: str) -> None:
    """Explain the score of an item for a user.

    The score is a dot product, so it splits into one part per modality and one for the shared branch; 'weight' is the
    weight of the branch in the user's fusion. Below are the user's other training items that are most similar to the
    item, by the raw features of each modality.
    """
    explanation = Recommender.load(run, device).explain(user, item, nearest)
    if as_json:
        shown = {
            "score": explanation.score,
            "branches": explanation.branches.to_dicts(),
            "nearest": explanation.nearest.to_dicts(),
        }
        click.echo(json.dumps(shown, indent=2))
        return
    click.echo(printable(f"score of {item} for {user}: {explanation.score:.4f}") + "\n")
    print_frame(explanation.branches)
    if len(explanation.nearest):
        click.echo("\nmost similar items of the user:")
        print_frame(explanation.nearest)
