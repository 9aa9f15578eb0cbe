from os.path import abspath
from pathlib import Path

import click

from lirdrec_pyg.cli.options import device_option
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.report import check_report, write_report


def report_path(*runs: Path) -> Path:
    """Return where the report on ``runs`` is written by default: beside the first, named after all."""
    first, *others = (run if run.name.strip(".") else Path(abspath(run)) for run in runs)
    return first.with_name("-".join(run.name for run in (first, *others)) + ".html")


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="HTML file to write; an earlier one is replaced. By default RUN.html, beside the run folder.",
)
@click.option(
    "--image-root",
    help="Folder that the paths of the images in the item catalog are relative to; by default that of the training.",
)
@device_option
def report(runs: tuple[Path, ...], out: Path | None, image_root: str | None, device: str) -> None:
    """Show what the model in RUN learned, in one HTML file that opens anywhere without a network.

    It shows people who differ, with what they took and what they are offered, and why; items and their neighbors; items
    that nobody has clicked; metrics beside those of popular items and of EASE; a map of the items; training and data.
    Titles and images are those of the item catalog, which fit reads with --items.

    Of several runs on the same data, the first is described, and the others are compared with it.

    Needs the extra 'report': pip install 'lirdrec-pyg[report]'.

    \b
    Write runs/shop.html, and open it in a browser:
      lirdrec-pyg report runs/shop
    Compare two runs:
      lirdrec-pyg report runs/shop runs/shop-best --out comparison.html
    Find the images where they are today:
      lirdrec-pyg report runs/shop --image-root shop/images
    """
    out = report_path(*runs) if out is None else out
    check_report(out)
    write_report([Recommender.load(run, device) for run in runs], out, image_root)
    click.echo(f"The report is in {out}")
