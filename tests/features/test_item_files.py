"""Paths of a catalog that another computer wrote."""

import unicodedata
from pathlib import Path

import polars as pl
import pytest

from lirdrec_pyg.errors import DataError
from lirdrec_pyg.features.item_files import locate_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("0.jpg", "1.jpg", "c/h/x0.jpg", "Café rouge.jpg", "a%b.jpg", "UP.JPG", "up/a.jpg", "up/A.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    (tmp_path / "secret.jpg").touch()
    return tmp_path / "images"


def located(root: Path, *paths: str) -> list[str]:
    items = pl.DataFrame({"item_id": range(len(paths)), "entry": paths})
    return [str(Path(file).relative_to(root)) for file in locate_files(items, root, "column 'img' of c.csv")]


FOREIGN = {
    r"images\0.jpg": "0.jpg",
    r".\c\d\..\h\x0.jpg": "c/h/x0.jpg",
    r"C:\Users\me\shop\images\0.jpg": "0.jpg",
    r"\\server\share\c\h\x0.jpg": "c/h/x0.jpg",
    "/c/h/x0.jpg": "c/h/x0.jpg",
    "~/shop/images/0.jpg": "0.jpg",
    "../pictures/1.jpg": "1.jpg",
    "file:///home/me/images/1.jpg": "1.jpg",
    "file:///C:/images/Caf%C3%A9%20rouge.jpg": "Café rouge.jpg",
    "https://shop/c/h/x0.jpg?size=9#top": "c/h/x0.jpg",
    unicodedata.normalize("NFD", "Café rouge.jpg"): "Café rouge.jpg",
    "a%25b.jpg": "a%b.jpg",
    "up.jpg": "UP.JPG",
    r"UP\A.jpg": "up/A.jpg",
}


@pytest.mark.parametrize(("path", "file"), FOREIGN.items())
def test_the_longest_trailing_part_counts(root: Path, path: str, file: str) -> None:
    with pytest.warns(UserWarning, match=r"^1 of 2 paths in column 'img' of c.csv do not exist in .*images") as warned:
        assert located(root, "up/a.jpg", path) == ["up/a.jpg", file]
    assert str(warned[0].message).endswith(f"such as {file}.")


@pytest.mark.filterwarnings("ignore:.*trailing parts")
def test_paths_that_are_not_found_stay_below_the_root(root: Path) -> None:
    assert located(root, "0.jpg", "./c/h/../h/x0.jpg", "a%b.jpg", str(root / "1.jpg")) == [
        "0.jpg",
        "c/h/x0.jpg",
        "a%b.jpg",
        "1.jpg",
    ]
    # A file that belongs to another path, or to two, is not used.
    assert located(root, "0.jpg", "thumbs/0.jpg") == ["0.jpg", "thumbs/0.jpg"]
    assert located(root, "1.jpg", "a/0.jpg", "b/0.jpg") == ["1.jpg", "a/0.jpg", "b/0.jpg"]
    # It is if the paths differ only by their spelling, or belong to several items.
    assert located(root, "0.jpg", r".\0.jpg", "/0.jpg") == ["0.jpg"] * 3
    assert located(root, r"C:\0.jpg", r"C:\0.jpg") == ["0.jpg"] * 2
    # Missing files, once others of their kind were found.
    assert located(root, "/c/h/x0.jpg", "/etc/passwd", "../secret.jpg") == ["c/h/x0.jpg", "etc/passwd", "secret.jpg"]
    assert located(root, "https://shop/0.jpg", "https://shop/9.jpg") == ["0.jpg", "https:/shop/9.jpg"]
    assert located(root, r"C:\0.jpg", r"C:\up\a.JPG")[1] == r"C:/up/a.JPG"  # a.jpg or A.jpg


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (["0.jpg", "/etc/passwd"], r"'/etc/passwd' of item 1 in column 'img' of c.csv leads out of .*images.*`root`"),
        (["0.jpg", "../secret.jpg"], r"'\.\./secret\.jpg' of item 1"),
        (["0.jpg", "c/../../secret.jpg"], "of item 1"),
        (["0.jpg", "0.jpg\0/../../secret.jpg"], "of item 1"),
        (["0.jpg", "file:///home/9.jpg"], "of item 1.*Pass the folder that contains the files as `root`"),
        (["https://shop/9.jpg"], "Download the files into `root`"),
        ([r"C:\images\9.jpg"], r"None of the files in column 'img' of c.csv .*'C:\\images\\9.jpg'.*`root`"),
        (["a/0.jpg", "b/0.jpg"], "leads to a file of its own"),
    ],
)
def test_paths_that_cannot_be_used(root: Path, paths: list[str], named: str) -> None:
    with pytest.raises(DataError, match=named):
        located(root, *paths)
