"""The folder of features: what is in it, and what interruptions leave of it."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from filelock import FileLock
from torch import Tensor

from lirdrec_pyg.data import read_features
from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.errors import DataError, RunError
from lirdrec_pyg.features import Encoder, Entries, Hooks, Postprocessing, Source, make_features
from lirdrec_pyg.features.blocks import BLOCK_ROWS

COUNT = 2 * BLOCK_ROWS + 100
BROKEN = {3: "crumbled", BLOCK_ROWS: "torn", COUNT - 1: "wet"}
NAN, ZERO = 10, 20


class Letters(Encoder):
    """Counts letters: a model so small that each row is known."""

    def __init__(self, batch_size: int = 7, name: str = "letters") -> None:
        self.batch_size, self.name = batch_size, name
        self.batches: list[list[str]] = []

    def load(self, entry: str) -> str:
        if (number := int(entry.split()[0])) in BROKEN:
            raise DataError(BROKEN[number])
        return entry

    def length(self, entry: str) -> int:
        return len(entry)

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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


def test_every_item_has_its_vector(tmp_path: Path) -> None:
    record = make_features([source()], tmp_path / "out")["text"]
    table = read_features(tmp_path / "out" / "text_feat.parquet")
    lacking = {*BROKEN, NAN, ZERO}
    good = [n for n in range(COUNT) if n not in lacking]
    assert table.ids is not None
    assert table.ids.to_list() == [f"i{n}" for n in good]
    assert table.values.tolist() == [vector(text(n)) for n in good]
    assert (record["rows"], record["width"], record["missing"]) == (COUNT - 5, 3, 6)
    report = pl.read_csv(tmp_path / "out" / "report.csv")
    assert report.columns == ["item_id", "modality", "reason"]
    reasons = dict(zip(report["item_id"], report["reason"], strict=True))
    assert reasons == {
        f"i{COUNT}": "there is nothing in a and b",
        **{f"i{n}": reason for n, reason in BROKEN.items()},
        **{f"i{n}": "the model makes of it no vector of finite numbers, or one of zeros" for n in (NAN, ZERO)},
    }
    assert sorted(contents(tmp_path / "out")) == ["provenance.json", "report.csv", "text_feat.parquet"]
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_like_lengths_go_together_and_batches_stay_small(tmp_path: Path) -> None:
    encoder = Letters(batch_size=16)
    make_features([source(encoder)], tmp_path / "out")
    assert max(map(len, encoder.batches)) == 16
    spread = [max(map(len, batch)) - min(map(len, batch)) for batch in encoder.batches]
    assert np.mean(spread) < 4


def test_the_record_tells_how(tmp_path: Path) -> None:
    make_features([source()], tmp_path / "out", Postprocessing(normalize=True))
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())["modalities"]["text"]
    assert record["sha256"] == checksum(tmp_path / "out" / "text_feat.parquet")
    assert record["encoder"] == {"model": "letters", "revision": None}
    assert record["postprocessing"] == {"normalize": True}
    assert record["catalogue"]["columns"] == ["a", "b"]
    assert record["versions"].keys() >= {"lirdrec-pyg", "python", "torch"}
    assert record["date"].startswith("20")


class Stop(BaseException):
    pass


@pytest.mark.parametrize("rows", [1, 50, BLOCK_ROWS - 7, BLOCK_ROWS, BLOCK_ROWS + 300, 2 * BLOCK_ROWS, COUNT - 1])
@pytest.mark.parametrize("batch_size", [7, 11])
def test_what_was_interrupted_goes_on(tmp_path: Path, rows: int, batch_size: int) -> None:
    make_features([source()], tmp_path / "whole")
    seen = 0

    def stop(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= rows:
            raise Stop

    first, second = Letters(), Letters(batch_size)
    with pytest.raises(Stop):
        make_features([source(first)], tmp_path / "out", hooks=Hooks(on_rows=stop))
    assert not (tmp_path / "out" / "text_feat.parquet").exists()
    started: list[tuple[str, int, int]] = []
    hooks = Hooks(on_start=lambda *arguments: started.append(arguments))
    make_features([source(second)], tmp_path / "out", hooks=hooks)
    assert started == [("text", COUNT, seen)]
    # No row is lost, and none is done twice.
    encoded = [int(entry.split()[0]) for encoder in (first, second) for batch in encoder.batches for entry in batch]
    assert sorted(encoded) == sorted(set(range(COUNT)) - BROKEN.keys())
    for name in ("text_feat.parquet", "report.csv"):
        assert contents(tmp_path / "out")[name] == contents(tmp_path / "whole")[name]


def test_a_batch_that_a_power_cut_has_damaged_is_made_again(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        make_features([source()], tmp_path / "out", hooks=Hooks(on_rows=stop))
    (batch,) = (tmp_path / "out" / ".unfinished" / "text").glob("*.batch")
    batch.write_bytes(bytes(len(batch.read_bytes())))
    make_features([source()], tmp_path / "out")
    make_features([source()], tmp_path / "whole")
    assert contents(tmp_path / "out")["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]


@pytest.mark.parametrize("name", ["write_report", "write_record", "checksum"])
def test_a_stop_while_the_end_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def stop(*_: object) -> None:
        raise Stop

    make_features([source()], tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(f"lirdrec_pyg.features.folder.{name}", stop)
        with pytest.raises(Stop):
            make_features([source()], tmp_path / "out", Postprocessing())
    encoder = Letters()
    make_features([source(encoder)], tmp_path / "out")
    assert not encoder.batches
    assert contents(tmp_path / "out")["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "whole").keys()


def test_a_finished_modality_is_left_as_it_is(tmp_path: Path) -> None:
    make_features([source()], tmp_path / "out")
    before = contents(tmp_path / "out")
    encoder = Letters()
    records = make_features([source(encoder)], tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert records["text"]["rows"] == COUNT - 5
    assert not encoder.batches
    make_features([source(encoder)], tmp_path / "out", overwrite=True)
    assert encoder.batches
    assert contents(tmp_path / "out")["text_feat.parquet"] == before["text_feat.parquet"]


OTHERWISE: dict[str, tuple[Source, Postprocessing, str]] = {
    "model": (source(Letters(name="other")), Postprocessing(), "model 'letters', and is now 'other'"),
    "catalogue": (source(count=COUNT - 1), Postprocessing(), "sha256"),
}
STEPS = (source(), Postprocessing(pca=2), "pca None, and is now 2")


@pytest.mark.parametrize(
    ("finished", "otherwise"),
    [*((True, entry) for entry in (*OTHERWISE.values(), STEPS)), *((False, entry) for entry in OTHERWISE.values())],
)
def test_what_was_made_otherwise_is_refused(
    tmp_path: Path, finished: bool, otherwise: tuple[Source, Postprocessing, str]
) -> None:
    def stop(*_: object) -> None:
        raise Stop

    if finished:
        make_features([source()], tmp_path / "out")
    else:
        with pytest.raises(Stop):
            make_features([source()], tmp_path / "out", hooks=Hooks(on_rows=stop))
    before = contents(tmp_path / "out")
    other, steps, named = otherwise
    with pytest.raises(RunError, match="--overwrite") as error:
        make_features([other], tmp_path / "out", steps)
    assert named in str(error.value)
    assert contents(tmp_path / "out") == before
    make_features([other], tmp_path / "out", steps, overwrite=True)
    make_features([other], tmp_path / "new", steps)
    assert contents(tmp_path / "out")["text_feat.parquet"] == contents(tmp_path / "new")["text_feat.parquet"]


def test_other_steps_after_the_encoding_do_not_encode_again(tmp_path: Path) -> None:
    first, second = Letters(), Letters()
    with pytest.raises(DataError, match="--pca 3 is more than that"):
        make_features([source(first)], tmp_path / "out", Postprocessing(pca=3))
    record = make_features([source(second)], tmp_path / "out", Postprocessing(pca=2))["text"]
    assert first.batches
    assert not second.batches
    assert record["postprocessing"] == {"pca": 2}
    assert record["width"] == 2


def test_a_first_try_that_came_to_nothing_is_no_obstacle(tmp_path: Path) -> None:
    class Failing(Letters):
        def encode(self, batch: Sequence[str]) -> Tensor:
            raise torch.OutOfMemoryError

    with pytest.raises(RunError, match="--batch-size"):
        make_features([source(Failing(name="large"))], tmp_path / "out")
    assert make_features([source()], tmp_path / "out")["text"]["encoder"]["model"] == "letters"


def test_a_refusal_comes_before_any_work(tmp_path: Path) -> None:
    make_features([source(count=50)], tmp_path / "out")
    before = contents(tmp_path / "out")
    other = source(Letters(name="other"), count=50)
    with pytest.raises(RunError, match="--overwrite"):
        make_features([source(modality="caption", count=50), other], tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_batches_of_another_size_go_on(tmp_path: Path) -> None:
    calls = 0

    class Greedy(Letters):
        def encode(self, batch: Sequence[str]) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > BLOCK_ROWS // 64 + 1:
                raise torch.OutOfMemoryError
            return super().encode(batch)

    first, second = Greedy(batch_size=64), Letters(batch_size=8)
    with pytest.raises(RunError, match=r"too little memory for 6\d entries of text.*--batch-size"):
        make_features([source(first)], tmp_path / "out")
    make_features([source(second)], tmp_path / "out")
    assert sum(map(len, first.batches)) > BLOCK_ROWS
    assert sum(map(len, first.batches + second.batches)) == COUNT - len(BROKEN)


def entries(texts: dict[int | str, str | None]) -> Source:
    """A catalogue of these texts; vectors go by the number that they begin with."""
    column = pl.Series(list(texts.values()), dtype=pl.String)
    return Source("text", Entries.of(pl.Series(list(texts)), column, Path("c.csv"), ["a"]), Letters())


def encoded(source: Source) -> list[str]:
    assert isinstance(source.encoder, Letters)
    return sorted(entry for batch in source.encoder.batches for entry in batch)


OLD: dict[int | str, str | None] = {f"i{n}": text(n) for n in range(30, 30 + 2 * BLOCK_ROWS)}
# Another order, some items less, some more, others with another text, without one, or with one that they lacked.
NEW: dict[int | str, str | None] = {
    "first": "2000 new",
    **dict(reversed([*OLD.items()][40:])),
    **{f"j{n}": text(n) for n in range(2001, 2050)},
    "i100": "100 changed",
    "i101": None,
    "lacked": "2100 found",
}
# All but the first 40, the two that have changed, and one that is broken.
KEPT = len(OLD) - 40 - 2 - 1
CHANGED = sorted(["2000 new", "100 changed", "2100 found", *(text(n) for n in range(2001, 2050))])


@pytest.mark.parametrize("rows", [None, 1, 20, 51])
def test_an_update_encodes_only_what_is_new_or_changed(tmp_path: Path, rows: int | None) -> None:
    make_features([entries(NEW)], tmp_path / "whole")
    make_features([entries({**OLD, "lacked": None})], tmp_path / "out")
    work, seen = entries(NEW), 1 - len(NEW)  # what is compared first doesn't count
    if rows is not None:

        def begin(modality: str, total: int, done: int) -> None:
            assert (total, done, seen) == (len(NEW) - 1, KEPT, 0)

        def stop(count: int) -> None:
            nonlocal seen
            seen += count
            if seen >= rows:
                raise Stop

        with pytest.raises(Stop):
            make_features([work], tmp_path / "out", hooks=Hooks(on_start=begin, on_rows=stop), update=True)
        assert read_features(tmp_path / "out" / "text_feat.parquet").values.shape == (len(OLD) - 1, 3)
    # After a stop the update goes on, whether it is called one again or not.
    record = make_features([work], tmp_path / "out", update=rows != 20)["text"]
    assert encoded(work) == CHANGED
    for name in ("text_feat.parquet", "report.csv"):
        assert contents(tmp_path / "out")[name] == contents(tmp_path / "whole")[name]
    assert record["taken_over"] == KEPT
    assert record["catalogue"] == work.entries.facts
    assert "earlier" not in record
    again = entries(NEW)
    assert make_features([again], tmp_path / "out", update=True)["text"] == record
    assert not encoded(again)


def test_an_update_that_was_stopped_follows_what_has_changed_since(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise Stop

    make_features([entries(OLD)], tmp_path / "out")
    with pytest.raises(Stop):
        make_features([entries(NEW)], tmp_path / "out", hooks=Hooks(on_end=stop, on_start=stop), update=True)
    newer = entries({**NEW, "last": "3000 last"})
    make_features([newer], tmp_path / "out", update=True)
    assert encoded(newer) == sorted([*CHANGED, "3000 last"])
    make_features([entries({**NEW, "last": "3000 last"})], tmp_path / "whole")
    assert contents(tmp_path / "out")["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]


class Wide(Letters):
    """A model that was replaced by another, which its name doesn't tell."""

    def encode(self, batch: Sequence[str]) -> Tensor:
        return torch.cat([super().encode(batch), torch.ones(len(batch), 1)], dim=1)


