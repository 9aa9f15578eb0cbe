import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lirdrec_pyg.cli.options import config_file_option, config_options, take
from lirdrec_pyg.cli.progress import RowProgress
from lirdrec_pyg.config import CaptionConfig, FeaturesConfig
from lirdrec_pyg.errors import ConfigError

if TYPE_CHECKING:
    from lirdrec_pyg.features import CaptionWork


@click.command(context_settings={"max_content_width": 100})
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the features to make.")
@click.option("--overwrite", is_flag=True, help="Make features anew that are in --out, or were begun there otherwise.")
@click.option(
    "--update",
    is_flag=True,
    help="Encode only the items that are new or have changed, and keep the vectors of the others in --out.",
)
@config_file_option
@config_options(FeaturesConfig, CaptionConfig)
def features(catalogue: Path, out: Path, overwrite: bool, update: bool, **values: Any) -> None:
    """Encode the texts, pictures and sounds of a CATALOGUE: item features for fit.

    CATALOGUE is a table with a row an item, .csv, .tsv, .jsonl or .parquet. Needs the extra 'features':
    pip install 'lirdrec-pyg[features]'.

    \b
      lirdrec-pyg features catalogue.csv --id-col sku --text-cols title,description \\
        --image-col picture --out features
      lirdrec-pyg fit --data clicks.csv --features features --out runs/shop

    A model is a local folder or a name on the Hugging Face Hub; a local one needs no network. An item whose picture
    or sound is missing or broken, or that has no text, lacks that modality, and stands in the report with the reason.

    --caption has a model describe the pictures in words first, and --embed-captions makes a modality of these:

    \b
      lirdrec-pyg features catalogue.csv --id-col sku --image-col picture --no-image --out features \\
        --caption qwen2.5-vl --caption-url http://localhost:8000/v1 --embed-captions intfloat/e5-base-v2

    A caption that you correct in captions.jsonl stays as it is, and a line that you delete is made anew; the next call
    encodes what is there then.

    After Ctrl-C, a kill or a power cut the same command goes on where it stood. Run again with other columns, it adds
    their modality to the folder. When the catalogue has grown or changed, --update encodes only what is new or changed.

    \b
    The folder holds
      MODALITY_feat.parquet   item IDs and vectors of one modality
      captions.jsonl          a caption of each picture, for you to read and correct
      provenance.json         how they were made: model, revision, preprocessing, pooling, versions, date, checksums
      report.csv              which item lacks which modality, and why
    """
    from lirdrec_pyg.features import (
        CaptionWork,
        Hooks,
        Postprocessing,
        catalogue_sources,
        check_before,
        check_captions,
        make_features,
    )
    from lirdrec_pyg.features.folder import FeatureFolder
    from lirdrec_pyg.training import resolve_device

    if overwrite and update:
        raise ConfigError("--overwrite encodes everything, and --update what has changed: give one of them.")
    config, captions = take(FeaturesConfig, values), take(CaptionConfig, values)
    FeatureFolder(out).check_writable()
    device = resolve_device(config.device)
    check_captions(config, captions, out)
    words = None
    if captions.caption or captions.embed_captions:
        words = CaptionWork(catalogue, config, captions, out, device)
    encoded = replace(config, image_col=None) if captions.no_image else config
    has_others = any((encoded.text_cols, encoded.image_col, encoded.audio_col))
    sources = catalogue_sources(catalogue, encoded, device) if has_others or words is None else []
    postprocessing = Postprocessing(config.pca, config.whiten, config.normalize)
    if words is not None:  # before the long work of describing pictures
        check_before(sources, out, postprocessing, overwrite, update)
        words.check_before(postprocessing, update)
    with RowProgress() as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # a broken picture is in the report

        def on_end(modality: str, record: Mapping[str, Any]) -> None:
            progress.end()
            lacking = f"; {record['missing']:,} items have none, see report.csv" if record["missing"] else ""
            known = f", {record['taken_over']:,} of them as they were" if record.get("taken_over") else ""
            click.echo(f"{modality}: {record['rows']:,} vectors of width {record['width']}{known}{lacking}")

        def on_compare(modality: str, total: int) -> None:
            progress.start(f"{modality}, compared", total, 0, delay=2.0)

        hooks = Hooks(progress.start, progress.rows, on_end, on_compare)
        try:
            if words is not None:
                _describe(words, progress)
            make_features(sources, out, postprocessing, overwrite, hooks, update)
            if words is not None and (source := words.source()) is not None:
                # It is derived from the captions, and follows them.
                anew = overwrite or (words.is_outdated(source) and not update)
                make_features([source], out, postprocessing, anew, hooks, update)
                words.explain_report()
        except KeyboardInterrupt:
            progress.end()
            click.echo("What is done so far is kept: the same command goes on.", err=True)
            raise
    if sources or captions.embed_captions:
        click.echo(f"\nThe features are in {out}: lirdrec-pyg fit --data CLICKS --features {out} --out RUN")
    if captions.caption and not captions.embed_captions:
        click.echo(f"\nThe captions are in {out / 'captions.jsonl'}: --embed-captions makes features of them.")


def _describe(words: "CaptionWork", progress: RowProgress) -> None:
    """Has the pictures described, and says what became of them."""
    from lirdrec_pyg.features import CaptionHooks

    on_compare = partial(progress.start, "pictures, compared", done=0, delay=2.0)
    on_start = partial(progress.start, "captions")
    report = words.describe(CaptionHooks(on_start, progress.rows, on_compare=on_compare))
    progress.end()
    if report is None:
        return
    kept = f", {report.kept:,} were there" if report.kept else ""
    lacking = f"; {len(report.failures):,} pictures have none, see report.csv" if report.failures else ""
    click.echo(f"captions: {report.made:,} made{kept}{lacking}")
    if report.cut:
        click.echo(f"Warning: {report.cut:,} captions were cut off: a prompt can ask for shorter ones.", err=True)
    for what, count in report.changed.items():
        click.echo(
            f"Warning: the {what} has changed since {count:,} captions were made, which stay as they are: --recaption "
            "makes them anew.",
            err=True,
        )
