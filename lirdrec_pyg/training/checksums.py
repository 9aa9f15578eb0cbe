"""A list of checksums, in the form that ``sha256sum --check`` reads as well."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.errors import RunError

CHECKSUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\]+)")


def format_checksums(checksums: Mapping[str, str]) -> str:
    """The list of checksums by file name."""
    return "".join(f"{value}  {name}\n" for name, value in checksums.items())


def read_checksums(folder: Path) -> dict[str, str]:
    """Checksums by file name, as the list in ``folder`` has them.

    Raises:
        RunError: if the list is no such list.
    """
    path = folder / CHECKSUMS
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} can't be read ({error}).") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise RunError(f"{path} is damaged: line {number} is no checksum of a file.")
        found[match[2]] = match[1]
    return found


def verify_checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Reads every listed file once.

    Args:
        folder: where the list and the files are.
        names: files that have to be in the list.

    Returns:
        The list.

    Raises:
        RunError: naming the first file that is not listed, missing, or not as it was written.
    """
    listed = read_checksums(folder)
    if strange := [name for name in names if name not in listed]:
        raise RunError(
            f"{folder / CHECKSUMS} does not list {strange[0]}: the list was cut short, or the file was added."
        )
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{folder} lacks {name}: copy the run folder as a whole.")
        try:
            found = checksum(path)
        except OSError as error:
            raise RunError(f"{path} can't be read ({error}).") from error
        if found != expected:
            raise RunError(
                f"{path} is not as it was written: it was changed, damaged or cut short. Take the run from a "
                "backup, or train it again."
            )
    return listed