def stop(*_: object) -> None:
    raise Stop


@pytest.mark.parametrize("finished", [True, False])
def test_vectors_of_another_width_are_not_put_beside_those_that_are_there(tmp_path: Path, finished: bool) -> None:
    wide = Source("text", entries(NEW).entries, Wide())
    if finished:
        make_features([entries(OLD)], tmp_path / "out")
    else:
        with pytest.raises(Stop):
            make_features([entries(NEW)], tmp_path / "out", hooks=Hooks(on_rows=stop))
    before = contents(tmp_path / "out")
    for _ in range(2):
        with pytest.raises(RunError, match=r"width 4, where those that are there have 3.*--overwrite"):
            make_features([wide], tmp_path / "out", update=finished)
    assert contents(tmp_path / "out") == before
    copy = shutil.copytree(tmp_path / "out", tmp_path / "copy")
    # With the right model the work goes on, and --overwrite takes the new one.
    make_features([entries(NEW)], tmp_path / "out", update=finished)
    make_features([entries(NEW)], tmp_path / "whole")
    assert contents(tmp_path / "out")["text_feat.parquet"] == contents(tmp_path / "whole")["text_feat.parquet"]
    record = make_features([wide], copy, overwrite=True)["text"]
    assert (record["width"], record["rows"]) == (4, len(NEW) - 2)
    assert "taken_over" not in record


