"""What models see of a picture is what people see of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_encoders import save_image_model

from lirdrec_pyg.errors import DataError
from lirdrec_pyg.features import ImageEncoder
from lirdrec_pyg.features.captioners import open_picture
from lirdrec_pyg.features.pictures import SHOWN, as_shown, opened_picture

WHITE, RED = (255, 255, 255), (200, 30, 60)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    return ImageEncoder(str(save_image_model("clip", tmp_path_factory.mktemp("clip"))))


def shown(path: Path) -> Image.Image:
    with opened_picture(str(path)) as picture:
        return as_shown(picture)


def half_transparent(mode: str) -> Image.Image:
    """Red on the left; on the right transparent, with black below."""
    layer = Image.new("RGBA", (8, 4))
    layer.paste((*RED, 255), (0, 0, 4, 4))
    if mode == "LA":
        return layer.convert("LA")
    return layer.quantize(4) if mode == "P" else layer


KINDS = [
    ("RGBA", "png"),
    ("LA", "png"),
    ("P", "png"),
    ("RGBA", "webp"),
    ("RGBA", "gif"),
    ("RGBA", "tiff"),
    ("LA", "tiff"),
]


@pytest.mark.parametrize(("mode", "suffix"), KINDS)
def test_there_is_white_where_a_picture_is_transparent(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    half_transparent(mode).save(path, **({"lossless": True} if suffix == "webp" else {}))
    found = shown(path)
    assert (found.mode, found.getpixel((6, 1))) == ("RGB", WHITE)
    left = found.getpixel((1, 1))
    assert left == (RED if mode != "LA" else (left[0],) * 3)
    assert left[0] < 210


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_a_colour_that_stands_for_nothing_becomes_white(tmp_path: Path, mode: str) -> None:
    black = (0, 0, 0) if mode == "RGB" else 0
    Image.new(mode, (4, 4)).save(tmp_path / "picture.png", transparency=black)
    assert shown(tmp_path / "picture.png").getcolors() == [(16, WHITE)]


def test_half_of_the_light_comes_through_half_a_layer(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "picture.png")
    ((_, (grey, _, _)),) = shown(tmp_path / "picture.png").getcolors()
    assert grey == 127


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, suffix: str) -> None:
    values = np.arange(0, 2**16, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / f"picture.{suffix}")
    found = np.asarray(shown(tmp_path / f"picture.{suffix}"))
    assert np.array_equal(found, np.arange(256).reshape(16, 16, 1).repeat(3, 2))


def test_numbers_of_unknown_range_are_no_picture(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "picture.tiff")
    with pytest.raises(DataError, match="range is not known"):
        shown(tmp_path / "picture.tiff")


def test_a_picture_for_print_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / "picture.jpg", quality=95)
    (mean,) = np.asarray(shown(tmp_path / "picture.jpg")).mean((0, 1), keepdims=True).reshape(1, 3)
    np.testing.assert_allclose(mean, RED, atol=4)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_seen(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, "blue", "green")]
    frames[0].save(tmp_path / f"picture.{suffix}", save_all=True, append_images=frames[1:], duration=50)
    np.testing.assert_allclose(np.asarray(shown(tmp_path / f"picture.{suffix}"))[4, 4], RED, atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_the_camera_says(tmp_path: Path, orientation: int) -> None:
    corner = Image.new("RGB", (32, 16), "white")
    corner.paste(RED, (0, 0, 8, 8))  # to be seen above on the left
    as_stored = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    stored = corner
    for method in as_stored:
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
def test_encoders_and_captioners_see_the_same(
    tmp_path: Path, save: Callable[[Path], None], encoder: ImageEncoder
) -> None:
    save(tmp_path / "picture.png")
    open_picture(str(tmp_path / "picture.png"), 1024).save(tmp_path / "seen.png")
    first, second = (encoder.load(str(tmp_path / name))["pixel_values"] for name in ("picture.png", "seen.png"))
    assert (first == second).all()
    assert encoder.describe()["preprocessing"].items() >= SHOWN.items()


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (3, 3), (3, 40), (40, 3), (1, 40)])
def test_tiny_pictures_keep_their_colour(tmp_path: Path, size: tuple[int, int], encoder: ImageEncoder) -> None:
    for name, found in (("tiny", size), ("large", (64, 64))):
        Image.new("RGB", found, RED).save(tmp_path / f"{name}.png")
    tiny, large = (encoder.load(str(tmp_path / f"{name}.png"))["pixel_values"] for name in ("tiny", "large"))
    np.testing.assert_allclose(tiny, large, atol=0.02)
