import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.features import captions as captions_module
from lirdrec_pyg.features.captioners import Captioner, Outcome, Task
from lirdrec_pyg.features.captions import CaptionFile, CaptionReport, by_hand, caption_entries, make_captions
from lirdrec_pyg.features.catalog import Entries
from lirdrec_pyg.features.openai_client import ServerError
from lirdrec_pyg.features.prompt import Prompt
from lirdrec_pyg.files import checksum


class Namer(Captioner):
    """Returns the name of each image file and the prompt; may interrupt or fail."""

    def __init__(
        self, model: str = "namer", fails: Callable[[Task], str | None] = lambda task: None, blame: Any = "model"
    ) -> None:
        self.model, self.fails, self.blame = model, fails, blame
        self.asked: list[int | str] = []

    def caption(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], None]) -> None:
        for task in tasks:
            self.asked.append(task.item)
            if reason := self.fails(task):
                on_outcome(Outcome(task, reason=reason, blame=self.blame))
            else:
                on_outcome(Outcome(task, f"{Path(task.path).name}: {task.prompt}"))

    def describe(self) -> dict[str, Any]:
        return {"library": "test", "model": self.model}


@pytest.fixture
def images(tmp_path: Path) -> Entries:
    paths = [tmp_path / f"{name}.png" for name in "abcd"]
    for number, path in enumerate(paths):
        Image.new("RGB", (4 + number, 4)).save(path)
    frame = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "entry": [str(path) for path in paths]})
    return Entries(frame, pl.Series("item_id", ["e"]), {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captions.jsonl"


def make(images: Entries, path: Path, captioner: Captioner | None = None, **options: Any) -> CaptionReport:
    prompt = options.pop("prompt", Prompt("what?"))
    return make_captions(images, options.pop("texts", {}), prompt, captioner or Namer(), CaptionFile(path), **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def captions(path: Path) -> dict[str, str]:
    return {line["id"]: line["caption"] for line in lines(path)}


def correct(path: Path, item: str, caption: str) -> None:
    """Edit a caption as a person does."""
    changed = [{**line, "caption": caption} if line["id"] == item else line for line in lines(path)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in changed), "utf-8")


def test_a_line_records_how_its_caption_was_made(images: Entries, path: Path) -> None:
    prompt = Prompt("is it {title}?")
    report = make(images, path, prompt=prompt, texts={"title": {"a": "a chair", "c": "a lamp"}})
    assert (report.made, report.kept, report.failures) == (4, 0, {})
    assert [line["id"] for line in lines(path)] == ["a", "b", "c", "d"]
    line = lines(path)[0]
    assert line["caption"] == "a.png: is it a chair?"
    assert captions(path)["b"] == "b.png: is it ?"
    assert line["model"] == "namer"
    assert {"prompt_hash", "image_hash", "caption_hash", "date"} <= line.keys()
    assert not by_hand(line)


def test_existing_captions_are_not_made_again(images: Entries, path: Path) -> None:
    make(images, path)
    before, again = path.read_bytes(), Namer()
    started: list[tuple[str, int, int]] = []

    class Recorder(Callback):
        def on_task_start(self, name: str, total: int, done: int = 0) -> None:
            started.append((name, total, done))

    report = make(images, path, again, callback=Recorder())
    assert (report.made, report.kept) == (0, 4)
    assert again.asked == []
    assert path.read_bytes() == before
    assert started == [("images, compared", 4, 0), ("captions", 4, 4)]


def test_images_are_read_again_only_if_they_may_have_changed(
    images: Entries, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(file: Path) -> str:
        read.append(file.name)
        return checksum(file)

    monkeypatch.setattr(captions_module, "checksum", reading)
    make(images, path, Namer(fails=lambda task: "no" if task.item == "d" else None))
    assert read == ["a.png", "b.png", "c.png", "d.png"]
    read.clear()
    a, b, c, _ = map(Path, images.frame["entry"])
    b.write_bytes(b.read_bytes())  # only another time of modification
    Image.new("RGB", (9, 9)).save(c)
    report = make(images, path)
    assert read == ["b.png", "c.png", "d.png"]
    assert report.changed == {"image": 1}
    # Another file at the same path may have the same size and time.
    read.clear()
    other = a.with_name("other.png")
    Image.new("RGB", (4, 4), "red").save(other)
    os.utime(other, ns=(a.stat().st_atime_ns, a.stat().st_mtime_ns))
    other.replace(a)
    assert make(images, path).changed == {"image": 2}
    assert "a.png" in read
    # A caption by hand does not depend on the image.
    path.write_text("".join(json.dumps({"id": item, "caption": "mine"}) + "\n" for item in "abcd"))
    monkeypatch.setattr(captions_module, "checksum", None)
    assert make(images, path).kept == 4


def test_a_pipe_is_not_an_image_to_wait_for(images: Entries, path: Path) -> None:
    make(images, path)
    for place in images.frame["entry"][:2]:
        Path(place).unlink()
        os.mkfifo(place)
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[1:]))
    report = make(images, path)
    assert (report.made, report.kept) == (0, 3)
    assert report.failures == {"a": "there is no such file"}


@pytest.mark.parametrize("end", [b'{"id": "d", "caption": "half', b'{"id": "d", "capti\xc3', b"\0" * 100, b"{"])
def test_a_last_line_that_was_cut_off_is_dropped(
    end: bytes, images: Entries, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(images, path, Namer(fails=lambda task: "no" if task.item == "d" else None))
    with path.open("ab") as file:
        file.write(end)
    again = Namer()
    report = make(images, path, again)
    assert again.asked == ["d"]
    assert (report.made, report.kept) == (1, 3)
    assert list(captions(path)) == ["a", "b", "c", "d"]
    assert "cut off" in caplog.text


def test_files_of_editors_are_read(images: Entries, path: Path) -> None:
    # A byte order mark, another line end, an empty line, and a last line without its end.
    path.write_text('\ufeff{"id": "a", "caption": "mine"}\r\n\n{"id": "b", "caption": "mine, too"}', "utf-8")
    make(images, path)
    assert CaptionFile(path).get("a") == {"id": "a", "caption": "mine"}
    assert CaptionFile(path).get("b") == {"id": "b", "caption": "mine, too"}
    assert len([*CaptionFile(path)]) == 4


def test_an_invalid_line_is_named_before_any_work(images: Entries, path: Path) -> None:
    for line, named in {
        '{"id": "b", "caption": "x"': "not JSON",
        '["b", "x"]': "not a JSON object",
        '{"caption": "x"}': "'id'",
        '{"id": null, "caption": "x"}': "'id'",
        '{"id": true, "caption": "x"}': "'id'",
        '{"id": "b"}': "'caption'",
        '{"id": "b", "caption": 3}': "'caption'",
        "[" * 100_000: "not JSON",
    }.items():
        content = f'{{"id": "a", "caption": "x"}}\n{line}\n{{"id": "c", "caption": "x"}}\n'
        path.write_text(content)
        with pytest.raises(DataError, match=r"Line 2 of .*captions\.jsonl") as refused:
            make(images, path)
        assert named in str(refused.value)
        assert path.read_text() == content
    # A last line that a person damaged was not cut off.
    path.write_text('{"id": "a", "caption": "x"}\n{"id": "b", "caption": "the "best" chair"}')
    with pytest.raises(DataError, match="Line 2"):
        make(images, path)


@pytest.mark.parametrize("recaption", [False, True])
def test_captions_by_hand_are_kept(recaption: bool, images: Entries, path: Path) -> None:
    make(images, path)
    correct(path, "b", "A fauteuil, émaillé")
    path.write_text('{"id": "c", "caption": "mine"}\n' + path.read_text())  # holds wherever it stands
    report = make(images, path, Namer("another"), prompt=Prompt("and now?"), recaption=recaption)
    assert captions(path)["b"] == "A fauteuil, émaillé"
    assert captions(path)["c"] == "mine"
    assert by_hand(CaptionFile(path).get("b") or {})
    if recaption:
        assert (report.made, report.kept) == (2, 2)
        assert captions(path)["a"] == "a.png: and now?"
        assert sorted(captions(path)) == ["a", "b", "c", "d"]
    else:
        assert report.changed == {"prompt": 2, "model": 2}
        assert captions(path)["a"] == "a.png: what?"
    assert caption_entries(pl.Series("item_id", ["c"]), CaptionFile(path)).frame.rows() == [("c", "mine")]


def test_only_outdated_captions_are_replaced(images: Entries, path: Path) -> None:
    make(images, path)
    Image.new("RGB", (9, 9), "red").save(images.frame["entry"][2])
    os.unlink(images.frame["entry"][1])  # keeps its caption
    report = make(images, path)
    assert (report.made, dict(report.changed)) == (0, {"image": 1})
    again = Namer()
    report = make(images, path, again, recaption=True)
    assert again.asked == ["c"]
    assert (report.made, report.kept, report.failures) == (1, 3, {})
    assert captions(path)["b"] == "b.png: what?"


def test_missing_captions_are_made_again(images: Entries, path: Path) -> None:
    os.unlink(images.frame["entry"][0])
    report = make(images, path, Namer(fails=lambda task: "too dark" if task.item == "c" else None))
    assert report.failures == {"a": "there is no such file", "c": "too dark"}
    assert list(captions(path)) == ["b", "d"]
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if '"id": "b"' not in line))
    again = Namer()
    make(images, path, again)
    assert again.asked == ["b", "c"]
    correct(path, "b", " ")
    assert make(images, path).failures.keys() == {"a", "b"}