def test_overwriting_keeps_nothing_of_an_update_that_was_stopped(tmp_path: Path) -> None:
    make_features([entries(OLD)], tmp_path)
    with pytest.raises(Stop):
        make_features([entries(NEW)], tmp_path, hooks=Hooks(on_start=stop), update=True)
    work = entries(NEW)
    assert "taken_over" not in make_features([work], tmp_path, overwrite=True)["text"]
    assert len(encoded(work)) == len(NEW) - 2


def test_an_update_tries_again_what_could_not_be_used(tmp_path: Path) -> None:
    class Picky(Letters):
        def load(self, entry: str) -> str:
            if entry.startswith("40 "):
                raise DataError("the server fails")
            return super().load(entry)

    texts = entries({n: text(n) for n in range(30, 50)})
    assert make_features([Source("text", texts.entries, Picky())], tmp_path)["text"]["missing"] == 1
    make_features([texts], tmp_path)
    assert not encoded(texts)
    record = make_features([texts], tmp_path, update=True)["text"]
    assert encoded(texts) == [text(40)]
    assert (record["rows"], record["missing"], record["taken_over"]) == (20, 0, 19)


def test_features_without_checksums_of_their_texts_are_not_updated(tmp_path: Path) -> None:
    make_features([entries(OLD)], tmp_path)
    file, path = tmp_path / "text_feat.parquet", tmp_path / "provenance.json"
    pl.read_parquet(file).drop("sha256").write_parquet(file)
    content = json.loads(path.read_text())
    content["modalities"]["text"]["sha256"] = checksum(file)
    path.write_text(json.dumps(content))
    before = contents(tmp_path)
    with pytest.raises(RunError, match=r"before vectors had checksums.*--overwrite"):
        make_features([entries(NEW)], tmp_path, update=True)
    assert contents(tmp_path) == before


