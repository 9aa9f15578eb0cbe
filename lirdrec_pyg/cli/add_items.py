from pathlib import Path

import click

from lirdrec_pyg.cli.options import choice_option, device_option, features_option, folder_option, id_file, run_argument
from lirdrec_pyg.cli.output import counted
from lirdrec_pyg.data import feature_widths, read_new_items
from lirdrec_pyg.data.features import ZeroFeatures
from lirdrec_pyg.recommender import Recommender, Run


@click.command()
@run_argument
@features_option(
    "MODALITY=FILE, repeatable, or a folder made by 'features': features of the new items, made like those of the "
    "training. A modality that is left out is missing for all new items.",
    required=True,
)
@click.option(
    "--ids",
    type=id_file,
    help="Text file with one item ID per line, for feature files without IDs. Of files with IDs, it selects items.",
)
@click.option(
    "--item-column",
    help="Column of item IDs in tables; by default that of the training, or one with a usual name.",
)
@click.option(
    "--allow-other-features",
    is_flag=True,
    help="Add the items even if their features were made by another model or setting than those of the training.",
)
@folder_option("the run", "Run folder to create, other than RUN.")
@choice_option(
    "--zero-features",
    ZeroFeatures,
    "error",
    "How to treat a feature row of zeros or NaN only: as an error, or as missing.",
)
@device_option
def add_items(
    run: Path,
    features: dict[str, str],
    ids: Path | None,
    item_column: str | None,
    allow_other_features: bool,
    out: Path,
    overwrite: bool,
    zero_features: ZeroFeatures,
    device: str,
) -> None:
    """Add items to the trained model in RUN, without training.

    The vectors of the new items are predicted from their features, by those of similar items with clicks. The model in
    --out recommends them with all others; nothing else changes. A model trained with --dct 2d cannot encode new items.

    \b
      lirdrec-pyg add-items runs/shop --features image=new.npy --features text=new_text.npy \\
        --ids new_ids.txt --out runs/shop-noon
    """
    Run.check_free(out, overwrite, source=run)
    recommender = Recommender.load(run, device)
    recommender.model_config.require("new_items")
    config, facts = recommender.dataset.config, recommender.dataset.facts
    item_column = item_column or (config.item_column if config else None)
    widths = feature_widths(recommender.graph)
    new = read_new_items(features, widths, ids, zero_features, item_column, facts, allow_other_features)
    grown = recommender.add_items(new).save(out, overwrite)
    click.echo(f"{counted(len(new.ids), 'item was', 'items were')} added; {out} has {len(grown.items):,} items")
