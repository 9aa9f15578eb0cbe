"""Images of items: which files are read, and that they become small."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from PIL import Image as Pillow

from lirdrec_pyg import Dataset, PopularityConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.recommender.images import Image, ItemImages

Make = Callable[..., Recommender]


@pytest.fixture
def shop(tmp_path: Path) -> Make:
    """A recommender whose items have the given pictures, read from catalog.csv."""

    def make(*pictures: str | None) -> Recommender:
        count = len(pictures)
        clicks = pl.DataFrame({"user_id": [0] * count, "item_id": range(count)})
        clicks.write_csv(tmp_path / "clicks.csv")
        pl.DataFrame({"item_id": range(count), "image": pictures}).write_csv(tmp_path / "shop" / "catalog.csv")
        features = pl.DataFrame({"item_id": range(count), "x": [0.5] * count, "y": [n * 0.25 for n in range(count)]})
        features.write_csv(tmp_path / "text_feat.csv")
        dataset = Dataset.from_path(
            tmp_path / "clicks.csv",
            features={"text": str(tmp_path / "text_feat.csv")},
            items=str(tmp_path / "shop" / "catalog.csv"),
            split="none",
        )
        return fit(dataset, PopularityConfig(), TrainingConfig(device="cpu"))

    (tmp_path / "shop" / "images").mkdir(parents=True)
    return make


def opened(image: Image | None) -> Pillow.Image:
    assert image is not None
    return Pillow.open(BytesIO(image.content))


def test_images_become_small(shop: Make, tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "images"
    Pillow.new("RGB", (400, 200), "red").save(folder / "a.jpg")
    Pillow.new("RGBA", (40, 200), (0, 0, 0, 0)).save(folder / "b.png")
    (folder / "c.jpg").write_bytes(b"no image")
    Pillow.new("RGB", (5, 5)).save(folder / "d.eps")  # its decoder would start a program
    pictures = ["images/a.jpg", str(folder / "b.png"), "images/c.jpg", "images/d.eps", "images/none.jpg", None]
    images = ItemImages(shop(*pictures))
    assert opened(images.get(0, 100)).size == (100, 50)
    assert opened(images.get(1, 100)).size == (40, 200)
    assert opened(images.get(1, 100)).getpixel((0, 0)) == (255, 255, 255)  # not black
    assert [images.get(n, 100) for n in (2, 3, 4, 5)] == [None] * 4
    assert images.get(0, 100).data_uri.startswith("data:image/jpeg;base64,/9j/")


def test_no_file_outside_the_folder_is_read(shop: Make, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Pillow.new("RGB", (5, 5)).save(secret)
    (tmp_path / "shop" / "images" / "link.png").symlink_to(secret)
    (tmp_path / "shop" / "images" / "up").symlink_to(tmp_path)
    paths = ["../secret.png", str(secret), "images/link.png", "images/up/secret.png", "images/../../secret.png"]
    odd = [f"file://{secret}", "%2e%2e/secret.png", "a" * 5000, "http://localhost/secret.png", "..\\secret.png"]
    recommender = shop(*paths, *odd)
    images = ItemImages(recommender)
    assert [images.get(n, 100) for n in range(10)] == [None] * 10
    assert ItemImages(recommender, tmp_path).get(1, 100) is not None
    with pytest.raises(ConfigError, match="which is not a folder"):
        ItemImages(recommender, secret)


def test_data_uris_are_decoded(shop: Make) -> None:
    pictures = [
        "data:image/svg+xml,%3Csvg/%3E",
        "data:image/gif;base64,R0lG",
        "data:image/gif;base64,!",
        "data:text/html,x",
        "data:image/a\nb,x",
    ]
    images = ItemImages(shop(*pictures))
    assert images.get(0, 9) == Image("image/svg+xml", b"<svg/>")
    assert images.get(1, 9) == Image("image/gif", b"GIF")
    assert [images.get(3, 9), images.get(4, 9)] == [None, None]


def test_a_saved_run_finds_its_images(shop: Make, tmp_path: Path) -> None:
    Pillow.new("RGB", (5, 5)).save(tmp_path / "shop" / "images" / "a.png")
    shop("images/a.png", None).save(tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.dataset.catalog.image_root == str(tmp_path / "shop")
    today = loaded.with_catalog(pl.DataFrame({"item_id": [0], "image": ["images/a.png"]}))
    assert ItemImages(loaded).get(0, 9) == ItemImages(today).get(0, 9) is not None
