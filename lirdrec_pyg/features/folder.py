"""A folder of features: a file for each modality, the record of how they were made, and a report of what is missing."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.data.features import FEATURE_SUFFIXES
from lirdrec_pyg.data.provenance import read_provenance
from lirdrec_pyg.data.readers import FEATURE_MARK
from lirdrec_pyg.data.tables import shown
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.features.blocks import BLOCK_ROWS, Blocks, OtherWidth, Source, no_vectors, write_whole
from lirdrec_pyg.features.postprocess import Postprocessing
from lirdrec_pyg.features.provenance import now, versions, write_record, write_report

_UNFINISHED, _LOCK = ".unfinished", ".lock"
# Of an earlier file that are in memory at a time.
_ROWS = 8192

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hooks:
    """What a caller wants to hear of the encoding.

    Attributes:
        on_start: called with the modality, the number of its entries, and how many are done already.
        on_rows: called with the number of entries that are done anew.
        on_end: called with the modality and its record in the provenance.
        on_compare: called with the modality and the number of its entries, before these are compared with those that
            were encoded earlier.
    """

    on_start: Callable[[str, int, int], None] = lambda modality, total, done: None
    on_rows: Callable[[int], None] = lambda count: None
    on_end: Callable[[str, Mapping[str, Any]], None] = lambda modality, record: None
    on_compare: Callable[[str, int], None] = lambda modality, total: None


def make_features(
    sources: Sequence[Source],
    out: str | Path,
    postprocessing: Postprocessing | None = None,
    overwrite: bool = False,
    hooks: Hooks | None = None,
    update: bool = False,
) -> dict[str, dict[str, Any]]:
    """Encodes catalogues into a folder of features, which ``fit`` reads as it is.

    ============================  ==================================================================
    ``MODALITY_feat.parquet``     ``item_id``, ``features`` (an array of float32) and ``sha256`` (of the text or
                                  file that they were made of) of each item that has any
    ``provenance.json``           how each file was made: model, revision, preprocessing, pooling, steps after
                                  the encoding, versions, date, checksums
    ``report.csv``                ``item_id``, ``modality`` and ``reason`` of what is missing
    ============================  ==================================================================

    A call that was interrupted or killed goes on where it stood; the result is the same, to the last byte.
    Modalities of the folder that are not among ``sources`` stay as they are.

    With ``update``, items whose text or file is as it was keep their vectors, and only what is new or has changed is
    encoded, with what could not be used. Equal texts or files are known by their SHA-256, whatever items they are of.
    The result is that of encoding all anew, but for rounding: what goes through a model with other entries may differ
    by some 1e-6. The provenance has the number of rows that were kept (``taken_over``) and, if other versions of the
    libraries have made some, these (``earlier``). An update can follow one that was stopped, or a first call, when the
    catalogue has changed again: nothing is encoded twice.

    Args:
        sources: one for each modality.
        out: folder, which is made if there is none.
        postprocessing: steps after the encoding; by default none.
        overwrite: makes modalities anew that the folder has already, or that were begun otherwise.
        hooks: for progress.
        update: follows a catalogue that has changed; of no effect with ``overwrite``.

    Returns:
        The record of each modality.

    Raises:
        RunError: if the folder is in use, can't be written, or holds such a modality that was made otherwise, or that
            is to be updated after steps that followed the encoding.
        DataError: if none of the entries of a modality can be used.
    """
    postprocessing, hooks = postprocessing or Postprocessing(), hooks or Hooks()
    folder = FeatureFolder(Path(out))
    folder.check_writable()
    with folder.locked():
        works = [_Work.plan(folder, source, postprocessing, overwrite, update) for source in sources]
        return {work.source.modality: work.finish(hooks) for work in works}


def check_before(
    sources: Sequence[Source],
    out: str | Path,
    postprocessing: Postprocessing | None = None,
    overwrite: bool = False,
    update: bool = False,
) -> None:
    """Raises what :func:`make_features` would raise before it encodes anything; changes nothing."""
    folder = FeatureFolder(Path(out))
    folder.check_writable()
    for source in sources:
        _Work.plan(folder, source, postprocessing or Postprocessing(), overwrite, update)


class FeatureFolder:
    """The folder that :func:`make_features` writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, modality: str) -> Path:
        """Where the features of ``modality`` belong."""
        return self.path / f"{modality}{FEATURE_MARK}.parquet"

    def blocks(self, modality: str) -> Blocks:
        """Where they are in the making."""
        return Blocks(self.path / _UNFINISHED / modality)

    def record(self, modality: str) -> dict[str, Any] | None:
        """How they were made, ``None`` if they were not."""
        record = read_provenance(self.path).get(modality)
        return record if record and (self.path / record["file"]).is_file() else None

    def check_writable(self) -> None:
        """Raises :class:`RunError` if the folder can't be made; changes nothing."""
        existing = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise RunError(f"{self.path} can't be made, since {existing} is a file: name a folder with --out.")

    def check_own(self, modality: str) -> None:
        """Raises :class:`RunError` if there are features of ``modality`` that this program has not made."""
        for suffix in FEATURE_SUFFIXES:
            file = self.path / f"{modality}{FEATURE_MARK}{suffix}"
            if file.exists() and self.record(modality) is None and self.blocks(modality).settings() is None:
                raise RunError(f"{file} is there already, and not of this program: name another folder with --out.")

    def check_unprocessed(self, modality: str) -> None:
        """Raises :class:`RunError` if the vectors of ``modality`` are not there as they were encoded."""
        record, file = self.record(modality) or {}, self.file(modality)
        if steps := record.get("postprocessing"):
            raise RunError(
                f"{file} went through {' and '.join(steps)}, so that no vectors can be added: make them anew with "
                "--overwrite."
            )
        if checksum(file) != record.get("sha256"):
            raise RunError(f"{file} is not as it was made, so that no vectors can be added: --overwrite makes it anew.")
        if "sha256" not in pl.read_parquet_schema(file):
            raise RunError(
                f"{file} was made before vectors had checksums, so that none can be told to be as it was: make them "
                "anew with --overwrite."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and keeps other programs from writing into it.

        Raises:
            RunError: if another program does so, or the folder can't be written.
        """
        existed = self.path.exists()
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise RunError(f"{self.path} is in use by another program: wait for its end.") from None
        except OSError as error:
            raise RunError(f"{self.path} can't be written ({error}).") from error
        try:
            yield
        finally:
            with suppress(OSError):
                (self.path / _LOCK).unlink(missing_ok=True)
                (self.path / _UNFINISHED).rmdir()  # unless there is something in it
            with suppress(OSError):
                if not existed:
                    self.path.rmdir()
            lock.release()


@dataclass(frozen=True)
class _Work:
    """What is to be done for one modality.

    Attributes:
        blocks: where it is in the making.
        anew: whether nothing of it is there yet, or what is there is to be replaced.
        is_done: whether there is nothing left to do.
        earlier: record of the features of which some may be taken over, if any.
        unfinished: settings of ``blocks``, if some of what was begun there may be taken over.
        overwrite: whether the user wants no vectors that are there already.
    """

    folder: FeatureFolder
    source: Source
    postprocessing: Postprocessing
    settings: dict[str, Any]
    blocks: Blocks
    anew: bool
    is_done: bool
    earlier: Mapping[str, Any] | None
    unfinished: Mapping[str, Any] | None
    overwrite: bool

    @classmethod
    def plan(
        cls, folder: FeatureFolder, source: Source, postprocessing: Postprocessing, overwrite: bool, update: bool
    ) -> "_Work":
        """Finds out what is there already; changes nothing.

        Raises:
            RunError: if it was made otherwise, and is not to be overwritten.
        """
        modality = source.modality
        folder.check_own(modality)
        settings = _settings(source, postprocessing)
        blocks, record = folder.blocks(modality), folder.record(modality)
        begun, difference, verb = blocks.settings(), None, "begun"
        if begun is not None and not blocks.num_done(len(source.entries)):
            begun = None  # a first try that came to nothing
        if begun is not None and overwrite and "taken_over" in begun:
            begun = None  # an update, which keeps what is not to be kept
        unfinished = earlier = None
        if begun is not None:
            difference = _differs(begun, settings, "postprocessing")  # which comes after
            if update and not overwrite and (difference or source.entries.are_files):
                difference = _differs(begun, settings, "postprocessing", "catalogue")
                if difference is None:
                    unfinished, earlier = begun, _addable(folder, record, settings, modality)
                elif record is not None:
                    begun = difference = None  # something else was begun, which is given up
        is_done = False
        if begun is None and record is not None and not overwrite:
            # What was made stays good when versions change.
            difference, verb, is_done = _differs(record, settings, "versions"), "made", True
            if update:
                # What could not be used may be by now; that alone is no reason to refuse what is finished.
                tries_again = record.get("rows") != len(source.entries) and not record.get("postprocessing")
                is_done = not (source.entries.are_files or difference or tries_again)
                difference = _differs(record, settings, "versions", "catalogue")
        if difference and not overwrite:
            raise RunError(_refusal(folder.path, modality, verb, difference))
        if begun is None and record is not None and not overwrite and not is_done:
            folder.check_unprocessed(modality)
            earlier = record
        anew = not is_done and (begun is None or unfinished is not None or difference is not None)
        return cls(folder, source, postprocessing, settings, blocks, anew, is_done, earlier, unfinished, overwrite)

    def finish(self, hooks: Hooks) -> dict[str, Any]:
        """Encodes what is left, and writes the file and its record."""
        modality, total = self.source.modality, len(self.source.entries)
        if self.anew:
            self._begin(hooks)
        hooks.on_start(modality, total, total if self.is_done else self.blocks.num_done(total))
        if self.is_done:
            record = self.folder.record(modality) or {}
            if count := self._num_changed(record):
                _log.warning(
                    "%s files of %s have changed since its features were made, which stay as they are: --update "
                    "encodes those again.",
                    *(f"{count:,}", modality),
                )
        else:
            self._encode(hooks)
            record = self._write()
        hooks.on_end(modality, record)
        return record

    def _encode(self, hooks: Hooks) -> None:
        try:
            self.blocks.encode(self.source, hooks.on_rows)
        except OtherWidth:
            if not self.overwrite or self.anew:
                raise
            self.blocks.begin(self.settings)
            hooks.on_start(self.source.modality, len(self.source.entries), 0)
            self.blocks.encode(self.source, hooks.on_rows)

    def _begin(self, hooks: Hooks) -> None:
        if self.earlier is None and self.unfinished is None:
            self.blocks.begin(self.settings)
            return
        made = [*(self.unfinished or {}).get("earlier", ())]
        if self.earlier is not None:
            made += [*self.earlier.get("earlier", ()), {key: self.earlier.get(key) for key in ("date", "versions")}]
        others: list[Any] = []
        for one in made:
            if one["versions"] != self.settings["versions"] and one not in others:
                others.append(one)
        self.blocks.begin(self.settings, self._unchanged(hooks), {"earlier": others} if others else {})

    def _unchanged(self, hooks: Hooks) -> Iterator[pl.DataFrame]:
        """Rows whose entries were encoded earlier, some at a time."""
        entries = self.source.entries
        hooks.on_compare(self.source.modality, len(entries))
        checksums: list[str | None] = []
        with ThreadPoolExecutor() as pool:
            for part in entries.frame["entry"].to_frame().iter_slices(BLOCK_ROWS):
                checksums += pool.map(entries.checksum, part["entry"])
                hooks.on_rows(len(part))
        left = pl.DataFrame({"sha256": pl.Series(checksums, dtype=pl.String)})
        left = left.with_row_index("row").cast({"row": pl.Int64})
        for known in self._known():
            # Equal entries have equal vectors, whatever items they are of.
            known = known.drop_nulls().unique("sha256")
            found = left.join(known, on="sha256", how="semi")
            left = left.join(known, on="sha256", how="anti")
            for rows in found.iter_slices(_ROWS):
                yield rows.join(known, on="sha256")

    def _known(self) -> Iterator[pl.DataFrame]:
        """``features`` and ``sha256`` of what was encoded earlier, some rows at a time."""
        if self.earlier is not None:
            before = pl.scan_parquet(self.folder.file(self.source.modality), glob=False)
            for start in range(0, before.select(pl.len()).collect().item(), _ROWS):
                yield before.slice(start, _ROWS).select(pl.col("features").arr.to_list(), "sha256").collect()
        if self.unfinished is not None:
            # These may be of a model that was replaced by one of another width.
            width = self.blocks.width() if self.earlier is None else self.earlier["width"]
            for rows in self.blocks.rows():
                yield rows.filter(pl.col("features").list.len() == width)

    def _num_changed(self, record: Mapping[str, Any]) -> int:
        """How many files were written since they were encoded, or came since they were missing."""
        entries = self.source.entries
        if not entries.are_files:
            return 0
        encoded = pl.read_parquet(self.folder.file(self.source.modality), columns=["item_id"], glob=False)
        has = entries.frame["item_id"].is_in(encoded["item_id"].implode())
        try:
            made = datetime.fromisoformat(record.get("date", "")).timestamp()
        except (TypeError, ValueError):  # a record that was edited
            return 0
        count = 0
        for path, is_encoded in zip(entries.frame["entry"], has, strict=True):
            with suppress(OSError):
                found = os.stat(path)
                # A file that is moved to its place keeps the time at which it was written.
                count += (found.st_mtime if is_encoded else max(found.st_mtime, found.st_ctime)) >= made + 1
        return count

    def _write(self) -> dict[str, Any]:
        entries, failures = self.source.entries, self.blocks.failures()
        if len(failures) == len(entries):
            self.blocks.clear()
            raise no_vectors(self.source, failures)
        record = self._record_that_holds() or self._write_file(len(failures))
        nothing = f"there is nothing in {' and '.join(entries.facts['columns'])}"
        missing = pl.DataFrame({"item_id": entries.missing}).with_columns(reason=pl.lit(nothing))
        write_report(self.folder.path, self.source.modality, pl.concat([missing, failures]))
        self.blocks.clear()
        return record

    def _record_that_holds(self) -> dict[str, Any] | None:
        """The earlier record, if an update has found nothing that has changed."""
        if self.earlier is None or _differs(self.earlier, self.settings, "versions"):
            return None
        before = pl.read_parquet(self.folder.file(self.source.modality), columns=["item_id", "sha256"], glob=False)
        return dict(self.earlier) if self.blocks.checksums().equals(before) else None

    def _write_file(self, num_failures: int) -> dict[str, Any]:
        """Writes the file and its record."""
        entries, modality = self.source.entries, self.source.modality
        width, processed = self._postprocessed()
        file = self.folder.file(modality)
        write_whole(file, lambda unfinished: processed.join(unfinished, width))
        if processed is not self.blocks:
            processed.clear()
        record = {
            "file": file.name,
            "sha256": checksum(file),
            "rows": len(entries) - num_failures,
            "width": width,
            "dtype": "float32",
            "missing": len(entries.missing) + num_failures,
            **(self.blocks.settings() or {}),
            **self.settings,
            "date": now(),
        }
        write_record(self.folder.path, modality, record)
        return record

    def _postprocessed(self) -> tuple[int, Blocks]:
        """Width of the vectors after all steps, and these."""
        blocks = self.blocks
        transform = self.postprocessing.fit(blocks.vectors, self.source.modality)
        first = next(blocks.vectors())[:1]
        if transform is None:
            return first.size(1), blocks
        return transform(first).size(1), blocks.mapped(transform, blocks.path.with_suffix(".processed"))


def _settings(source: Source, postprocessing: Postprocessing) -> dict[str, Any]:
    """All that decides the features of ``source``, as it is read again."""
    settings = {
        **source.settings(),
        "postprocessing": postprocessing.describe(),
        "versions": versions(source.encoder.packages),
    }
    read: dict[str, Any] = json.loads(json.dumps(settings))
    return read


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` without the names of what is known by its content."""
    known = {"catalogue": ("sha256", ("file", "columns")), "encoder": ("revision", ("model",))}
    found = dict(settings)
    for part, (content, names) in known.items():
        if isinstance(found.get(part), dict) and found[part].get(content):
            found[part] = {name: value for name, value in found[part].items() if name not in names}
    return found


def _differs(old: Mapping[str, Any], new: Mapping[str, Any], *ignored: str) -> str | None:
    """The first setting that is another one now, in words, but for those of the names ``ignored``."""
    return _difference(_identity(old), _identity({**new, **{name: old.get(name) for name in ignored}}))


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], name: str = "") -> str | None:
    """The first entry in which two descriptions differ, in words."""
    for key in new:
        before, after = old.get(key), new[key]
        if isinstance(before, dict) and isinstance(after, dict):
            # Of two, each may lack an entry of the other.
            if found := _difference({**dict.fromkeys(after), **before}, {**dict.fromkeys(before), **after}, key):
                return found
        elif before != after:
            return f"{name} {key}".strip() + f" {shown(before)}, and is now {shown(after)}"
    return None


def _addable(
    folder: FeatureFolder, record: Mapping[str, Any] | None, settings: Mapping[str, Any], modality: str
) -> Mapping[str, Any] | None:
    """``record``, if vectors of its file may be taken over."""
    if record is None or _differs(record, settings, "versions", "catalogue"):
        return None
    try:
        folder.check_unprocessed(modality)
    except RunError:  # what was begun is enough to go on from
        return None
    return record


def _refusal(path: Path, modality: str, verb: str, difference: str) -> str:
    can_follow = difference.startswith("catalogue ")
    return (
        f"{path} has features of {modality} that were {verb} with {difference}: name another folder with --out, "
        + ("encode what has changed with --update, " if can_follow else "")
        + "or make them anew with --overwrite."
    )
