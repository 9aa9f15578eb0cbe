"""What a file is known by, whatever its name."""

import hashlib
from pathlib import Path

_BLOCK = 2**20


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: if it can't be read, or is none, such as a pipe, which would be waited for.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
