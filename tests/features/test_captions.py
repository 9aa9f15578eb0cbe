import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.features import captions as captions_module
from lirdrec_pyg.features.captioners import Captioner, Outcome, Task
from lirdrec_pyg.features.captions import CaptionFile, CaptionReport, Hooks, by_hand, caption_entries, make_captions
from lirdrec_pyg.features.catalogue import Entries
from lirdrec_pyg.features.chat import ServerError
from lirdrec_pyg.features.prompt import Prompt


class Namer(Captioner):
    """Says the name of each picture's file and what it was told; may stop or fail on the way."""

    def __init__(
        self, model: str = "namer", fails: Callable[[Task], str | None] = lambda task: None, doubtful: bool = False
    ) -> None:
        self.model = model
        self.fails = fails
        self.doubtful = doubtful
        self.asked: list[int | str] = []

    def caption(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], None]) -> None:
        for task in tasks:
            self.asked.append(task.item)
            reason = self.fails(task)
            caption = None if reason else f"{Path(task.path).name}: {task.prompt}"
            failed = reason is not None
            on_outcome(
                Outcome(task, caption, reason, blame=failed and not self.doubtful, doubtful=failed and self.doubtful)
            )

    def describe(self) -> dict[str, Any]:
        return {"library": "test", "model": self.model}


