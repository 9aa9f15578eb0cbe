import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from lirdrec_pyg.cli.options import config_file_option, config_options, take
from lirdrec_pyg.cli.output import counted
from lirdrec_pyg.cli.progress import BarCallback
from lirdrec_pyg.features import encode_catalog
from lirdrec_pyg.features.config import CaptionConfig, FeaturesConfig


@click.command(context_settings={"max_content_width": 100})
@click.argument("catalog", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the features to make.")
@click.option("--overwrite", is_flag=True, help="Replace features in --out, or that were begun with other settings.")
@click.option(
    "--update",
    is_flag=True,
    help="Encode only items that are new or have changed, and keep the vectors of the others in --out.",
)
@config_file_option
@config_options(FeaturesConfig, CaptionConfig)
def features(catalog: Path, out: Path, overwrite: bool, update: bool, **values: Any) -> None:
    """Encode the texts, images and audio of a CATALOG: item features for fit.

    CATALOG is a table with one row per item: CSV, TSV, JSON Lines or Parquet. Needs the extra 'features':
    pip install 'lirdrec-pyg[features]'.

    \b
      lirdrec-pyg features catalog.csv --id-col sku --text-cols title,description \\
        --image-col picture --out features
      lirdrec-pyg fit --data clicks.csv --features features --out runs/shop

    A model is a local folder or a name on the Hugging Face Hub; a local one needs no network. Items without a text, or
    whose image or audio is missing or damaged, get no vector of that modality; the report lists the reasons.

    --caption describes the images in words first, and --embed-captions encodes the captions as a modality:

    \b
      lirdrec-pyg features catalog.csv --id-col sku --image-col picture --no-image --out features \\
        --caption qwen2.5-vl --caption-url http://localhost:8000/v1 --embed-captions intfloat/e5-base-v2

    Captions that you correct in captions.jsonl are kept, and lines that you delete are made again; the next call
    encodes the captions as they are then.

    After Ctrl-C, a kill or a power cut, the same command resumes. With other columns, it adds their modality to the
    folder. When the catalog has grown or changed, --update encodes only what is new or has changed.

    \b
    The folder contains
      MODALITY_feat.parquet   item IDs and vectors of a modality
      captions.jsonl          caption per image, to read and correct
      provenance.json         how they were made: model, revision, preprocessing, pooling, versions, date, checksums
      report.csv              items without a vector or caption, and the reasons
    """
    config, captions = take(FeaturesConfig, values), take(CaptionConfig, values)
    try:
        with warnings.catch_warnings(), closing(RowProgress()) as progress:
            warnings.filterwarnings("ignore", module="PIL")  # damaged images are in the report
            records = encode_catalog(catalog, out, config, captions, overwrite, update, progress)
    except KeyboardInterrupt:
        click.echo("Finished work is saved. The same command resumes.", err=True)
        raise
    if records:
        click.echo(f"\nFeatures: {out}. Next: lirdrec-pyg fit --data CLICKS --features {out} --out RUN")
    if captions.caption and not captions.embed_captions:
        click.echo(f"\nCaptions: {out / 'captions.jsonl'}. Pass --embed-captions to encode them.")


class RowProgress(BarCallback):
    """Progress bar per task on a terminal, else a line every 10 seconds; prints the result of each task."""

    _SECONDS = 10.0
    # A task that is finished earlier shows no bar.
    _DELAY = 2.0

    def __init__(self) -> None:
        self._name, self._total, self._done, self._before = "", 0, 0, 0
        self._started = self._shown = 0.0

    def on_task_start(self, name: str, total: int, done: int = 0) -> None:
        self.close()
        if 0 < done < total:
            click.echo(f"{name}: resuming after {done:,} of {total:,} items")
        self._name, self._total, self._done, self._before = name, total, done, done
        self._started = self._shown = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc=name, unit=" items", disable=None, delay=self._DELAY)

    def on_task_advance(self, count: int) -> None:
        self._done += count
        if self._bar is not None and not self._bar.disable:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._shown < self._SECONDS or self._done == self._total:
            return
        self._shown, rate = now, (self._done - self._before) / (now - self._started)
        left = tqdm.format_interval((self._total - self._done) / rate)
        click.echo(f"{self._name}: {self._done:,} of {self._total:,} items, {rate:.1f} per second, {left} left")

    def on_task_end(self, name: str, record: dict[str, Any]) -> None:
        self.close()
        if "failures" in record:
            _print_captions(record)
            return
        missing = (
            f"; {counted(record['missing'], 'item has', 'items have')} none, see report.csv"
            if record["missing"]
            else ""
        )
        kept = f", {record['taken_over']:,} of them unchanged" if record.get("taken_over") else ""
        click.echo(f"{name}: {record['rows']:,} vectors of width {record['width']}{kept}{missing}")


def _print_captions(report: dict[str, Any]) -> None:
    kept = f", {report['kept']:,} kept" if report["kept"] else ""
    failed = f"; {len(report['failures']):,} images have none, see report.csv" if report["failures"] else ""
    click.echo(f"captions: {report['made']:,} made{kept}{failed}")
    if report["cut"]:
        click.echo(f"Warning: {report['cut']:,} captions were cut off. Ask for shorter ones in --prompt.", err=True)
    for what, count in report["changed"].items():
        click.echo(
            f"Warning: the {what} has changed since {count:,} captions were made. Pass --recaption to replace them.",
            err=True,
        )