def test_an_update_knows_numbers_that_became_texts(tmp_path: Path) -> None:
    make_features([entries({n: text(n) for n in range(30, 40)})], tmp_path)
    work = entries({str(n): text(n) for n in range(30, 40)} | {"A7": text(40)})
    make_features([work], tmp_path, update=True)
    assert encoded(work) == [text(40)]
    ids = read_features(tmp_path / "text_feat.parquet").ids
    assert ids is not None
    assert ids.to_list() == [*map(str, range(30, 40)), "A7"]


def test_an_update_tells_by_what_the_rows_that_stay_were_made(tmp_path: Path) -> None:
    make_features([entries(OLD)], tmp_path)
    path = tmp_path / "provenance.json"
    content = json.loads(path.read_text())
    content["modalities"]["text"]["versions"]["torch"] = "1.0"
    content["modalities"]["text"]["date"] = "2020-01-01T00:00:00+00:00"
    path.write_text(json.dumps(content))
    record = make_features([entries({**OLD, "more": "99 more"})], tmp_path, update=True)["text"]
    assert record["versions"]["torch"] == torch.__version__
    assert [(made["date"][:4], made["versions"]["torch"]) for made in record["earlier"]] == [("2020", "1.0")]
    again = make_features([entries({**OLD, "more": "99 most"})], tmp_path, update=True)["text"]
    assert again["earlier"] == record["earlier"]
    others = entries({1: "98 other", 2: "97 others"})
    assert "earlier" not in make_features([others], tmp_path, update=True)["text"]
    assert "earlier" not in make_features([entries(OLD)], tmp_path, overwrite=True)["text"]


