"""Folder of features: its content, and what interruptions and updates leave of it."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from filelock import FileLock
from torch import Tensor

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import read_features
from lirdrec_pyg.errors import DataError, RunError
from lirdrec_pyg.features import Encoder, Entries, Postprocessing, Source, make_features
from lirdrec_pyg.files import checksum

BLOCK_ROWS = 32
COUNT = 2 * BLOCK_ROWS + 10
BROKEN = {3: "crumbled", BLOCK_ROWS: "torn", COUNT - 1: "wet"}
NAN, ZERO = 10, 20


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.features.partial_encoding.BLOCK_ROWS", BLOCK_ROWS)


class Letters(Encoder):
    """Counts letters, so that each vector is known."""

    def __init__(self, batch_size: int = 7, name: str = "letters") -> None:
        self.batch_size, self.name = batch_size, name
        self.batches: list[list[str]] = []

    def load(self, entry: str) -> str:
        if (number := int(entry.split()[0])) in BROKEN:
            raise DataError(BROKEN[number])
        return entry

    def encode(self, batch: Sequence[str]) -> Tensor:
        self.batches.append(list(batch))
        return torch.tensor([vector(entry) for entry in batch])

    def describe(self) -> dict[str, Any]:
        return {"model": self.name, "revision": None}


def vector(entry: str) -> list[float]:
    number = int(entry.split()[0])
    if number in (NAN, ZERO):
        return [float("nan") if number == NAN else 0.0] * 3
    return [float(number), float(len(entry)), 1.0]


def text(number: int) -> str:
    return f"{number} " + "x" * (number * 37 % 50)


def source(encoder: Encoder | None = None, count: int = COUNT, modality: str = "text") -> Source:
    ids = pl.Series([f"i{n}" for n in range(count + 1)])
    entries = pl.Series([*map(text, range(count)), None], dtype=pl.String)
    return Source(modality, Entries.of(ids, entries, Path("c.csv"), ["a", "b"]), encoder or Letters())


Texts = dict[int | str, str | None]


def entries(texts: Texts, encoder: Encoder | None = None) -> Source:
    """A catalog of these texts; vectors depend on the number that they begin with."""
    column = pl.Series(list(texts.values()), dtype=pl.String)
    found = Entries.of(pl.Series(list(texts)), column, Path("c.csv"), ["a"])
    return Source("text", found, encoder or Letters())


def encoded(*sources: Source) -> list[str]:
    encoders = [source.encoder for source in sources]
    return sorted(entry for one in encoders for batch in one.batches for entry in batch)  # type: ignore[attr-defined]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


class Stop(BaseException):
    pass


def stop(*_: object) -> None:
    raise Stop


class StopAt(Callback):
    """Stops after some rows of a task; records the tasks that start."""

    def __init__(self, rows: int, task: str = "text") -> None:
        self.rows, self.task, self.started, self.seen = rows, task, list[tuple[str, int, int]](), 0

    def on_task_start(self, name: str, total: int, done: int = 0) -> None:
        self.started.append((name, total, done))
        self.seen = 0
        if name == self.task and not self.rows:
            raise Stop

    def on_task_advance(self, count: int) -> None:
        self.seen += count
        if self.started[-1][0] == self.task and self.seen >= self.rows:
            raise Stop


def interrupt(source: Source, out: Path, rows: int = 1, **options: Any) -> StopAt:
    callback = StopAt(rows)
    with pytest.raises(Stop):
        make_features([source], out, callback=callback, **options)
    return callback


def test_every_item_has_its_vector(tmp_path: Path) -> None:
    record = make_features([source()], tmp_path / "out", Postprocessing())["text"]
    table = read_features(tmp_path / "out" / "text_feat.parquet")
    good = [n for n in range(COUNT) if n not in {*BROKEN, NAN, ZERO}]
    assert table.ids is not None
    assert table.ids.to_list() == [f"i{n}" for n in good]
    assert table.values.tolist() == [vector(text(n)) for n in good]
    assert (record["rows"], record["width"], record["missing"]) == (COUNT - 5, 3, 6)
    report = pl.read_csv(tmp_path / "out" / "report.csv")
    assert report.columns == ["item_id", "modality", "reason"]
    reasons = dict(zip(report["item_id"], report["reason"], strict=True))
    assert reasons.items() >= {f"i{n}": reason for n, reason in BROKEN.items()}.items()
    assert reasons.keys() == {f"i{n}" for n in (*BROKEN, NAN, ZERO, COUNT)}
    assert sorted(contents(tmp_path / "out")) == ["provenance.json", "report.csv", "text_feat.parquet"]
    assert not (tmp_path / "out" / ".unfinished").exists()
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["modalities"] == {"text": record}
    assert record["sha256"] == checksum(tmp_path / "out" / "text_feat.parquet")
    assert record["encoder"] == {"model": "letters", "revision": None}
    assert record["catalog"]["columns"] == ["a", "b"]
    assert record["versions"].keys() >= {"lirdrec-pyg", "python", "torch"}
    assert record["date"].startswith("20")


def test_similar_lengths_are_batched_together(tmp_path: Path) -> None:
    encoder = Letters(batch_size=8)
    make_features([source(encoder)], tmp_path)
    assert max(map(len, encoder.batches)) == 8
    spread = [max(map(len, batch)) - min(map(len, batch)) for batch in encoder.batches]
    assert np.mean(spread) < 15


def test_equal_entries_are_encoded_once(tmp_path: Path) -> None:
    work = entries({"a": text(40), "b": text(41), "c": text(40)})
    make_features([work], tmp_path)
    assert encoded(work) == [text(40), text(41)]
    values = read_features(tmp_path / "text_feat.parquet").values
    assert values.tolist() == [vector(text(n)) for n in (40, 41, 40)]


class Uneven(Letters):
    """Vectors depend on the batch, as by rounding."""

    def encode(self, batch: Sequence[str]) -> Tensor:
        return super().encode(batch) + sum(map(len, batch))


def test_a_resumed_call_encodes_the_same_batches(tmp_path: Path) -> None:
    make_features([source(Uneven())], tmp_path / "whole")
    for rows in (1, BLOCK_ROWS - 7, BLOCK_ROWS + 20):
        interrupt(source(Uneven()), tmp_path / f"{rows}", rows)
        make_features([source(Uneven())], tmp_path / f"{rows}")
        assert contents(tmp_path / f"{rows}")["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]


def test_an_interrupted_call_is_resumed(tmp_path: Path) -> None:
    make_features([source()], tmp_path / "whole")
    for rows in (1, BLOCK_ROWS - 7, BLOCK_ROWS, BLOCK_ROWS + 20, 2 * BLOCK_ROWS, COUNT - 1):
        out, first, second = tmp_path / f"{rows}", source(), source(Letters(batch_size=7 if rows % 2 else 11))
        seen = interrupt(first, out, rows).seen
        assert not (out / "text_feat.parquet").exists()
        resumed = StopAt(10**6)
        make_features([second], out, callback=resumed)
        assert resumed.started[-1] == ("text", COUNT, seen)
        # No row is lost, and none is encoded twice.
        assert encoded(first, second) == sorted(text(n) for n in set(range(COUNT)) - BROKEN.keys())
        for name in ("text_feat.parquet", "report.csv"):
            assert contents(out)[name] == contents(tmp_path / "whole")[name]


def test_a_batch_that_a_power_cut_damaged_is_encoded_again(tmp_path: Path) -> None:
    interrupt(source(), tmp_path / "out")
    (batch,) = (tmp_path / "out" / ".unfinished" / "text").glob("*.safetensors")
    batch.write_bytes(bytes(len(batch.read_bytes())))
    make_features([source()], tmp_path / "out")
    make_features([source()], tmp_path / "whole")
    assert contents(tmp_path / "out")["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]


@pytest.mark.parametrize("name", ["write_report", "write_provenance", "checksum"])
def test_an_interrupt_while_the_result_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_features([source()], tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(f"lirdrec_pyg.features.encoding.{name}", stop)
        with pytest.raises(Stop):
            make_features([source()], tmp_path / "out")
    work = source()
    make_features([work], tmp_path / "out")
    assert not encoded(work)
    assert contents(tmp_path / "out")["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "whole").keys()


def test_finished_features_are_left_alone(tmp_path: Path) -> None:
    make_features([source()], tmp_path)
    before, work = contents(tmp_path), source()
    records = make_features([work], tmp_path)
    assert contents(tmp_path) == before
    assert records["text"]["rows"] == COUNT - 5
    assert not encoded(work)
    path = tmp_path / "provenance.json"
    path.write_text(path.read_text().replace('"catalog"', '"catalogue"'))  # as earlier versions wrote it
    make_features([work], tmp_path)
    assert not encoded(work)
    make_features([work], tmp_path, overwrite=True)
    assert encoded(work)
    assert contents(tmp_path)["text_feat.parquet"] == before["text_feat.parquet"]


OTHER: dict[str, tuple[Callable[[], Source], Postprocessing, str]] = {
    "model": (lambda: source(Letters(name="other")), Postprocessing(), "model 'letters' instead of 'other'"),
    "catalog": (lambda: source(count=COUNT - 1), Postprocessing(), "sha256"),
    "steps": (source, Postprocessing(pca=2), "pca None instead of 2"),
}


@pytest.mark.parametrize(
    ("finished", "case"), [(True, "model"), (True, "catalog"), (True, "steps"), (False, "model"), (False, "catalog")]
)
def test_other_settings_are_refused(tmp_path: Path, finished: bool, case: str) -> None:
    out, (other, steps, named) = tmp_path / "out", OTHER[case]
    if finished:
        make_features([source()], out)
    else:
        interrupt(source(), out)
    before = contents(out)
    with pytest.raises(RunError, match="overwrite") as error:
        make_features([source(modality="caption", count=50), other()], out, steps)
    assert named in str(error.value)
    assert contents(out) == before  # refused before any work
    make_features([other()], out, steps, overwrite=True)
    make_features([other()], tmp_path / "new", steps)
    assert contents(out)["text_feat.parquet"] == contents(tmp_path / "new")["text_feat.parquet"]


def test_other_postprocessing_does_not_encode_again(tmp_path: Path) -> None:
    first, second = source(), source()
    with pytest.raises(DataError, match="pca=2"):
        make_features([first], tmp_path, Postprocessing(pca=3))
    record = make_features([second], tmp_path, Postprocessing(pca=2))["text"]
    assert encoded(first)
    assert not encoded(second)
    assert (record["postprocessing"], record["width"]) == ({"pca": 2}, 2)


def test_a_smaller_batch_size_resumes_after_too_little_memory(tmp_path: Path) -> None:
    class Greedy(Letters):
        calls, limit = 0, 4

        def encode(self, batch: Sequence[str]) -> Tensor:
            self.calls += 1
            if self.calls > self.limit:
                raise torch.OutOfMemoryError
            return super().encode(batch)

    first, second = source(Greedy(batch_size=12)), source(Letters(batch_size=8))
    with pytest.raises(RunError, match=r"too little memory for 1\d entries of text.*batch_size"):
        make_features([first], tmp_path / "out")
    make_features([second], tmp_path / "out")
    assert len(encoded(first)) > BLOCK_ROWS
    assert len(encoded(first, second)) == COUNT - len(BROKEN)
    # A first try without any result may be followed by other settings.
    none = Greedy(name="large")
    none.limit = 0
    with pytest.raises(RunError, match="batch_size"):
        make_features([source(none)], tmp_path / "other")
    assert make_features([source()], tmp_path / "other")["text"]["encoder"]["model"] == "letters"


OLD: Texts = {f"i{n}": text(n) for n in range(100, 100 + 2 * BLOCK_ROWS)}
# Another order, some items removed, some added, others with another text, without one, or with a first one.
NEW: Texts = {
    "first": "2000 new",
    **dict(reversed([*OLD.items()][9:])),
    **{f"j{n}": text(n) for n in range(2001, 2050)},
    "i130": "130 changed",
    "i131": None,
    "found": "2100 found",
}
KEPT = len(OLD) - 9 - 2
CHANGED = sorted(["2000 new", "130 changed", "2100 found", *(text(n) for n in range(2001, 2050))])


@pytest.mark.parametrize("rows", [None, 0, 20, 51])
def test_an_update_encodes_only_what_has_changed(tmp_path: Path, rows: int | None) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    make_features([entries(NEW)], whole)
    make_features([entries({**OLD, "found": None})], out)
    work = entries(NEW)
    if rows is not None:
        assert interrupt(work, out, rows, update=True).started[-1] == ("text", len(NEW) - 1, KEPT)
        assert read_features(out / "text_feat.parquet").values.shape == (len(OLD), 3)
    # The update is resumed with and without the parameter.
    record = make_features([work], out, update=rows != 20)["text"]
    assert encoded(work) == CHANGED
    for name in ("text_feat.parquet", "report.csv"):
        assert contents(out)[name] == contents(whole)[name]
    assert record["taken_over"] == KEPT
    assert record["catalog"] == work.entries.facts
    assert "earlier" not in record
    again = entries(NEW)
    assert make_features([again], out, update=True)["text"] == record
    assert not encoded(again)


@pytest.mark.parametrize("interruption", ["start", "middle", "provenance"])
def test_an_interrupted_update_follows_later_changes(
    tmp_path: Path, interruption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_features([entries(OLD)], tmp_path / "out")
    begun, options = entries(NEW), {"update": True}
    if interruption in ("start", "middle"):
        interrupt(begun, tmp_path / "out", 0 if interruption == "start" else 20, **options)
    else:
        with monkeypatch.context() as patch:
            patch.setattr("lirdrec_pyg.features.encoding.write_provenance", stop)
            with pytest.raises(Stop):
                make_features([begun], tmp_path / "out", update=True)
    newer: Texts = {**NEW, "last": "3000 last"}
    done = entries(newer)
    make_features([done], tmp_path / "out", update=True)
    assert encoded(begun, done) == sorted([*CHANGED, "3000 last"])
    make_features([entries(newer)], tmp_path / "whole")
    assert contents(tmp_path / "out")["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]


def test_an_update_keeps_no_vectors_of_a_file_that_was_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, options in (("steps", {"postprocessing": Postprocessing(normalize=True)}), ("model", {})):
        make_features([entries(OLD)], tmp_path / name)
        encoder = Letters(name="other" if name == "model" else "letters")
        with monkeypatch.context() as patch:
            patch.setattr("lirdrec_pyg.features.encoding.write_provenance", stop)
            with pytest.raises(Stop):
                make_features([entries(NEW, encoder)], tmp_path / name, overwrite=True, **options)
        with pytest.raises(RunError, match=r"was changed since it was made.*overwrite"):
            make_features([entries(NEW)], tmp_path / name, update=True)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rows", [7, BLOCK_ROWS + 20])
def test_nothing_is_encoded_twice_if_the_catalog_changes_during_an_interruption(
    tmp_path: Path, rows: int, first: bool
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    texts: Texts = {f"i{n}": text(n) for n in range(3000, 3000 + 2 * BLOCK_ROWS)}
    if not first:
        make_features([entries({f"i{n}": text(n) for n in range(4040, 4060)})], out)
        texts |= {f"i{n}": text(n) for n in range(4050, 4070)}
    begun = entries(texts)
    interrupt(begun, out, rows, update=True)
    changed: Texts = {"first": "5000 new", **dict([*texts.items()][5:]), "last": "5001 new"}
    with pytest.raises(RunError, match=r"begun with catalog.*update"):
        make_features([entries(changed)], out)
    done = entries(changed)
    make_features([done], out, update=True)
    assert len(encoded(begun, done)) == len({*encoded(begun, done)})
    make_features([entries(changed)], whole)
    assert contents(out)["text_feat.parquet"] == contents(whole)["text_feat.parquet"]
    assert not (out / ".unfinished").exists()


class Wide(Letters):
    """A model that was replaced by another one of the same name."""

    def encode(self, batch: Sequence[str]) -> Tensor:
        return torch.cat([super().encode(batch), torch.ones(len(batch), 1)], dim=1)


@pytest.mark.parametrize("finished", [True, False])
def test_vectors_of_different_widths_are_not_mixed(tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "out"
    if finished:
        make_features([entries(OLD)], out)
    else:
        interrupt(entries(NEW), out)
    before = contents(out)
    for _ in range(2):
        with pytest.raises(RunError, match=r"width 4.* 3.*overwrite"):
            make_features([entries(NEW, Wide())], out, update=finished)
    assert contents(out) == before
    copy = shutil.copytree(out, tmp_path / "copy")
    # The right model resumes, and overwriting uses the new one.
    make_features([entries(NEW)], out, update=finished)
    make_features([entries(NEW)], tmp_path / "whole")
    assert contents(out)["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]
    record = make_features([entries(NEW, Wide())], copy, overwrite=True)["text"]
    assert (record["width"], record["rows"]) == (4, len(NEW) - 1)
    assert "taken_over" not in record


def test_an_update_reuses_no_vectors_of_another_width(tmp_path: Path) -> None:
    make_features([entries(OLD)], tmp_path)
    interrupt(entries(NEW, Wide()), tmp_path, overwrite=True)
    record = make_features([entries({**NEW, "last": "3000 last"})], tmp_path, update=True)["text"]
    assert (record["width"], record["taken_over"]) == (3, KEPT)


def test_overwriting_keeps_nothing_of_an_interrupted_update(tmp_path: Path) -> None:
    make_features([entries(OLD)], tmp_path)
    interrupt(entries(NEW), tmp_path, 0, update=True)
    work = entries(NEW)
    assert "taken_over" not in make_features([work], tmp_path, overwrite=True)["text"]
    assert len(encoded(work)) == len(NEW) - 1


def test_an_update_retries_what_could_not_be_used(tmp_path: Path) -> None:
    class Picky(Letters):
        def load(self, entry: str) -> str:
            if entry.startswith("40 "):
                raise DataError("the server fails")
            return super().load(entry)

    texts: Texts = {n: text(n) for n in range(40, 60)}
    assert make_features([entries(texts, Picky())], tmp_path)["text"]["missing"] == 1
    work = entries(texts)
    make_features([work], tmp_path)
    assert not encoded(work)
    record = make_features([work], tmp_path, update=True)["text"]
    assert encoded(work) == [text(40)]
    assert (record["rows"], record["missing"], record["taken_over"]) == (20, 0, 19)


def test_an_update_recognizes_integer_ids_that_became_strings(tmp_path: Path) -> None:
    make_features([entries({n: text(n) for n in range(40, 50)})], tmp_path)
    work = entries({str(n): text(n) for n in range(40, 50)} | {"A7": text(50)})
    make_features([work], tmp_path, update=True)
    assert encoded(work) == [text(50)]


def edit_record(folder: Path, **changes: Any) -> None:
    path = folder / "provenance.json"
    content = json.loads(path.read_text())
    content["modalities"]["text"] |= changes
    path.write_text(json.dumps(content))


def test_an_update_records_the_versions_that_made_the_kept_rows(tmp_path: Path) -> None:
    installed = make_features([entries(OLD)], tmp_path)["text"]["versions"]
    edit_record(tmp_path, versions={**installed, "torch": "1.0"}, date="2020-01-01T00:00:00+00:00")
    record = make_features([entries({**OLD, "more": "99 more"})], tmp_path, update=True)["text"]
    assert record["versions"] == installed
    assert installed["torch"] in torch.__version__  # without the tag of a CUDA build
    assert [(made["date"][:4], made["versions"]["torch"]) for made in record["earlier"]] == [("2020", "1.0")]
    again = make_features([entries({**OLD, "more": "99 most"})], tmp_path, update=True)["text"]
    assert again["earlier"] == record["earlier"]
    assert "earlier" not in make_features([entries({1: "98 other"})], tmp_path, update=True)["text"]


@pytest.mark.parametrize("case", ["postprocessed", "changed", "no checksums", "other model", "other steps"])
def test_what_cannot_be_updated_is_refused(tmp_path: Path, case: str) -> None:
    steps = Postprocessing(pca=2, normalize=True) if case == "postprocessed" else Postprocessing()
    make_features([entries(OLD)], tmp_path, steps)
    file = tmp_path / "text_feat.parquet"
    if case == "changed":
        pl.read_parquet(file).reverse().write_parquet(file)
    elif case == "no checksums":
        pl.read_parquet(file).drop("sha256").write_parquet(file)
        edit_record(tmp_path, sha256=checksum(file))
    before = contents(tmp_path)
    work = entries(NEW, Letters(name="other" if case == "other model" else "letters"))
    named = {
        "postprocessed": "pca, normalize",
        "changed": "was changed",
        "no checksums": "no checksums",
        "other model": "model 'letters' instead of 'other'",
        "other steps": "normalize None instead of True",
    }
    with pytest.raises(RunError, match=rf"{named[case]}.*overwrite"):
        make_features([work], tmp_path, Postprocessing(normalize=True) if case == "other steps" else steps, update=True)
    assert contents(tmp_path) == before


class Files(Letters):
    def load(self, entry: str) -> str:
        if not Path(entry).is_file():
            raise DataError("there is no such file")
        return f"{len(Path(entry).read_text())} {Path(entry).read_text()}"


def files(folder: Path) -> Source:
    paths = pl.Series([str(folder / name) for name in "abc"])
    texts = Entries.of(pl.Series([1, 2, 3]), paths, Path("c.csv"), ["a"])
    return Source("text", Entries(texts.frame, texts.missing, texts.facts, are_files=True), Files())


def test_an_update_compares_the_content_of_files(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "three")):
        (tmp_path / name).write_text(content)
    os.mkfifo(tmp_path / "c")
    assert make_features([files(tmp_path)], tmp_path / "out")["text"]["missing"] == 1
    later = time.time() + 100
    os.utime(tmp_path / "a", (later, later))
    (tmp_path / "b").write_text("seven")
    os.utime(tmp_path / "b", (0, 0))
    (tmp_path / "c").unlink()
    (tmp_path / "c").write_text("fourth")
    work = files(tmp_path)
    record = make_features([work], tmp_path / "out", update=True)["text"]
    assert encoded(work) == ["5 seven", "6 fourth"]
    assert (record["taken_over"], record["missing"]) == (1, 0)
    # Files that change while an update is interrupted are read again.
    (tmp_path / "a").write_text("changed")
    interrupt(files(tmp_path), tmp_path / "out", 0, update=True)
    (tmp_path / "b").write_text("changed too")
    work = files(tmp_path)
    assert make_features([work], tmp_path / "out", update=True)["text"]["taken_over"] == 1
    assert encoded(work) == ["11 changed too", "7 changed"]


def test_an_update_without_changes_leaves_the_folder_alone(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "three")):
        (tmp_path / name).write_text(content)
    out = tmp_path / "out"
    record = make_features([files(tmp_path)], out)["text"]
    before = (contents(out), (out / "text_feat.parquet").stat().st_ino)
    assert make_features([files(tmp_path)], out, update=True)["text"] == record
    assert (contents(out), (out / "text_feat.parquet").stat().st_ino) == before
    # No content is new, but each belongs to another item.
    for name, content in (("b", "one"), ("a", "three")):
        (tmp_path / name).write_text(content)
    work = files(tmp_path)
    assert make_features([work], out, update=True)["text"]["taken_over"] == 2
    assert not encoded(work)
    assert read_features(out / "text_feat.parquet").values.tolist() == [[5, 7, 1], [3, 5, 1]]


def test_other_modalities_are_left_alone(tmp_path: Path) -> None:
    make_features([source()], tmp_path)
    before = contents(tmp_path)
    make_features([source(modality="caption", count=30)], tmp_path)
    after = contents(tmp_path)
    assert after["text_feat.parquet"] == before["text_feat.parquet"]
    assert json.loads(after["provenance.json"])["modalities"].keys() == {"text", "caption"}
    report = pl.read_csv(tmp_path / "report.csv")
    assert report["modality"].value_counts().sort("modality")["count"].to_list() == [4, 6]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    np.save(tmp_path / "text_feat.npy", np.ones((3, 3)))
    with pytest.raises(RunError, match=r"text_feat.npy was made by another program"):
        make_features([source()], tmp_path, overwrite=True)
    assert sorted(contents(tmp_path)) == ["text_feat.npy"]
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        make_features([source()], tmp_path / "file" / "out")
    (tmp_path / "used").mkdir()
    with FileLock(tmp_path / "used" / ".lock"), pytest.raises(RunError, match="in use"):
        make_features([source()], tmp_path / "used")
    (tmp_path / "used" / "provenance.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"provenance.json is not a provenance file"):
        make_features([source()], tmp_path / "used")
    make_features([source()], tmp_path / "edited")
    edit_record(tmp_path / "edited", encoder="mine")
    with pytest.raises(RunError, match="made with encoder"):
        make_features([source()], tmp_path / "edited")


def test_models_that_fail(tmp_path: Path) -> None:
    def refuse(entry: str) -> str:
        raise DataError("it is too dark")

    def fail(batch: Sequence[str]) -> Tensor:
        raise ValueError("Modality 'text' is not supported")

    blind, confused, loose = Letters(), Letters(), Letters()
    blind.load = refuse  # type: ignore[method-assign]
    confused.encode = fail  # type: ignore[method-assign]
    loose.encode = lambda batch: torch.ones(len(batch) + 1, 3)  # type: ignore[method-assign]
    with pytest.raises(DataError, match=rf"None of the {COUNT} entries of text.*item 'i0': it is too dark"):
        make_features([source(blind)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RunError, match=r"The model of text fails .*not supported"):
        make_features([source(confused)], tmp_path / "out")
    with pytest.raises(RunError, match="vector per entry"):
        make_features([source(loose)], tmp_path / "out")
