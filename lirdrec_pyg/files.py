"""Files and folders that are complete or absent: atomic writes, locks, replacement, checksums."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from lirdrec_pyg.errors import RunError, first_line
from lirdrec_pyg.launcher import num_processes

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUMS = "SHA256SUMS"
UNFINISHED, LOCK = ".unfinished", ".lock"

_EARLIER = ".earlier"
_BLOCK = 2**20
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\]+)")


@contextmanager
def whole_file(path: Path, unfinished: Path | None = None, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary name to write to, which replaces ``path`` on success.

    Args:
        path: final name.
        unfinished: temporary name on the same file system; by default one beside ``path``, unique to the process.
        flush: whether the file has to survive a power cut.

    Raises:
        RunError: if the file cannot be written.
    """
    unfinished = unfinished or path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            yield unfinished
            if flush:
                # Without this, a power cut could leave the new name without the content.
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise RunError(f"Cannot write {path} ({error}).") from error


def save_tensors(tensors: Mapping[str, "Tensor"], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a ``.safetensors`` file with the default permissions; the library alone makes it private to its owner."""
    from safetensors.torch import save_file  # here, since importing torch takes seconds

    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, dict(metadata or {}))
    path.chmod(mode)


def check_output_folder(path: Path, ours: Iterable[str], marker: str, overwrite: bool, hint: str = "") -> None:
    """Raise :class:`RunError` unless a folder of ours can be written to ``path``; change nothing.

    Args:
        path: folder, which need not exist.
        ours: names of the files that may be replaced.
        marker: the file that identifies such a folder.
        overwrite: whether an existing one may be replaced.
        hint: what else to do with an existing one, for the message.
    """
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise RunError(f"Cannot create {path}: {existing} is a file. Pass another folder as `out`.")
    present = {p.name for p in path.iterdir()} - {LOCK} if path.is_dir() else set()
    if present:
        if not overwrite:
            raise RunError(f"{path} is not empty. Pass another folder as `out`, or `overwrite=True`.{hint}")
        others = sorted(present - {*ours, UNFINISHED, _EARLIER})
        # A program that was killed at its very start may have left nothing but hidden names.
        if others or not (marker in present or all(name.startswith(".") for name in present)):
            found = ", ".join(others[:3]) or f"no {marker}"
            raise RunError(
                f"{path} holds other files ({found}), so `overwrite=True` leaves it alone. "
                "Pass another folder as `out`."
            )
    if not os.access(existing, os.W_OK):
        raise RunError(f"Cannot write {path}: {existing} is read-only.")


@contextmanager
def locked(path: Path, ours: tuple[str, ...]) -> Iterator[None]:
    """Keep other programs from writing into the folder ``path``, and clean up after one that was killed.

    Args:
        path: folder, created if necessary.
        ours: files of such a folder, the one that identifies it first.

    Raises:
        RunError: if another program writes there, or the folder cannot be written.
    """
    existed = path.exists()
    lock = FileLock(path / LOCK, timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        shutil.rmtree(path / UNFINISHED, ignore_errors=True)
        _put_back(path, ours)
    except Timeout:
        raise RunError(f"{path} is in use by another program. Wait for it to end, or use another folder.") from None
    except OSError as error:
        lock.release()
        raise RunError(f"Cannot write {path} ({error}).") from error
    try:
        yield
    finally:
        with suppress(OSError):
            (path / LOCK).unlink(missing_ok=True)
            if not existed and not any(path.iterdir()):
                path.rmdir()
        lock.release()


@contextmanager
def replaced(path: Path, ours: tuple[str, ...]) -> Iterator[None]:
    """Set the files of an earlier run aside while new ones are written; restore them if that fails.

    If the program is killed meanwhile, the next :func:`locked` restores them: an earlier run is set aside as a whole as
    soon as, and as long as, its first file is.

    Args:
        path: folder that is :func:`locked`.
        ours: files of such a folder, the one that identifies it first.
    """
    earlier = path / _EARLIER
    try:
        earlier.mkdir()
        _move_files(path, earlier, reversed(ours))
    except BaseException as error:
        with suppress(OSError):
            _put_back(path, ours)
        if isinstance(error, OSError):
            raise RunError(f"Cannot write {path} ({error}).") from error
        raise
    try:
        yield
    except BaseException:
        _remove_files(path, ours)
        _put_back(path, ours)
        raise
    # In one move, so that a part of it is never put back.
    os.replace(earlier, path / UNFINISHED)
    shutil.rmtree(path / UNFINISHED, ignore_errors=True)


def _put_back(path: Path, ours: tuple[str, ...]) -> None:
    """Undo what a killed program did to replace the run in ``path``."""
    earlier = path / _EARLIER
    if not earlier.is_dir():
        return
    if (earlier / ours[0]).exists():
        _remove_files(path, ours)
    _move_files(earlier, path, ours)
    earlier.rmdir()


def _move_files(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).exists():
            os.replace(source / name, target / name)


def _remove_files(folder: Path, ours: tuple[str, ...]) -> None:
    for name in reversed(ours):
        (folder / name).unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: if it cannot be read, or is not a regular file, such as a pipe, which would block.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def format_checksums(checksums: Mapping[str, str]) -> str:
    """Format checksums by file name as ``sha256sum --check`` reads them."""
    return "".join(f"{value}  {name}\n" for name, value in checksums.items())


def read_checksums(folder: Path) -> dict[str, str]:
    """Read the checksums of ``folder`` by file name.

    Raises:
        RunError: if the list is missing or damaged.
    """
    path = folder / CHECKSUMS
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"Cannot read {path} ({error}).") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise RunError(f"{path} is damaged: line {number} is not a checksum of a file.")
        found[match[2]] = match[1]
    return found


def verify_checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Read every listed file once and compare its checksum.

    Args:
        folder: folder of the list and the files.
        names: files that have to be listed.

    Returns:
        The checksums by file name.

    Raises:
        RunError: naming the first file that is not listed, missing, or changed.
    """
    listed = read_checksums(folder)
    if unlisted := [name for name in names if name not in listed]:
        raise RunError(
            f"{folder / CHECKSUMS} does not list {unlisted[0]}: the list was cut short, or the file was added."
        )
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{folder} has no {name}. Copy the run folder as a whole.")
        try:
            found = checksum(path)
        except OSError as error:
            raise RunError(f"Cannot read {path} ({error}).") from error
        if found != expected:
            raise RunError(
                f"{path} was changed, damaged or cut short since it was written. Restore the run from a "
                "backup, or train it again."
            )
    return listed


def write_file(folder: Path, name: str, write: Callable[[Path], object]) -> None:
    """Write one file of a folder by ``write``, completely or not at all.

    Raises:
        RunError: if it cannot be written.
    """
    unfinished = folder / UNFINISHED
    try:
        with whole_file(folder / name, unfinished / name) as path:
            unfinished.mkdir(exist_ok=True)
            write(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def save_state(folder: Path, name: str, state: Mapping[str, "Tensor"]) -> None:
    """Write a ``state_dict`` as ``<name>.safetensors``."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_file(folder, f"{name}.safetensors", lambda path: save_tensors(tensors, path, {"format": "lirdrec-pyg 1"}))


def read_tensors(file: Any) -> dict[str, "Tensor"]:
    """Read the tensors of an open safetensors file."""
    found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if num_processes() > 1:  # they share the memory of the file
        return found
    # Clones are aligned in memory as trained weights are, so that sums round equally.
    return {key: value.clone() for key, value in found.items()}


def load_state(path: Path) -> dict[str, "Tensor"]:
    """Read what :func:`save_state` wrote.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return read_tensors(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"Cannot read {path} ({first_line(error)}).") from error
