import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data.provenance import now, versions, write_provenance, write_report
from lirdrec_pyg.errors import DataError, RunError, shown
from lirdrec_pyg.features.feature_folder import FeatureFolder
from lirdrec_pyg.features.partial_encoding import BLOCK_ROWS, Outcome, PartialEncoding, Source, encode_entries
from lirdrec_pyg.features.postprocess import Postprocessing
from lirdrec_pyg.files import checksum, whole_file

_log = logging.getLogger(__name__)


def make_features(
    sources: Sequence[Source],
    out: str | Path,
    postprocessing: Postprocessing | None = None,
    overwrite: bool = False,
    update: bool = False,
    callback: Callback | None = None,
) -> dict[str, dict[str, Any]]:
    """Encode the entries of each source into a folder of features, which ``fit`` reads as it is.

    ============================  ==================================================================
    ``MODALITY_feat.parquet``     ``item_id``, ``features`` (array of float32) and ``sha256`` (of the encoded text or
                                  file) of each item that has a vector
    ``provenance.json``           how each file was made: model, revision, preprocessing, pooling, postprocessing,
                                  versions, date, checksums
    ``report.csv``                ``item_id``, ``modality`` and ``reason`` of each item that has none
    ============================  ==================================================================

    An interrupted or killed call is resumed by the same call; the result is the same, to the last byte. Other
    modalities in the folder are left alone.

    With ``update``, items whose text or file is unchanged keep their vectors, and only new and changed ones are
    encoded, and those that could not be used before. Texts and files are recognized by their SHA-256. The result equals
    that of encoding everything, up to rounding (some 1e-6) due to other batches. The record has the number of vectors
    that were kept (``taken_over``), and the versions of the libraries that made them if they differ (``earlier``). An
    update may also follow an interrupted call: nothing is encoded twice.

    The vectors of a modality are in memory, as they are in ``fit``.

    Args:
        sources: one source per modality.
        out: folder, created if necessary.
        postprocessing: steps after the encoding; by default none.
        overwrite: whether to replace modalities that exist, or were begun with other settings.
        update: whether to add to modalities that exist; ignored with ``overwrite``.
        callback: follows the encoding, one task per modality.

    Returns:
        The provenance record of each modality.

    Raises:
        RunError: if the folder is in use or cannot be written, or a modality exists with other settings, or was
            postprocessed and cannot be updated.
        DataError: if none of the entries of a modality can be used.
    """
    folder, steps = FeatureFolder(Path(out)), postprocessing or Postprocessing()
    with folder.locked():
        tasks = [EncodingTask.plan(folder, source, steps, overwrite, update) for source in sources]
        return {task.source.modality: task.run(callback or Callback()) for task in tasks}


class WidthError(RunError):
    """Vectors of another width than existing ones, such as by a server that replaced its model."""