@pytest.fixture
def pictures(tmp_path: Path) -> Entries:
    paths = [tmp_path / f"{name}.png" for name in "abcd"]
    for number, path in enumerate(paths):
        Image.new("RGB", (4 + number, 4)).save(path)
    frame = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "entry": [str(path) for path in paths]})
    return Entries(frame, pl.Series("item_id", ["e"]), {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captions.jsonl"


def make(pictures: Entries, path: Path, captioner: Captioner | None = None, **options: Any) -> CaptionReport:
    prompt = options.pop("prompt", Prompt("what?"))
    return make_captions(pictures, options.pop("texts", {}), prompt, captioner or Namer(), path, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def captions(path: Path) -> dict[str, str]:
    return {line["id"]: line["caption"] for line in lines(path)}


def test_a_line_says_how_its_caption_came_about(pictures: Entries, path: Path) -> None:
    report = make(pictures, path)
    assert (report.made, report.kept, report.failures) == (4, 0, {})
    assert [line["id"] for line in lines(path)] == ["a", "b", "c", "d"]
    line = lines(path)[0]
    assert line["caption"] == "a.png: what?"
    assert line["model"] == "namer"
    assert {"prompt_hash", "image_hash", "caption_hash", "date"} <= line.keys()
    assert not by_hand(line)


def test_what_is_there_is_not_made_again(pictures: Entries, path: Path) -> None:
    make(pictures, path)
    before = path.read_bytes()
    again = Namer()
    report = make(pictures, path, again)
    assert (report.made, report.kept) == (0, 4)
    assert again.asked == []
    assert path.read_bytes() == before


def test_pictures_are_read_again_only_if_they_may_have_changed(
    pictures: Entries, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(file: Path) -> str:
        read.append(file.name)
        return checksum(file)

    monkeypatch.setattr(captions_module, "checksum", reading)
    make(pictures, path, Namer(fails=lambda task: "no" if task.item == "d" else None))
    assert read == ["a.png", "b.png", "c.png", "d.png"]
    read.clear()
    a, b, c, _ = map(Path, pictures.frame["entry"])
    b.write_bytes(b.read_bytes())  # another time of writing, and nothing else
    Image.new("RGB", (9, 9)).save(c)
    compared: list[int] = []
    report = make(pictures, path, hooks=Hooks(on_compare=compared.append))
    assert read == ["b.png", "c.png", "d.png"]
    assert compared == [3]
    assert report.changed == {"picture": 1}
    # Of another file at the same place, everything but the content may be as it was.
    read.clear()
    other = a.with_name("other.png")
    Image.new("RGB", (4, 4), "red").save(other)
    os.utime(other, ns=(a.stat().st_atime_ns, a.stat().st_mtime_ns))
    other.replace(a)
    assert make(pictures, path).changed == {"picture": 2}
    assert "a.png" in read


def test_a_pipe_is_no_picture_that_is_waited_for(pictures: Entries, path: Path) -> None:
    make(pictures, path)
    for place in pictures.frame["entry"][:2]:
        Path(place).unlink()
        os.mkfifo(place)
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[1:]))
    report = make(pictures, path)
    assert (report.made, report.kept) == (0, 3)
    assert report.failures == {"a": "there is no such file"}


def test_what_a_person_has_written_needs_no_picture_to_be_read(
    pictures: Entries, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text("".join(json.dumps({"id": item, "caption": "mine"}) + "\n" for item in "abcd"))
    monkeypatch.setattr(captions_module, "checksum", None)
    assert make(pictures, path).kept == 4


def test_the_prompt_is_filled_in_for_each_item(pictures: Entries, path: Path) -> None:
    make(pictures, path, prompt=Prompt("is it {title}?"), texts={"title": {"a": "a chair", "c": "a lamp"}})
    assert captions(path)["a"] == "a.png: is it a chair?"
    assert captions(path)["b"] == "b.png: is it ?"


@pytest.mark.parametrize("end", [b'{"id": "d", "caption": "half', b'{"id": "d", "capti\xc3', b"\0" * 100, b"{"])
def test_a_last_line_that_was_cut_off_is_left_out(
    end: bytes, pictures: Entries, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(pictures, path, Namer(fails=lambda task: "no" if task.item == "d" else None))
    with path.open("ab") as file:
        file.write(end)
    again = Namer()
    report = make(pictures, path, again)
    assert again.asked == ["d"]
    assert (report.made, report.kept) == (1, 3)
    assert list(captions(path)) == ["a", "b", "c", "d"]
    assert "cut off" in caplog.text


def test_a_last_line_that_was_damaged_by_hand_is_not_thrown_away(pictures: Entries, path: Path) -> None:
    content = '{"id": "a", "caption": "x"}\n{"id": "b", "caption": "the "best" chair"}'
    path.write_text(content)
    with pytest.raises(DataError, match=r"Line 2 of .*captions\.jsonl"):
        make(pictures, path)
    assert path.read_text() == content


def test_a_whole_last_line_without_its_end_is_kept(pictures: Entries, path: Path) -> None:
    path.write_text('\ufeff{"id": "a", "caption": "mine"}\r\n\n{"id": "b", "caption": "mine, too"}', "utf-8")
    make(pictures, path)
    assert CaptionFile(path).line("a") == {"id": "a", "caption": "mine"}
    assert CaptionFile(path).line("b") == {"id": "b", "caption": "mine, too"}
    assert len(CaptionFile(path)) == 4


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"id": "b", "caption": "x"', "no JSON"),
        ('["b", "x"]', "no JSON object"),
        ('{"caption": "x"}', "'id'"),
        ('{"id": null, "caption": "x"}', "'id'"),
        ('{"id": true, "caption": "x"}', "'id'"),
        ('{"id": "b"}', "'caption'"),
        ('{"id": "b", "caption": 3}', "'caption'"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_line_that_was_damaged_is_named_before_any_work(line: str, named: str, pictures: Entries, path: Path) -> None:
    content = f'{{"id": "a", "caption": "x"}}\n{line}\n{{"id": "c", "caption": "x"}}\n'
    path.write_text(content)
    captioner = Namer()
    with pytest.raises(DataError, match=r"Line 2 of .*captions\.jsonl") as refused:
        make(pictures, path, captioner)
    assert named in str(refused.value)
    assert captioner.asked == []
    assert path.read_text() == content


def correct(path: Path, item: str, caption: str) -> None:
    """What a person does in an editor."""
    changed = [{**line, "caption": caption} if line["id"] == item else line for line in lines(path)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in changed), "utf-8")


@pytest.mark.parametrize("recaption", [False, True])
def test_what_a_person_has_written_stays(recaption: bool, pictures: Entries, path: Path) -> None:
    make(pictures, path)
    correct(path, "b", "A fauteuil, émaillé")
    before = lines(path)
    report = make(pictures, path, Namer("another"), prompt=Prompt("and now?"), recaption=recaption)
    assert captions(path)["b"] == "A fauteuil, émaillé"
    assert by_hand(CaptionFile(path).line("b") or {})
    if recaption:
        assert (report.made, report.kept) == (3, 1)
        assert captions(path)["a"] == "a.png: and now?"
        assert sorted(captions(path)) == ["a", "b", "c", "d"]
    else:
        assert lines(path) == before
        assert report.changed == {"prompt": 3, "model": 3}


@pytest.mark.parametrize("recaption", [False, True])
def test_a_line_by_hand_holds_wherever_it_stands(recaption: bool, pictures: Entries, path: Path) -> None:
    make(pictures, path)
    path.write_text('{"id": "b", "caption": "mine"}\n' + path.read_text())
    make(pictures, path, prompt=Prompt("and now?"), recaption=recaption)
    assert captions(path)["b"] == "mine"
    assert caption_entries(pl.Series("item_id", ["b"]), path).frame.rows() == [("b", "mine")]


def test_only_what_has_changed_is_made_anew(pictures: Entries, path: Path) -> None:
    make(pictures, path)
    Image.new("RGB", (9, 9), "red").save(pictures.frame["entry"][2])
    report = make(pictures, path)
    assert (report.made, dict(report.changed)) == (0, {"picture": 1})
    again = Namer()
    report = make(pictures, path, again, recaption=True)
    assert again.asked == ["c"]
    assert (report.made, report.kept) == (1, 3)


def test_a_picture_that_has_gone_keeps_its_caption(pictures: Entries, path: Path) -> None:
    make(pictures, path)
    os.unlink(pictures.frame["entry"][1])
    report = make(pictures, path, recaption=True)
    assert (report.made, report.kept, report.failures, report.changed) == (0, 4, {}, {})
    assert captions(path)["b"] == "b.png: what?"


def test_a_deleted_line_is_made_anew(pictures: Entries, path: Path) -> None:
    make(pictures, path)
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if '"id": "b"' not in line))
    again = Namer()
    make(pictures, path, again)
    assert again.asked == ["b"]


def test_a_picture_without_caption_is_reported_and_tried_again(pictures: Entries, path: Path) -> None:
    os.unlink(pictures.frame["entry"][0])
    report = make(pictures, path, Namer(fails=lambda task: "too dark" if task.item == "c" else None))
    assert report.failures == {"a": "there is no such file", "c": "too dark"}
    assert list(captions(path)) == ["b", "d"]
    again = Namer()
    make(pictures, path, again)
    assert again.asked == ["c"]


def test_failures_that_do_not_end_are_no_longer_the_pictures_fault(tmp_path: Path, path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    frame = pl.DataFrame({"item_id": range(100), "entry": [str(tmp_path / "x.png")] * 100})
    pictures = Entries(frame, pl.Series([], dtype=pl.Int64), {})
    captioner = Namer(fails=lambda task: "no vision" if int(task.item) >= 3 else None)
    with pytest.raises(ServerError, match="20 pictures in a row got no caption, the last one since no vision"):
        make(pictures, path, captioner)
    assert len(captioner.asked) == 23
    assert len(lines(path)) == 3


def test_pictures_that_are_refused_do_not_keep_others_from_their_captions(tmp_path: Path, path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    ids = [*range(100), 100]

    def refuse(task: Task) -> str | None:
        return "content policy" if 30 <= int(task.item) < 100 else None

    def entries(count: int) -> Entries:
        frame = pl.DataFrame({"item_id": ids[:count], "entry": [str(tmp_path / "x.png")] * count})
        return Entries(frame, pl.Series([], dtype=pl.Int64), {})

    report = make(entries(100), path, Namer(fails=refuse, doubtful=True))
    assert (report.made, len(report.failures)) == (30, 70)
    # The next call begins with those that were refused.
    report = make(entries(101), path, Namer(fails=refuse, doubtful=True))
    assert (report.made, report.kept, len(report.failures)) == (1, 30, 70)


def test_a_model_that_refuses_every_picture_is_not_asked_for_all(tmp_path: Path, path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    frame = pl.DataFrame({"item_id": range(100), "entry": [str(tmp_path / "x.png")] * 100})
    captioner = Namer(fails=lambda task: "no vision", doubtful=True)
    with pytest.raises(ServerError, match="20 pictures in a row"):
        make(Entries(frame, pl.Series([], dtype=pl.Int64), {}), path, captioner)
    assert len(captioner.asked) == 20


def test_an_empty_caption_by_hand_is_a_failure(pictures: Entries, path: Path) -> None:
    path.write_text('{"id": "b", "caption": " "}\n')
    report = make(pictures, path, Namer())
    assert (report.made, report.kept) == (3, 0)
    assert report.failures.keys() == {"b"}


def test_captions_are_on_the_disk_as_they_come(pictures: Entries, path: Path) -> None:
    def interrupt(task: Task) -> None:
        assert len(lines(path) if path.exists() else []) == "abcd".index(str(task.item))
        if task.item == "c":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(pictures, path, Namer(fails=interrupt))
    assert list(captions(path)) == ["a", "b"]


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by another file"])
def test_a_correction_in_the_midst_of_the_work_is_not_lost(in_place: bool, pictures: Entries, path: Path) -> None:
    def save(task: Task) -> None:
        if task.item == "c":
            content = path.read_text().replace("a.png", "A by hand") + '{"id": "c", "caption": "mine"}\n'
            other = path if in_place else path.with_suffix(".swp")
            other.write_text(content)
            other.replace(path)

    report = make(pictures, path, Namer(fails=save))
    assert (report.made, report.kept) == (3, 1)
    assert captions(path) == {"a": "A by hand: what?", "b": "b.png: what?", "c": "mine", "d": "d.png: what?"}


def test_a_file_that_is_deleted_in_the_midst_of_the_work_begins_anew(pictures: Entries, path: Path) -> None:
    make(pictures, path, Namer(fails=lambda task: path.unlink() if task.item == "c" else None))
    assert list(captions(path)) == ["c", "d"]


def test_captions_become_the_entries_of_an_encoder(pictures: Entries, path: Path) -> None:
    make(pictures, path)
    correct(path, "b", " by  hand\n ")
    correct(path, "c", "  ")
    with path.open("a") as file:
        file.write('{"id": "z", "caption": "of another catalogue"}\n')
    entries = caption_entries(pl.Series("item_id", ["e", "d", "c", "b", "a"]), path)
    assert entries.frame.rows() == [("d", "d.png: what?"), ("b", "by hand"), ("a", "a.png: what?")]
    assert entries.missing.to_list() == ["e", "c"]
    assert entries.facts["captions"] == {"by hand": 1, "namer": 2}
    before = entries.facts["sha256"]
    correct(path, "a", "another")
    assert caption_entries(pl.Series("item_id", ["a", "b", "c", "d", "e"]), path).facts["sha256"] != before


def test_integer_ids_are_found_in_either_form(path: Path) -> None:
    path.write_text('{"id": 7, "caption": "seven"}\n{"id": "8", "caption": "eight"}\n{"id": 7, "caption": "later"}\n')
    entries = caption_entries(pl.Series("item_id", [7, 8, 9]), path)
    assert entries.frame.rows() == [(7, "later"), (8, "eight")]


def test_a_file_without_any_caption_of_the_catalogue_is_named(path: Path) -> None:
    path.write_text('{"id": "other", "caption": "x"}\n')
    with pytest.raises(DataError, match=r"captions\.jsonl has no caption"):
        caption_entries(pl.Series("item_id", ["a"]), path)
