"""Provenance of features: how each modality was made, and which items have no vector."""

import hashlib
import json
import platform
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg._version import __version__
from lirdrec_pyg.errors import DataError, first_line, shortened
from lirdrec_pyg.files import checksum, whole_file

PROVENANCE, REPORT = "provenance.json", "report.csv"
PROVENANCE_FORMAT = 1

# These affect the vectors of every encoder.
_PACKAGES = ("torch", "numpy", "polars")
# Settings of an encoder that its user may choose.
_SETTINGS = ("pooling", "prompt", "max_length", "seconds")
_AXES = "axes of catalog"
_REPORT_SCHEMA = {"item_id": pl.String, "modality": pl.String, "reason": pl.String}


def read_provenance(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the record of each modality in a folder of features; empty if the folder has none.

    Raises:
        DataError: if the file cannot be read.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        records = content["modalities"]
        if not all(isinstance(record["file"], str) for record in records.values()):
            raise TypeError("a record names no file")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a provenance file of features ({first_line(error)}).") from error
    # Earlier versions wrote British spelling.
    spelling = {"catalogue": "catalog"}
    return {name: {spelling.get(key, key): value for key, value in record.items()} for name, record in records.items()}


def write_provenance(folder: Path, modality: str, record: Mapping[str, Any]) -> None:
    """Write the record of one modality, replacing an earlier one.

    Raises:
        RunError: if the file cannot be written.
    """
    content = {"format": PROVENANCE_FORMAT, "modalities": {**read_provenance(folder), modality: record}}
    with whole_file(folder / PROVENANCE) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_report(folder: Path) -> pl.DataFrame:
    """Read which items have no vector: columns ``item_id``, ``modality`` and ``reason``.

    Raises:
        DataError: if the file cannot be read.
    """
    path = folder / REPORT
    if not path.is_file():
        return pl.DataFrame(schema=_REPORT_SCHEMA)
    try:
        return pl.read_csv(path, schema=_REPORT_SCHEMA, glob=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} is not a report of features. Move it to another folder.") from error


def write_report(folder: Path, modality: str, missing: pl.DataFrame) -> None:
    """Write ``item_id`` and ``reason`` of the items without a vector, replacing earlier lines of the modality.

    Raises:
        RunError: if the file cannot be written.
        DataError: if an earlier report cannot be read.
    """
    lines = missing.select(pl.col("item_id").cast(pl.String), pl.lit(modality).alias("modality"), "reason")
    lines = pl.concat([read_report(folder).filter(pl.col("modality") != modality), lines])
    with whole_file(folder / REPORT) as unfinished:
        lines.write_csv(unfinished)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of this package, Python, and the libraries that make features."""
    found = {"lirdrec-pyg": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *packages):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def now() -> str:
    """Return the current time in UTC, in ISO format."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def provenance_facts(files: Mapping[str, Path]) -> dict[str, str]:
    """Summarize by modality how each feature file was made that has a record beside it.

    A file that was changed since its record was written gets a warning instead.
    """
    facts = {}
    for modality, file in files.items():
        try:
            records = read_provenance(file.parent)
        except DataError:  # a file of another program
            continue
        record = next((record for record in records.values() if record["file"] == file.name), None)
        if record is None:
            continue
        if checksum(file) != record.get("sha256"):
            warnings.warn(
                f"{file} was changed since it was made. {file.parent / PROVENANCE} no longer describes it.",
                stacklevel=3,
            )
            continue
        facts[f"features of {modality}"] = _summary(record, records)
    return facts


def check_same_origin(trained: Mapping[str, Any], new: Mapping[str, str]) -> None:
    """Raise :class:`DataError` if features of new items were made by another model or setting than in the training.

    Both arguments are results of :func:`provenance_facts`.
    """
    for name, after in new.items():
        if before := trained.get(name):
            was, now = (_without_name(_origin(str(fact))) for fact in (before, after))
            # Earlier releases did not record the settings.
            if was != (now if "(" in was else now.partition(" (")[0]):
                advice = (
                    "Train on features without PCA and whitening, which depend on the catalog"
                    if _AXES in was
                    else "Encode them as for the training"
                )
                raise DataError(
                    f"The {name} were made by {_origin(str(before))} for the training, but by {_origin(after)} for the "
                    f"new items. {advice}, or pass `allow_other_features=True`."
                )


def _origin(fact: str) -> str:
    return fact.rpartition("; made ")[0] or fact


def _without_name(origin: str) -> str:
    """Leave out the name of a model that is identified by its revision."""
    return origin.partition(", revision ")[2] or origin


def _summary(record: Mapping[str, Any], records: Mapping[str, Any]) -> str:
    encoder, catalog, steps = (_entries(record.get(key)) for key in ("encoder", "catalog", "postprocessing"))
    parts = [shortened(str(encoder.get("model", "?")), 100)]
    if revision := encoder.get("revision"):
        parts.append(f"revision {_digits(revision)}")
    settings = [f"{name} {encoder[name]}" for name in _SETTINGS if isinstance(encoder.get(name), (str, int, float))]
    if captioners := _entries(catalog.get("captions")).keys() - {"by hand"}:
        settings.append(f"captions by {', '.join(sorted(captioners))}")
    if prompt := _entries(records.get(str(catalog.get("file")))).get("prompt"):
        settings.append(f"prompt {_digits(hashlib.sha256(str(prompt).encode()).hexdigest())}")
    if steps.keys() & {"pca", "whiten"}:
        settings.append(f"{_AXES} {_digits(catalog.get('sha256'))}")
    details = f" ({shortened(', '.join(settings))})" if settings else ""
    return f"{', '.join([*parts, *map(str, steps)])}{details}; made {str(record.get('date', '?'))[:10]}"


def _entries(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _digits(checksum: object) -> str:
    return str(checksum).removeprefix("sha256:")[:12]