@dataclass(frozen=True)
class EncodingTask:
    """Remaining work for one modality.

    Attributes:
        finished: record of features that need no work.
        kept: record of features that are updated.
        resumes: whether unfinished work is continued.
        overwrite: whether existing vectors may be discarded.
    """

    folder: FeatureFolder
    source: Source
    postprocessing: Postprocessing
    settings: dict[str, Any]
    finished: dict[str, Any] | None = None
    kept: dict[str, Any] | None = None
    resumes: bool = False
    overwrite: bool = False

    @classmethod
    def plan(
        cls, folder: FeatureFolder, source: Source, postprocessing: Postprocessing, overwrite: bool, update: bool
    ) -> "EncodingTask":
        """Determine what exists and what is left to do; raise :class:`RunError` for other settings; write nothing."""
        modality, settings = source.modality, _settings(source, postprocessing)
        folder.check_own(modality)
        begun, record = folder.partial(modality).settings(), folder.record(modality)
        begun_with = _difference(begun, settings, "postprocessing", *(["catalog"] if update else []))
        resumes = bool(begun) and begun_with is None
        task = cls(folder, source, postprocessing, settings, resumes=resumes, overwrite=overwrite)
        if overwrite:
            return task
        update = update or (resumes and begun["update"])
        # Other versions of libraries do not invalidate features.
        made_with = _difference(record, settings, "versions", *(["catalog"] if update else []))
        if begun_with and not (update and record and not made_with):
            raise _refusal(folder.path, modality, "begun", begun_with)
        if made_with and not resumes:
            raise _refusal(folder.path, modality, "made", made_with)
        if made_with or not record:
            return task
        is_unchanged = not source.entries.are_files and record.get("catalog") == settings["catalog"]
        if update and not (is_unchanged and record.get("postprocessing")):
            folder.check_reusable(modality, begun.get("result") if resumes else None)
            return replace(task, kept=record)
        return task if resumes else replace(task, finished=record)

    def run(self, callback: Callback) -> dict[str, Any]:
        """Encode what is left, and write the features and their record."""
        modality, total, partial = self.source.modality, len(self.source.entries), self._partial
        if self.finished is not None:
            callback.on_task_start(modality, total, total)
            self._warn_of_changed_files(self.finished)
            callback.on_task_end(modality, self.finished)
            return self.finished
        if not self.resumes:
            partial.clear()
        partial.add_settings({**self.settings, "update": self.kept is not None})
        keys, kept = self._keys(callback), self._kept_vectors()
        try:
            outcomes = self._encode(keys, kept, callback)
        except WidthError:
            if not (self.overwrite and self.resumes):
                raise
            return replace(self, resumes=False).run(callback)
        record = self._write(keys, outcomes, sum(key in kept for key in keys))
        callback.on_task_end(modality, record)
        return record

    @property
    def _partial(self) -> PartialEncoding:
        return self.folder.partial(self.source.modality)

    def _keys(self, callback: Callback) -> list[str]:
        """Return the checksum of each entry, or the path of a file that cannot be read."""
        entries, keys = self.source.entries, []
        callback.on_task_start(f"{self.source.modality}, checksums", len(entries))
        with ThreadPoolExecutor() as pool:
            for part in entries.frame["entry"].to_frame().iter_slices(BLOCK_ROWS):
                found = pool.map(entries.checksum, part["entry"])
                keys += [key or entry for key, entry in zip(found, part["entry"], strict=True)]
                callback.on_task_advance(len(part))
        return keys

    def _kept_vectors(self) -> dict[str, Outcome]:
        if self.kept is None:
            return {}
        before = pl.read_parquet(self.folder.file(self.source.modality), glob=False)
        return dict(zip(before["sha256"], before["features"].to_numpy(), strict=True))

    def _encode(self, keys: list[str], kept: dict[str, Outcome], callback: Callback) -> dict[str, Outcome]:
        """Return the outcome of each entry, saving new ones."""
        modality, partial = self.source.modality, self._partial
        known, width = partial.outcomes(), _width(kept)
        if width is not None:  # unfinished work may come from a model that was replaced
            known = {key: x for key, x in known.items() if isinstance(x, str) or len(x) == width}
        rows = Counter(keys)
        outcomes = {**known, **kept}
        entries = dict(zip(keys, self.source.entries.frame["entry"], strict=True))
        new = {key: entry for key, entry in entries.items() if key not in kept}
        callback.on_task_start(modality, len(keys), sum(key in outcomes for key in keys))
        for batch in encode_entries(self.source, new, known):
            existing, found = _width(outcomes), _width(batch)
            if None not in (existing, found) and existing != found:
                raise WidthError(
                    f"The model of {modality} was replaced: it returns vectors of width {found}, but existing ones "
                    f"have width {existing}. Pass `overwrite=True` to encode everything again."
                )
            partial.append(batch)
            outcomes.update(batch)
            callback.on_task_advance(sum(rows[key] for key in batch))
        return outcomes

    def _warn_of_changed_files(self, record: Mapping[str, Any]) -> None:
        entries, count = self.source.entries, 0
        with suppress(TypeError, ValueError):  # an edited record
            made = datetime.fromisoformat(record.get("date", "")).timestamp()
            for path in entries.frame["entry"] if entries.are_files else ():
                with suppress(OSError):
                    count += os.stat(path).st_mtime >= made + 1
        if count:
            _log.warning(
                "%s files of %s have changed since their features were made. Pass `update=True` to encode them again.",
                *(f"{count:,}", self.source.modality),
            )

    def _write(self, keys: list[str], outcomes: Mapping[str, Outcome], num_kept: int) -> dict[str, Any]:
        entries, modality, partial = self.source.entries, self.source.modality, self._partial
        found = [outcomes[key] for key in keys]
        reasons = pl.Series([one if isinstance(one, str) else None for one in found], dtype=pl.String)
        frame = entries.frame.select("item_id").with_columns(sha256=pl.Series(keys), reason=reasons)
        failures = frame.filter(reasons.is_not_null()).select("item_id", "reason")
        encoded = frame.filter(reasons.is_null()).select("item_id", "sha256")
        if encoded.is_empty():
            partial.clear()
            item, reason = failures.row(0)
            raise DataError(
                f"None of the {len(failures)} entries of {modality} can be used. Reason for item {shown(item)}: "
                f"{reason}."
            )
        record = self.kept
        if record is None or not self._is_unchanged(record, encoded):
            x = torch.from_numpy(np.stack([one for one in found if not isinstance(one, str)]))
            record = self._write_features(encoded, x, len(failures), num_kept)
        nothing = f"there is nothing in {' and '.join(entries.facts['columns'])}"
        missing = pl.DataFrame({"item_id": entries.missing}).with_columns(reason=pl.lit(nothing))
        write_report(self.folder.path, modality, pl.concat([missing, failures]))
        partial.clear()
        return record

    def _is_unchanged(self, kept: Mapping[str, Any], encoded: pl.DataFrame) -> bool:
        """Return whether an update found no changes."""
        file = self.folder.file(self.source.modality)
        return (
            not _difference(kept, self.settings, "versions")
            and checksum(file) == kept["sha256"]
            and encoded.equals(pl.read_parquet(file, columns=encoded.columns))
        )

    def _write_features(self, encoded: pl.DataFrame, x: Tensor, num_failures: int, num_kept: int) -> dict[str, Any]:
        modality, file, partial = self.source.modality, self.folder.file(self.source.modality), self._partial
        x = self.postprocessing.apply(x, modality)
        features = pl.Series("features", x.numpy(), dtype=pl.Array(pl.Float32, x.size(1)))
        # Inside the unfinished folder, so that what a kill leaves is removed with it.
        with whole_file(file, partial.path / "features.partial") as unfinished:
            encoded.insert_column(1, features).write_parquet(unfinished, compression="uncompressed", statistics=False)
            sha256 = checksum(unfinished)
            if not self.settings["postprocessing"]:
                # A call that is killed before the record is written recognizes its file by this.
                partial.add_settings({"result": sha256})
        record = {
            "file": file.name,
            "sha256": sha256,
            "rows": len(encoded),
            "width": x.size(1),
            "dtype": "float32",
            "missing": len(self.source.entries.missing) + num_failures,
            **self.settings,
            **(self._origin(self.kept, num_kept) if self.kept and num_kept else {}),
            "date": now(),
        }
        write_provenance(self.folder.path, modality, record)
        return record

    def _origin(self, kept: Mapping[str, Any], num_kept: int) -> dict[str, Any]:
        """Return how the kept vectors were made, if by other versions of the libraries."""
        made = [*kept.get("earlier", ()), {key: kept.get(key) for key in ("date", "versions")}]
        others = [one for one in made if one["versions"] != self.settings["versions"]]
        return {"taken_over": num_kept, **({"earlier": others} if others else {})}


