"""The record that ``lirdrec-pyg features`` leaves of how features were made, as it is read again."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.data.tables import first_line, shortened
from lirdrec_pyg.errors import DataError

PROVENANCE, REPORT = "provenance.json", "report.csv"


def read_provenance(folder: Path) -> dict[str, dict[str, Any]]:
    """The record of each modality in a folder of features; empty if there is none.

    Raises:
        DataError: if it can't be read.
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
        raise DataError(f"{path} is no record of features ({first_line(error)}).") from error
    return records


def provenance_facts(files: Mapping[str, Path]) -> dict[str, str]:
    """In a few words, how each of ``files`` was made that has a record beside it.

    A file that is not as it was when the record was made gets a warning in place of the words.

    Args:
        files: feature file of each modality.
    """
    facts = {}
    for modality, file in files.items():
        try:
            records = read_provenance(file.parent)
        except DataError:  # some other program's file
            continue
        record = next((record for record in records.values() if record["file"] == file.name), None)
        if record is None:
            continue
        if checksum(file) != record.get("sha256"):
            warnings.warn(
                f"{file} is not as it was made: {file.parent / PROVENANCE} does not tell of it any more.", stacklevel=3
            )
            continue
        facts[f"features of {modality}"] = _in_words(record)
    return facts


def _in_words(record: Mapping[str, Any]) -> str:
    encoder = record.get("encoder")
    encoder = encoder if isinstance(encoder, dict) else {}
    words = [str(encoder.get("model", "?"))]
    if revision := encoder.get("revision"):
        words.append(f"revision {shortened(str(revision).removeprefix('sha256:'), 12).removesuffix('...')}")
    postprocessing = record.get("postprocessing")
    if isinstance(postprocessing, dict) and postprocessing:
        words.append(", ".join(map(str, postprocessing)))
    return shortened(f"{', '.join(words)}; made {str(record.get('date', '?'))[:10]}")
