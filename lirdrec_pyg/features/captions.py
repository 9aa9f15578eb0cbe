"""Captions of images, kept in a file that people can read and correct."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data.provenance import now
from lirdrec_pyg.errors import DataError, RunError, first_line, listed
from lirdrec_pyg.features.captioners import Captioner, Outcome, Task, in_one_line
from lirdrec_pyg.features.catalog import Entries
from lirdrec_pyg.features.openai_client import MAX_FAILURES, ServerError
from lirdrec_pyg.features.prompt import Prompt
from lirdrec_pyg.files import checksum, whole_file

CAPTIONS, CAPTION = "captions.jsonl", "caption"

_log = logging.getLogger(__name__)


class CaptionFile:
    """JSON Lines file with the caption of each item.

    A line has ``id`` and ``caption``, and unless it was written by hand, how the caption was made: ``model``,
    ``revision`` or ``url``, ``date``, and the SHA-256 of the filled-in prompt (``prompt_hash``), the image file
    (``image_hash``) and the caption (``caption_hash``). By ``image_stamp`` (inode, size, time of modification), the
    image file is known to be unchanged without reading it.

    A caption that does not match its ``caption_hash`` was corrected by hand. Of several lines of an item, the last one
    by hand counts, else the last one. Lines are flushed to the disk one by one; a last line that was cut off by a kill
    is dropped. If another program saves the file meanwhile, it is read again.

    Raises:
        DataError: naming the first invalid line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read()

    def _read(self) -> None:
        self._lines: dict[str, bytes] = {}
        self._has_duplicates = False
        self._stamp = _stamp(self.path)
        try:
            content = b"" if self._stamp is None else self.path.read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read {self.path} ({error}).") from error
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                parsed = _parse(line)
            except ValueError as error:
                # A line that ends with a brace was not cut off, but is a correction with a mistake.
                if number == len(lines) and not line.rstrip().endswith(b"}"):
                    _log.warning("The last line of %s was cut off, and is dropped.", self.path)
                    content = content[: -len(line)]
                    break
                raise DataError(
                    f"Line {number} of {self.path} is invalid ({error}). Fix it, or delete it to describe the image "
                    "again."
                ) from error
            earlier = self._lines.get(key := str(parsed["id"]))
            self._has_duplicates |= earlier is not None
            if earlier is None or by_hand(parsed) or not by_hand(_parse(earlier)):
                self._insert(key, line)
        self._end = len(content)
        self._missing_newline = b"\n" if content and not content.endswith(b"\n") else b""

    def _insert(self, key: str, line: bytes) -> None:
        self._lines.pop(key, None)  # the last line of the file is the last here
        self._lines[key] = line

    def _refresh(self) -> None:
        if self._stamp != _stamp(self.path):
            self._read()

    def get(self, item: int | str) -> dict[str, Any] | None:
        """Return the line of an item."""
        self._refresh()
        line = self._lines.get(str(item))
        return None if line is None else _parse(line)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._refresh()
        return map(_parse, self._lines.values())

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line to the disk."""
        self._refresh()
        encoded = json.dumps(line, ensure_ascii=False).encode()
        try:
            with self.path.open("ab") as file:
                file.truncate(self._end)
                self._end += file.write(self._missing_newline + encoded + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"Cannot write {self.path} ({error}).") from error
        self._missing_newline = b""
        self._insert(str(line["id"]), encoded)
        self._stamp = _stamp(self.path)

    def compact(self) -> None:
        """Remove lines that were replaced."""
        self._read()
        if self._has_duplicates:
            with whole_file(self.path) as unfinished:
                unfinished.write_bytes(b"".join(line.rstrip(b"\r") + b"\n" for line in self._lines.values()))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if not isinstance(content.get("id"), (int, str)) or isinstance(content["id"], bool):
        raise ValueError("no 'id' that is an integer or a string")
    if not isinstance(content.get("caption"), str):
        raise ValueError("no 'caption' that is a string")
    return content


def by_hand(line: Mapping[str, Any]) -> bool:
    """Return whether the caption of a line was written or corrected by a person."""
    return line.get("caption_hash") != _hash(line["caption"])


def _stamp(path: Path) -> list[int] | None:
    """Return what changes with the content of a file; ``None`` if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass
class CaptionReport:
    """Numbers of new captions, existing ones, new ones that were cut off at their maximum length, and outdated ones by
    what has changed (image, prompt or model); and the reason why an item has no caption."""

    made: int = 0
    kept: int = 0
    cut: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    failures: dict[int | str, str] = field(default_factory=dict)


