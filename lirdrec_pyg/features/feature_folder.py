from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from lirdrec_pyg.data.features import FEATURE_MARK, FEATURE_SUFFIXES
from lirdrec_pyg.data.provenance import read_provenance
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.features.partial_encoding import PartialEncoding
from lirdrec_pyg.files import LOCK, UNFINISHED, checksum


class FeatureFolder:
    """Folder of features, which need not exist, written by :func:`~lirdrec_pyg.features.make_features`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, modality: str) -> Path:
        """Return the path of a modality's features."""
        return self.path / f"{modality}{FEATURE_MARK}.parquet"

    def partial(self, modality: str) -> PartialEncoding:
        """Return the unfinished encoding of a modality."""
        return PartialEncoding(self.path / UNFINISHED / modality)

    def record(self, modality: str) -> dict[str, Any]:
        """Return the provenance of a modality; empty if it does not exist."""
        record = read_provenance(self.path).get(modality, {})
        return record if record and (self.path / record["file"]).is_file() else {}

    def check_own(self, modality: str) -> None:
        """Raise :class:`RunError` if another program made features of ``modality``."""
        for suffix in FEATURE_SUFFIXES:
            file = self.path / f"{modality}{FEATURE_MARK}{suffix}"
            if file.exists() and not self.record(modality) and not self.partial(modality).settings():
                raise RunError(f"{file} was made by another program. Pass another folder as `out`.")

    def check_reusable(self, modality: str, written: str | None = None) -> None:
        """Raise :class:`RunError` if vectors of ``modality`` are not stored as they were encoded.

        A file with the checksum ``written`` was written by a killed call, but not yet recorded.
        """
        record, file = self.record(modality), self.file(modality)
        if steps := record.get("postprocessing"):
            problem = f"was postprocessed ({', '.join(steps)})"
        elif checksum(file) not in (record.get("sha256"), written):
            problem = "was changed since it was made"
        elif "sha256" not in pl.read_parquet_schema(file):
            problem = "has no checksums of its entries"
        else:
            return
        raise RunError(f"{file} {problem}, so `update=True` cannot add vectors. Pass `overwrite=True` instead.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, and keep other programs from writing into it; raise :class:`RunError` if that fails."""
        existing = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise RunError(f"Cannot create {self.path}: {existing} is a file. Pass another folder as `out`.")
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise RunError(f"{self.path} is in use by another program. Wait for it to end.") from None
        except OSError as error:
            raise RunError(f"Cannot write {self.path} ({error}).") from error
        try:
            yield
        finally:
            with suppress(OSError):
                (self.path / LOCK).unlink(missing_ok=True)
                (self.path / UNFINISHED).rmdir()  # unless it has content
            with suppress(OSError):
                if existing != self.path:
                    self.path.rmdir()
            lock.release()