def same_image(tmp_path: Path, count: int) -> Entries:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    frame = pl.DataFrame({"item_id": range(count), "entry": [str(tmp_path / "x.png")] * count})
    return Entries(frame, pl.Series([], dtype=pl.Int64), {})


@pytest.mark.parametrize(("blame", "works"), [("model", 3), ("unknown", 0)])
def test_a_model_that_fails_for_all_images_ends_the_work(blame: str, works: int, tmp_path: Path, path: Path) -> None:
    captioner = Namer(fails=lambda task: "no vision" if int(task.item) >= works else None, blame=blame)
    with pytest.raises(ServerError, match=r"20 images in a row got no caption.* no vision"):
        make(same_image(tmp_path, 100), path, captioner)
    assert len(captioner.asked) == works + 20
    assert len(lines(path) if works else []) == works


def test_captions_are_on_the_disk_one_by_one(images: Entries, path: Path) -> None:
    def interrupt(task: Task) -> None:
        assert len(lines(path) if path.exists() else []) == "abcd".index(str(task.item))
        if task.item == "c":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(images, path, Namer(fails=interrupt))
    assert list(captions(path)) == ["a", "b"]


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by another file"])
def test_a_correction_during_the_work_is_not_lost(in_place: bool, images: Entries, path: Path) -> None:
    def save(task: Task) -> None:
        if task.item == "c":
            content = path.read_text().replace("a.png", "A by hand") + '{"id": "c", "caption": "mine"}\n'
            other = path if in_place else path.with_suffix(".swp")
            other.write_text(content)
            other.replace(path)

    report = make(images, path, Namer(fails=save))
    assert (report.made, report.kept) == (3, 1)
    assert captions(path) == {"a": "A by hand: what?", "b": "b.png: what?", "c": "mine", "d": "d.png: what?"}


