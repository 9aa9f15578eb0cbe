import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lirdrec_pyg.cli.options import config_file_option, config_options, take
from lirdrec_pyg.cli.progress import RowProgress
from lirdrec_pyg.config import FeaturesConfig


@click.command(context_settings={"max_content_width": 100})
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the features to make.")
@click.option("--overwrite", is_flag=True, help="Make features anew that are in --out, or were begun there otherwise.")
@config_file_option
@config_options(FeaturesConfig)
def features(catalogue: Path, out: Path, overwrite: bool, **values: Any) -> None:
    """Encode the texts, pictures and sounds of a CATALOGUE: item features for fit.

    CATALOGUE is a table with a row an item, .csv, .tsv, .jsonl or .parquet. Needs the extra 'features':
    pip install 'lirdrec-pyg[features]'.

    \b
      lirdrec-pyg features catalogue.csv --id-col sku --text-cols title,description \\
        --image-col picture --out features
      lirdrec-pyg fit --data clicks.csv --features features --out runs/shop

    A model is a local folder or a name on the Hugging Face Hub; a local one needs no network. An item whose picture
    or sound is missing or broken, or that has no text, lacks that modality, and stands in the report with the reason.

    After Ctrl-C, a kill or a power cut the same command goes on where it stood. Run again with other columns, it adds
    their modality to the folder.

    \b
    The folder holds
      MODALITY_feat.parquet   item IDs and vectors of one modality
      provenance.json         how they were made: model, revision, preprocessing, pooling, versions, date, checksums
      report.csv              which item lacks which modality, and why
    """
    from lirdrec_pyg.features import Hooks, Postprocessing, catalogue_sources, make_features
    from lirdrec_pyg.features.folder import FeatureFolder
    from lirdrec_pyg.training import resolve_device

    config = take(FeaturesConfig, values)
    FeatureFolder(out).check_writable()
    sources = catalogue_sources(catalogue, config, resolve_device(config.device))
    postprocessing = Postprocessing(config.pca, config.whiten, config.normalize)
    with RowProgress() as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # a broken picture is in the report

        def on_end(modality: str, record: Mapping[str, Any]) -> None:
            progress.end()
            lacking = f"; {record['missing']:,} items have none, see report.csv" if record["missing"] else ""
            click.echo(f"{modality}: {record['rows']:,} vectors of width {record['width']}{lacking}")

        try:
            make_features(sources, out, postprocessing, overwrite, Hooks(progress.start, progress.rows, on_end))
        except KeyboardInterrupt:
            progress.end()
            click.echo("What is encoded so far is kept: the same command goes on.", err=True)
            raise
    click.echo(f"\nThe features are in {out}: lirdrec-pyg fit --data CLICKS --features {out} --out RUN")