class Files(Letters):
    def load(self, entry: str) -> str:
        if not Path(entry).is_file():
            raise DataError("there is no such file")
        return f"{len(Path(entry).read_text())} {Path(entry).read_text()}"


def files(folder: Path) -> Source:
    paths = pl.Series([str(folder / name) for name in "abc"])
    texts = Entries.of(pl.Series([1, 2, 3]), paths, Path("c.csv"), ["a"])
    return Source("text", Entries(texts.frame, texts.missing, texts.facts, are_files=True), Files())


def test_an_update_reads_files_and_not_their_times(tmp_path: Path) -> None:
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


def test_an_update_without_changes_leaves_file_and_record(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "three")):
        (tmp_path / name).write_text(content)
    out = tmp_path / "out"
    record = make_features([files(tmp_path)], out)["text"]
    before = (contents(out), (out / "text_feat.parquet").stat().st_ino)
    assert make_features([files(tmp_path)], out, update=True)["text"] == record
    assert (contents(out), (out / "text_feat.parquet").stat().st_ino) == before
    assert not (out / ".unfinished").exists()
    # No file is new, but each is of another item.
    for name, content in (("b", "one"), ("a", "three")):
        (tmp_path / name).write_text(content)
    work = files(tmp_path)
    assert make_features([work], out, update=True)["text"]["taken_over"] == 2
    assert not encoded(work)
    assert read_features(out / "text_feat.parquet").values.tolist() == [[5, 7, 1], [3, 5, 1]]


