from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a ``.safetensors`` file with the permissions of any new file; the library alone would make it
    one that only its owner can read."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, dict(metadata or {}))
    path.chmod(mode)
