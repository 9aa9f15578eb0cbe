"""Captions of pictures, kept in a file that people can read and correct."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import polars as pl

from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.data.tables import first_line, listed, shown
from lirdrec_pyg.errors import DataError, RunError
from lirdrec_pyg.features.blocks import write_whole
from lirdrec_pyg.features.captioners import Captioner, Outcome, Task, in_one_line
from lirdrec_pyg.features.catalogue import Entries
from lirdrec_pyg.features.chat import ServerError
from lirdrec_pyg.features.prompt import Prompt

CAPTIONS, CAPTION = "captions.jsonl", "caption"

# So many failures in a row that the model or server is to blame, and not the pictures.
_TOO_MANY = 20
_MAX_LINE = 2**20

_log = logging.getLogger(__name__)


class CaptionFile:
    """Captions by item, a line of JSON each: ``id`` and ``caption``, and in lines that were not written by hand how
    the caption came about: ``model``, ``revision`` or ``url``, ``date``, and the SHA-256 of the filled-in prompt
    (``prompt_hash``), of the picture's file (``image_hash``) and of the caption (``caption_hash``). By
    ``image_stamp``, its inode, size and time of writing, it is known not to have changed without reading it again.

    A caption that is not what its ``caption_hash`` says was corrected by hand, and is never replaced. The last line
    of an item holds, or the last one by hand. Lines are appended, and on the disk when :meth:`flush` returns; a last
    line that was cut off by a kill is dropped. A file that a person saves meanwhile is read again.

    Args:
        path: of the file, which need not be there.

    Raises:
        DataError: naming the line that can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._read_again()

    def _read_again(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lines: dict[str, int] = {}  # where the line of each item begins
        self._superseded = 0
        self._end, self._ends_a_line = 0, True
        self._left = self._stamp()
        if self._left is not None:
            self._index()

    def _stamp(self) -> list[int] | None:
        try:
            return _stamp(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self.path} can't be read ({error}).") from error

    def __contains__(self, item: int | str) -> bool:
        return str(item) in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def _index(self) -> None:
        written: set[str] = set()  # items of which a line is by hand
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
                    start, self._end = self._end, self._end + len(line)
                    self._ends_a_line = line.endswith(b"\n")
                    if not line.strip():
                        continue
                    try:
                        content = _parsed(line)
                    except ValueError as error:
                        # What ends with a brace was not cut off, but damaged by a hand that wanted to correct it.
                        if not self._ends_a_line and len(line) < _MAX_LINE and not line.rstrip().endswith(b"}"):
                            _log.warning("The last line of %s was cut off, and is left out.", self.path)
                            self._end, self._ends_a_line = start, True
                            break
                        raise DataError(
                            f"Line {number} of {self.path} can't be read ({error}): mend it, or delete it to have the "
                            "picture described anew."
                        ) from error
                    key = str(content["id"])
                    self._superseded += key in self._lines
                    if by_hand(content):
                        written.add(key)
                    elif key in written:
                        continue
                    self._lines[key] = start
        except OSError as error:
            raise DataError(f"{self.path} can't be read ({error}).") from error

    def line(self, item: int | str) -> dict[str, Any] | None:
        """What the file says of an item."""
        if self._stamp() != self._left:
            self._read_again()
        start = self._lines.get(str(item))
        if start is None:
            return None
        with self.path.open("rb") as file:
            file.seek(start)
            return _parsed(file.readline(_MAX_LINE))

    def append(self, line: Mapping[str, Any]) -> None:
        """Writes one line; :meth:`flush` has to follow before the next."""
        if self._stamp() != self._left:
            self._read_again()
        try:
            if self._file is None:
                self._file = self.path.open("r+b" if self.path.exists() else "w+b")
                self._file.truncate(self._end)
                self._file.seek(self._end)
            if not self._ends_a_line:  # an editor may have taken the last line end
                self._end += self._file.write(b"\n")
            content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            self._superseded += str(line["id"]) in self._lines
            self._lines[str(line["id"])] = self._end
            self._end += self._file.write(content)
            self._ends_a_line = True
        except OSError as error:
            raise RunError(f"{self.path} can't be written ({error}).") from error

    def flush(self) -> None:
        """Has all lines on the disk."""
        if self._file is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._left = self._stamp()
        except OSError as error:
            raise RunError(f"{self.path} can't be written ({error}).") from error

    def close(self) -> None:
        """The end of all work: the file is left without the lines that later ones have taken the place of."""
        self._read_again()
        if self._superseded:
            starts = sorted(self._lines.items(), key=lambda pair: pair[1])
            write_whole(self.path, lambda unfinished: self._write_only(starts, unfinished))

    def _write_only(self, starts: list[tuple[str, int]], path: Path) -> None:
        with self.path.open("rb") as old, path.open("wb") as new:
            for _, start in starts:
                old.seek(start)
                new.write(old.readline(_MAX_LINE).rstrip(b"\r\n") + b"\n")

    def items(self) -> Iterator[dict[str, Any]]:
        """All lines that hold."""
        if not self._lines:
            return
        with self.path.open("rb") as file:
            for start in sorted(self._lines.values()):
                file.seek(start)
                yield _parsed(file.readline(_MAX_LINE))


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if not isinstance(content.get("id"), (int, str)) or isinstance(content["id"], bool):
        raise ValueError("it has no 'id' that is an integer or a text")
    if not isinstance(content.get("caption"), str):
        raise ValueError("it has no 'caption' that is a text")
    return content


def by_hand(line: Mapping[str, Any]) -> bool:
    """Whether a person has written or corrected the caption of a line."""
    return line.get("caption_hash") != _hash(line["caption"])


def _stamp(path: Path) -> list[int]:
    """By which a file is known that another program has written to, or put another in its place."""
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass
class CaptionReport:
    """What became of the pictures.

    Attributes:
        made: captions that were made now.
        kept: captions that were there.
        cut: of those that were made, how many were cut off by their greatest length.
        changed: items whose picture, prompt or model is another than that of their caption, and which kept it.
        failures: why an item has no caption.
    """

    made: int = 0
    kept: int = 0
    cut: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    failures: dict[int | str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hooks:
    """What a caller wants to hear.

    Attributes:
        on_start: called with the number of pictures, and how many have a caption already.
        on_rows: called with the number of pictures that are done anew, or compared.
        on_first: called before the first caption that is made is written.
        on_compare: called before all else with the number of pictures that have a caption; they are compared with what
            it was made of.
    """

    on_start: Callable[[int, int], None] = lambda total, done: None
    on_rows: Callable[[int], None] = lambda count: None
    on_first: Callable[[], None] = lambda: None
    on_compare: Callable[[int], None] = lambda total: None


def make_captions(
    pictures: Entries,
    texts: Mapping[str, Mapping[int | str, str]],
    prompt: Prompt,
    captioner: Captioner,
    path: Path,
    recaption: bool = False,
    hooks: Hooks | None = None,
) -> CaptionReport:
    """Describes the pictures that have no caption yet, and keeps the captions in a file.

    Each is on the disk as soon as it is made, so that a call that was interrupted or killed goes on where it
    stood. A caption that is there stays, if it was corrected by hand or given by the user, for good.

    Args:
        pictures: paths of the pictures, by item.
        texts: for each place of the prompt, the texts by item.
        prompt: what the model is told.
        captioner: that describes them.
        path: of the file, see :class:`CaptionFile`.
        recaption: makes captions anew whose picture, prompt or model has changed since.
        hooks: for progress.

    Returns:
        What became of them.

    Raises:
        DataError: if the file can't be read.
        RunError: if it can't be written.
        ServerError: if nothing more can be expected of the server or model; what was made is kept.
    """
    hooks = hooks or Hooks()
    file, report = CaptionFile(path), CaptionReport()
    described = captioner.describe()
    made_by = {key: described[key] for key in ("model", "revision", "url") if described.get(key)}
    in_a_row = 0
    # A model that has described a picture, now or in an earlier call, can do so: what it refuses or
    # leaves empty is their fault, and those may stand in a row when it is called again.
    knows_pictures = any(_model(line) == _model(made_by) for line in file.items())

    def tasks() -> Iterator[Task]:
        for item, picture in pictures.frame.select("item_id", "entry").iter_rows():
            words = prompt.fill({column: values.get(item) for column, values in texts.items()})
            line = file.line(item)
            if line is not None:
                changes = _changes(line, made_by, words, hashes.get(item))
                if not (recaption and changes and hashes.get(item)):
                    if in_one_line(line["caption"]):
                        report.kept += 1
                    else:
                        report.failures[item] = "that in the file is empty"
                    report.changed.update(changes)
                    if recaption:
                        hooks.on_rows(1)
                    continue
            try:
                stamp, image_hash = _stamp(Path(picture)), checksum(Path(picture))
            except OSError:
                report.failures[item] = "there is no such file"
                hooks.on_rows(1)
                continue
            yield Task(item, picture, words, image_hash, stamp)

    def on_outcome(outcome: Outcome) -> None:
        nonlocal in_a_row, knows_pictures
        task = outcome.task
        hooks.on_rows(1)
        if outcome.caption is None:
            report.failures[task.item] = str(outcome.reason)
            in_a_row += outcome.blame or (outcome.doubtful and not knows_pictures)
            if in_a_row >= _TOO_MANY:
                raise ServerError(
                    f"{in_a_row} pictures in a row got no caption, the last one since {outcome.reason}: mend that and "
                    "call again, to go on from there."
                )
            return
        in_a_row, knows_pictures = 0, True
        if (line := file.line(task.item)) is not None and by_hand(line):  # written meanwhile
            report.kept += 1
            return
        if not report.made:
            hooks.on_first()
        file.append(
            {
                "id": task.item,
                "caption": outcome.caption,
                **made_by,
                "prompt_hash": _hash(task.prompt),
                "image_hash": task.image_hash,
                "image_stamp": task.image_stamp,
                "caption_hash": _hash(outcome.caption),
                **({"cut": True} if outcome.cut else {}),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
        )
        file.flush()
        report.made += 1
        report.cut += outcome.cut

    captioned = [(item, Path(picture)) for item, picture in pictures.frame.iter_rows() if item in file]
    hooks.on_compare(len(captioned))
    hashes = {}
    for item, picture in captioned:
        if (line := file.line(item)) is not None and not by_hand(line):
            hashes[item] = _image_hash(picture, line)
        hooks.on_rows(1)
    hooks.on_start(len(pictures), 0 if recaption else len(captioned))
    try:
        captioner.caption(tasks(), on_outcome)
    finally:
        file.close()
    return report


def _image_hash(picture: Path, line: Mapping[str, Any]) -> str | None:
    """SHA-256 of a picture, which is read only if it may have changed since; ``None`` if it is gone."""
    try:
        return line["image_hash"] if line.get("image_stamp") == _stamp(picture) else checksum(picture)
    except (OSError, LookupError):
        return None


def _changes(line: Mapping[str, Any], made_by: Mapping[str, Any], prompt: str, image_hash: str | None) -> list[str]:
    """What has changed since a caption was made; nothing that a person has written is out of date."""
    if by_hand(line):
        return []
    return [
        what
        for what, before, after in (
            ("picture", line.get("image_hash"), image_hash or line.get("image_hash")),
            ("prompt", line.get("prompt_hash"), _hash(prompt)),
            ("model", _model(line), _model(made_by)),
        )
        if before != after
    ]


def _model(made_by: Mapping[str, Any]) -> Any:
    """What a model is known by, wherever its weights lie or are served."""
    return made_by.get("revision", made_by.get("model"))


def caption_entries(ids: pl.Series, path: Path, prompt: Prompt | None = None) -> Entries:
    """The captions in a file, as an encoder of texts takes them.

    Args:
        ids: of all items of the catalogue; captions of other items are left alone.
        path: of the file.
        prompt: that the captions were made with, for the provenance.

    Raises:
        DataError: if there is no caption of any of the items.
    """
    by_item = {}
    models: Counter[str] = Counter()
    wanted = {str(item) for item in ids.to_list()}
    for line in CaptionFile(path).items():
        if (key := str(line["id"])) in wanted and (caption := in_one_line(line["caption"])):
            by_item[key] = caption
            models["by hand" if by_hand(line) else str(line.get("model"))] += 1
    captions = pl.Series("caption", [by_item.get(str(item)) for item in ids.to_list()], dtype=pl.String)
    if not by_item:
        raise DataError(f"{path} has no caption of any of the items {listed(map(shown, ids[:3].to_list()))}.")
    entries = Entries.of(ids, captions, path, ["caption"])
    return Entries(entries.frame, entries.missing, {**entries.facts, "captions": dict(sorted(models.items()))})