def test_a_file_that_is_deleted_during_the_work_begins_again(images: Entries, path: Path) -> None:
    make(images, path, Namer(fails=lambda task: path.unlink() if task.item == "c" else None))
    assert list(captions(path)) == ["c", "d"]


def test_captions_become_entries_of_an_encoder(images: Entries, path: Path) -> None:
    make(images, path)
    correct(path, "b", " by  hand\n ")
    correct(path, "c", "  ")
    with path.open("a") as file:
        file.write('{"id": "z", "caption": "of another catalog"}\n')
    ids = pl.Series("item_id", ["e", "d", "c", "b", "a"])
    corrected = CaptionFile(path)
    correct(path, "d", "d while images are encoded")
    entries = caption_entries(ids, corrected)
    assert entries.frame.rows() == [("d", "d while images are encoded"), ("b", "by hand"), ("a", "a.png: what?")]
    assert entries.missing.to_list() == ["e", "c"]
    assert entries.facts["captions"] == {"by hand": 2, "namer": 1}
    correct(path, "a", "another")
    assert caption_entries(ids, CaptionFile(path)).facts["sha256"] != entries.facts["sha256"]
    with pytest.raises(DataError, match=r"captions\.jsonl has no caption"):
        caption_entries(pl.Series("item_id", ["f"]), CaptionFile(path))
    path.write_text('{"id": 7, "caption": "seven"}\n{"id": "8", "caption": "eight"}\n{"id": 7, "caption": "later"}\n')
    entries = caption_entries(pl.Series("item_id", [7, 8, 9]), CaptionFile(path))
    assert entries.frame.rows() == [(7, "later"), (8, "eight")]
