"""What a file is known by, whatever its name."""

import hashlib
from pathlib import Path

_BLOCK = 2**20


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
