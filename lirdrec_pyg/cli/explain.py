import json
from pathlib import Path

import click

from lirdrec_pyg.cli.run_options import device_option, print_frame, run_argument


@click.command()
@run_argument
@click.option("--user", required=True, help="User ID.")
@click.option("--item", required=True, help="Item ID.")
@click.option("--nearest", default=3, show_default=True, type=click.IntRange(0), help="Past items in each modality.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@device_option
def explain(run: Path, user: str, item: str, nearest: int, as_json: bool, device: str) -> None:
    """Say where the score of an item for a user comes from.

    The score is a dot product, so it splits into one part for each modality and one for the shared
    branch; 'weight' is what the fusion gives the branch for this user. Below stand the items the user
    had in training that are most similar to the item, by the raw features of each modality.
    """
    from lirdrec_pyg.serving import Recommender

    explanation = Recommender.load(run, device).explain(user, item, nearest)
    if as_json:
        shown = {
            "score": explanation.score,
            "branches": explanation.branches.to_dicts(),
            "nearest": explanation.nearest.to_dicts(),
        }
        click.echo(json.dumps(shown, indent=2))
        return
    click.echo(f"score of {item} for {user}: {explanation.score:.4f}\n")
    print_frame(explanation.branches)
    if len(explanation.nearest):
        click.echo("\nitems of the user most like it:")
        print_frame(explanation.nearest)