def make_captions(
    images: Entries,
    texts: Mapping[str, Mapping[int | str, str]],
    prompt: Prompt,
    captioner: Captioner,
    file: CaptionFile,
    recaption: bool = False,
    callback: Callback | None = None,
    on_first: Callable[[], None] = lambda: None,
) -> CaptionReport:
    """Describe the images that have no caption yet; captions by hand are never replaced.

    Args:
        images: paths of the images.
        texts: see :meth:`Prompt.texts`.
        recaption: whether to replace captions whose image, prompt or model has changed.
        callback: follows the tasks ``"images, compared"`` and ``"captions"``.
        on_first: called before the first new caption is written.

    Raises:
        ServerError: if the server or model cannot be used; finished captions are kept.
    """
    callback, report = callback or Callback(), CaptionReport()
    described = captioner.describe()
    made_by = {key: described[key] for key in ("model", "revision", "url") if described.get(key)}
    # A model that has described an image, now or earlier, works: if it refuses many images, these are to blame.
    model_works = any(_model(line) == _model(made_by) for line in file)
    failures_in_a_row = 0

    pending = []
    callback.on_task_start("images, compared", len(images))
    for item, path in images.frame.select("item_id", "entry").iter_rows():
        callback.on_task_advance(1)
        line = file.get(item)
        changes = [] if line is None or by_hand(line) else _changes(line, made_by, prompt.fill(item, texts), Path(path))
        if line is None or (recaption and changes and os.path.isfile(path)):
            pending.append((item, path))
            continue
        report.changed.update(changes)
        if in_one_line(line["caption"]):
            report.kept += 1
        else:
            report.failures[item] = "its line in the file is empty"

    def tasks() -> Iterator[Task]:
        for item, path in pending:
            words = prompt.fill(item, texts)
            try:
                stamp, image_hash = _stamp(Path(path)), checksum(Path(path))
            except OSError:
                report.failures[item] = "there is no such file"
                callback.on_task_advance(1)
                continue
            facts = {"prompt_hash": _hash(words), "image_hash": image_hash, "image_stamp": stamp}
            yield Task(item, path, words, facts)

    def on_outcome(outcome: Outcome) -> None:
        nonlocal failures_in_a_row, model_works
        item = outcome.task.item
        callback.on_task_advance(1)
        if outcome.caption is None:
            report.failures[item] = str(outcome.reason)
            failures_in_a_row += outcome.blame == "model" or (outcome.blame == "unknown" and not model_works)
            if failures_in_a_row >= MAX_FAILURES:
                raise ServerError(
                    f"{failures_in_a_row} images in a row got no caption. Reason for the last one: {outcome.reason}."
                )
            return
        failures_in_a_row, model_works = 0, True
        if (line := file.get(item)) is not None and by_hand(line):  # written meanwhile
            report.kept += 1
            return
        if not report.made:
            on_first()
        cut = {"cut": True} if outcome.cut else {}
        facts = {**made_by, **outcome.task.facts, "caption_hash": _hash(outcome.caption), **cut, "date": now()}
        file.append({"id": item, "caption": outcome.caption, **facts})
        report.made += 1
        report.cut += outcome.cut

    callback.on_task_start("captions", len(images), len(images) - len(pending))
    try:
        captioner.caption(tasks(), on_outcome)
    finally:
        file.compact()
    callback.on_task_end("captions", vars(report))
    return report


def _changes(line: Mapping[str, Any], made_by: Mapping[str, Any], prompt: str, image: Path) -> list[str]:
    """Return what has changed since a caption was made."""
    try:  # read the image only if it may have changed
        is_same = line.get("image_stamp") == _stamp(image) or checksum(image) == line.get("image_hash")
    except OSError:  # the image is gone
        is_same = True
    changed = {
        "image": not is_same,
        "prompt": _hash(prompt) != line.get("prompt_hash"),
        "model": _model(made_by) != _model(line),
    }
    return [name for name, is_changed in changed.items() if is_changed]


def _model(made_by: Mapping[str, Any]) -> Any:
    """Return what identifies a model, independent of where it is stored or served."""
    return made_by.get("revision", made_by.get("model"))


def caption_entries(ids: pl.Series, file: CaptionFile) -> Entries:
    """Return the captions of items as entries of a text encoder; raise :class:`DataError` if none has any."""
    by_item, models, known = {}, Counter[str](), set(ids.cast(pl.String))
    for line in file:
        if (key := str(line["id"])) in known and (caption := in_one_line(line["caption"])):
            by_item[key] = caption
            models["by hand" if by_hand(line) else str(line.get("model"))] += 1
    if not by_item:
        raise DataError(f"{file.path} has no caption of any item of the catalog, such as {listed(ids[:3])}.")
    captions = pl.Series("caption", [by_item.get(key) for key in ids.cast(pl.String)], dtype=pl.String)
    entries = Entries.of(ids, captions, file.path, ["caption"])
    return replace(entries, facts={**entries.facts, "captions": dict(sorted(models.items()))})
