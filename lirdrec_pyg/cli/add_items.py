from pathlib import Path
from typing import get_args

import click

from lirdrec_pyg.cli.options import FeatureFile, feature_files
from lirdrec_pyg.cli.run_options import device_option, run_argument
from lirdrec_pyg.config import ZeroFeatures


@click.command()
@run_argument
@click.option(
    "--features",
    required=True,
    multiple=True,
    type=FeatureFile(),
    callback=feature_files,
    help="MODALITY=FILE, once a modality, or a folder that 'features' has made: features of the new items, made as "
    "those of the training were. A modality that is left out is missing for all of them.",
)
@click.option(
    "--ids",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Text file with one item ID a line, for feature files whose rows go by position.",
)
@click.option(
    "--item-column",
    help="Column of item IDs in Parquet files; by default that of the training, or one with a usual name.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder to make, another than RUN.")
@click.option("--overwrite", is_flag=True, help="Replace the run that is in --out.")
@click.option(
    "--zero-features",
    type=click.Choice(get_args(ZeroFeatures)),
    default="error",
    show_default=True,
    help="What a feature row of zeros alone, or of NaN alone, is: an error, or a missing one.",
)
@device_option
def add_items(
    run: Path,
    features: dict[str, str],
    ids: Path | None,
    item_column: str | None,
    out: Path,
    overwrite: bool,
    zero_features: ZeroFeatures,
    device: str,
) -> None:
    """Add items to the trained model in RUN, without training.

    The new items are encoded by the trained encoders and take their place in the graph by their
    nearest neighbours among the items with clicks. The model in --out recommends them with all
    others; nothing else changes. A model trained with --dct 2d can't encode an item that arrives
    later.

    \b
      lirdrec-pyg add-items runs/shop --features image=new.npy --features text=new_text.npy \\
        --ids new_ids.txt --out runs/shop-noon
    """
    from lirdrec_pyg.data import item_features, modalities, read_new_items
    from lirdrec_pyg.models import check_inductive
    from lirdrec_pyg.serving import Recommender
    from lirdrec_pyg.training import Run

    Run.open(run).check_other(out)
    Run.check_free(out, overwrite)
    recommender = Recommender.load(run, device)
    check_inductive(recommender.model)
    widths = {m: item_features(recommender.graph, m).size(1) for m in modalities(recommender.graph)}
    item_column = item_column or recommender.run.settings().get("item_column")
    new = read_new_items(features, widths, ids, zero_features, item_column)
    recommender.add_items(new).save(out, overwrite)
    click.echo(f"{len(new.ids):,} items were added, {len(recommender.items) + len(new.ids):,} are in {out}")
