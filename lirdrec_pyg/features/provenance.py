"""The record of how features were made, so that nobody has to ask later."""

import json
import platform
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg._version import __version__
from lirdrec_pyg.data.provenance import PROVENANCE, REPORT, read_provenance
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.features.blocks import write_whole

PROVENANCE_FORMAT = 1

# Whatever the encoder, these have a part in the result.
_PACKAGES = ("torch", "numpy", "polars")
_REPORT_SCHEMA = {"item_id": pl.String, "modality": pl.String, "reason": pl.String}


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of this package, Python and the libraries that made the features."""
    found = {"lirdrec-pyg": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *packages):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def now() -> str:
    """This moment, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_record(folder: Path, modality: str, record: dict[str, Any]) -> None:
    """Puts the record of one modality in the place of an earlier one.

    Raises:
        RunError: if it can't be written.
    """
    content = {"format": PROVENANCE_FORMAT, "modalities": {**read_provenance(folder), modality: record}}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / PROVENANCE, lambda file: file.write_text(text, "utf-8"))


def read_report(folder: Path) -> pl.DataFrame:
    """What items of a folder lack: ``item_id``, ``modality`` and ``reason``.

    Raises:
        RunError: if the report can't be read.
    """
    path = folder / REPORT
    if not path.is_file():
        return pl.DataFrame(schema=_REPORT_SCHEMA)
    try:
        return pl.read_csv(path, schema=_REPORT_SCHEMA, glob=False)
    except pl.exceptions.PolarsError as error:
        raise RunError(f"{path} is no report of this program any more: move it away.") from error


def write_report(folder: Path, modality: str, lacking: pl.DataFrame) -> None:
    """Puts the lines of one modality in the place of earlier ones.

    Args:
        folder: of the features.
        modality: of which there is to report.
        lacking: ``item_id`` and ``reason`` of the items without features.

    Raises:
        RunError: if the report can't be written, or an earlier one can't be read.
    """
    lines = lacking.select(pl.col("item_id").cast(pl.String), pl.lit(modality).alias("modality"), "reason")
    lines = pl.concat([read_report(folder).filter(pl.col("modality") != modality), lines])
    write_whole(folder / REPORT, lines.write_csv)