def _width(outcomes: Mapping[str, Outcome]) -> int | None:
    return next((len(one) for one in outcomes.values() if not isinstance(one, str)), None)


def _settings(source: Source, postprocessing: Postprocessing) -> dict[str, Any]:
    """Return everything that determines the features of ``source``, up to rounding, as JSON returns it."""
    settings: dict[str, Any] = {
        "encoder": source.encoder.describe(),
        "catalog": source.entries.facts,
        "postprocessing": postprocessing.describe(),
        "versions": versions(source.encoder.packages),
    }
    return dict(json.loads(json.dumps(settings)))


def _flatten(settings: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested settings, without names of files and models that are identified by their content."""
    if not isinstance(settings, dict):
        return {name: settings}
    ignored: tuple[str, ...] = ()
    if name == "catalog" and settings.get("sha256"):
        ignored = ("file", "columns")
    elif name == "encoder" and settings.get("revision"):
        ignored = ("model",)
    parts = [_flatten(value, f"{name} {key}".strip()) for key, value in settings.items() if key not in ignored]
    return {key: value for part in parts for key, value in part.items()}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], *ignored: str) -> str | None:
    """Describe the first setting of ``new`` that differs in ``old`` (if there is any), except for ``ignored``."""
    if not old:
        return None
    before, after = (_flatten({key: one.get(key) for key in new if key not in ignored}) for one in (old, new))
    for key in {**after, **before}:
        if before.get(key) != after.get(key):
            return f"{key} {shown(before.get(key))} instead of {shown(after.get(key))}"
    return None


def _refusal(path: Path, modality: str, verb: str, difference: str) -> RunError:
    fix = "`update=True` to encode what has changed, " if difference.startswith("catalog ") else ""
    return RunError(
        f"Features of {modality} in {path} were {verb} with {difference}. Pass another folder as `out`, {fix}or "
        "`overwrite=True` to encode everything again."
    )