def test_files_that_change_while_an_update_is_stopped_are_read_again(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    out = tmp_path / "out"
    make_features([files(tmp_path)], out)
    (tmp_path / "a").write_text("changed")
    with pytest.raises(Stop):
        make_features([files(tmp_path)], out, hooks=Hooks(on_start=stop), update=True)
    (tmp_path / "b").write_text("changed too")
    work = files(tmp_path)
    assert make_features([work], out, update=True)["text"]["taken_over"] == 1
    assert encoded(work) == ["11 changed too", "7 changed"]
    assert read_features(out / "text_feat.parquet").values[:, 0].tolist() == [7, 11, 1]


@pytest.mark.parametrize("rows", [7, BLOCK_ROWS, BLOCK_ROWS + 200])
@pytest.mark.parametrize("first", [True, False])
def test_nothing_is_encoded_twice_if_the_catalogue_changes_while_work_is_stopped(
    tmp_path: Path, rows: int, first: bool
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    texts: dict[int | str, str | None] = {f"i{n}": text(n) for n in range(3000, 3000 + 2 * BLOCK_ROWS)}
    if not first:
        make_features([entries({f"i{n}": text(n) for n in range(4040, 4100)})], out)
        texts |= {f"i{n}": text(n) for n in range(4050, 4200)}
    begun, seen = entries(texts), 0 if first else -len(texts)

    def stop_late(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= rows:
            raise Stop

    with pytest.raises(Stop):
        make_features([begun], out, hooks=Hooks(on_rows=stop_late), update=True)
    changed = {"first": "5000 new", **dict([*texts.items()][5:]), "last": "5001 new"}
    with pytest.raises(RunError, match=r"begun with catalogue.*--update"):
        make_features([entries(changed)], out)
    done = entries(changed)
    record = make_features([done], out, update=True)["text"]
    both = encoded(begun) + encoded(done)
    assert len(both) == len(set(both))
    make_features([entries(changed)], whole)
    assert contents(out)["text_feat.parquet"] == contents(whole)["text_feat.parquet"]
    assert record["taken_over"] == len(changed) - len(encoded(done))
    assert not (out / ".unfinished").exists()


def test_an_update_takes_no_vectors_of_another_width_from_work_that_was_stopped(tmp_path: Path) -> None:
    make_features([entries(OLD)], tmp_path)
    wide = Source("text", entries(NEW).entries, Wide())
    with pytest.raises(Stop):
        make_features([wide], tmp_path, hooks=Hooks(on_end=stop, on_rows=stop), overwrite=True)
    newer = entries({**NEW, "last": "3000 last"})
    record = make_features([newer], tmp_path, update=True)["text"]
    assert (record["width"], record["taken_over"]) == (3, KEPT)


def test_an_update_goes_on_from_one_that_was_stopped_before_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_features([entries(OLD)], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("lirdrec_pyg.features.folder.write_record", stop)
        with pytest.raises(Stop):
            make_features([entries(NEW)], tmp_path, update=True)
    newer = entries({**NEW, "last": "3000 last"})
    make_features([newer], tmp_path, update=True)
    assert encoded(newer) == ["3000 last"]


def test_a_stop_while_rows_are_taken_over_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = entries(OLD)
    with pytest.raises(Stop):
        make_features([begun], tmp_path, hooks=Hooks(on_rows=stop))
    with monkeypatch.context() as patch:
        patch.setattr("lirdrec_pyg.features.blocks.write_whole", stop)
        with pytest.raises(Stop):
            make_features([entries(NEW)], tmp_path, update=True)
    done = entries(NEW)
    make_features([done], tmp_path, update=True)
    assert not {*encoded(begun)} & {*encoded(done)}


@pytest.mark.parametrize("case", ["processed", "replaced", "other model", "other steps"])
def test_what_can_not_be_added_to_is_not_updated(tmp_path: Path, case: str) -> None:
    steps = Postprocessing(pca=2, normalize=True) if case == "processed" else Postprocessing()
    make_features([entries(OLD)], tmp_path, steps)
    if case == "replaced":
        frame = pl.read_parquet(tmp_path / "text_feat.parquet")
        frame.reverse().write_parquet(tmp_path / "text_feat.parquet")
    before = contents(tmp_path)
    work = entries(NEW)
    if case == "other model":
        work = Source("text", work.entries, Letters(name="other"))
    named = {
        "processed": "went through pca and normalize",
        "replaced": "not as it was made",
        "other model": "model 'letters', and is now 'other'",
        "other steps": "normalize None, and is now True",
    }
    with pytest.raises(RunError, match=rf"{named[case]}.*--overwrite"):
        make_features([work], tmp_path, Postprocessing(normalize=True) if case == "other steps" else steps, update=True)
    assert contents(tmp_path) == before
    with pytest.raises(RunError, match=r"--update, or .*--overwrite"):
        make_features([entries(NEW)], tmp_path, steps)


def test_modalities_are_added_and_the_others_stay(tmp_path: Path) -> None:
    make_features([source()], tmp_path / "out")
    before = contents(tmp_path / "out")
    make_features([source(modality="caption", count=50)], tmp_path / "out")
    after = contents(tmp_path / "out")
    assert after["text_feat.parquet"] == before["text_feat.parquet"]
    assert json.loads(after["provenance.json"])["modalities"].keys() == {"text", "caption"}
    report = pl.read_csv(tmp_path / "out" / "report.csv")
    assert report["modality"].value_counts().sort("modality")["count"].to_list() == [4, 6]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "text_feat.npy", np.ones((3, 3)))
    with pytest.raises(RunError, match=r"text_feat.npy is there already"):
        make_features([source()], tmp_path, overwrite=True)
    assert sorted(contents(tmp_path)) == ["text_feat.npy"]
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        make_features([source()], tmp_path / "file" / "out")


def test_if_nothing_can_be_used_the_first_reason_is_told(tmp_path: Path) -> None:
    class Blind(Letters):
        def load(self, entry: str) -> str:
            raise DataError("it is too dark")

    with pytest.raises(DataError, match=rf"None of the {COUNT} entries of text.*item 'i0': it is too dark"):
        make_features([source(Blind())], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_programs_do_not_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(RunError, match="in use"):
        make_features([source()], tmp_path / "out")


def test_a_model_of_two_minds_is_one_error(tmp_path: Path) -> None:
    class Loose(Letters):
        def encode(self, batch: Sequence[str]) -> Tensor:
            return torch.ones(len(batch) + 1, 3)

    with pytest.raises(RunError, match="not a row each"):
        make_features([source(Loose())], tmp_path / "out")


def test_a_model_that_fails_is_one_error(tmp_path: Path) -> None:
    class Confused(Letters):
        def encode(self, batch: Sequence[str]) -> Tensor:
            raise ValueError("Modality 'text' is not supported")

    with pytest.raises(RunError, match=r"The model of text fails .*not supported"):
        make_features([source(Confused())], tmp_path / "out")


def test_a_record_that_was_edited_is_one_error(tmp_path: Path) -> None:
    make_features([source()], tmp_path)
    path = tmp_path / "provenance.json"
    content = json.loads(path.read_text())
    content["modalities"]["text"]["encoder"] = "mine"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match="encoder 'mine'"):
        make_features([source()], tmp_path)


def test_a_provenance_of_another_program_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"provenance.json is no record of features"):
        make_features([source()], tmp_path)
