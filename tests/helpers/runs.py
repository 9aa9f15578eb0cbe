"""Run folders in tests: contents, damage, and the earlier format."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from lirdrec_pyg.files import CHECKSUMS, checksum, format_checksums, read_checksums


def contents(folder: Path) -> dict[str, bytes]:
    """Content of each file by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flip(path: Path) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Keep the first half."""
    content = path.read_bytes()
    end = len(content) // 2
    if path.suffix == ".yaml":  # within a name, since missing entries have defaults
        end = content.index(b"\n", end) + 3
    path.write_bytes(content[:end])


def reseal(run: Path) -> None:
    """Compute the checksums again, as if the files had been written as they are."""
    sums = {name: checksum(run / name) for name in read_checksums(run) if (run / name).exists()}
    (run / CHECKSUMS).write_text(format_checksums(sums))


def change_settings(run: Path, **changes: object) -> None:
    """Write ``config.yaml`` with other entries, without those that are ``None``."""
    settings = yaml.safe_load((run / "config.yaml").read_text()) | changes
    (run / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))


def change_versions(run: Path, **changes: object) -> None:
    versions = json.loads((run / "versions.json").read_text())
    (run / "versions.json").write_text(json.dumps(versions | changes))


def turn_into_format_1(run: Path) -> None:
    """Rename what format 1 named differently, and remove what it did not have."""
    change_versions(run, format=1)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    if "num_neighbors" in settings:
        change_settings(run, num_neighbors=None, num_neighbours=settings["num_neighbors"])
    weights = run / "model.safetensors"
    save_file({{"neighbor": "neighbour"}.get(k, k): v for k, v in load_file(weights).items()}, weights)
    if (path := run / "vectors.safetensors").exists():
        save_file({key: value for key, value in load_file(path).items() if key != "linear"}, path)
    listed = (run / CHECKSUMS).read_text()
    if (run / "regression.safetensors").exists():
        (run / "regression.safetensors").unlink()
        save_file({"key": torch.zeros(1, 1)}, run / "neighbourhood.safetensors")
        (run / CHECKSUMS).write_text(listed.replace("regression.", "neighbourhood."))
    reseal(run)
