"""Small images of the items, for pages that people look at."""

import base64
import re
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

import polars as pl

from lirdrec_pyg.data.image_files import as_shown, opened_image
from lirdrec_pyg.errors import ConfigError, DataError, shown

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender

# A service reads what a catalog names, so it has the decoders that shops need and no others.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_MAX_PIXELS = 50_000_000
_MEDIA_TYPE = re.compile(r"image/[\w.+-]+", re.ASCII)


class Image(NamedTuple):
    """An image as a browser takes it.

    Attributes:
        media_type: such as ``"image/jpeg"``.
        content: the file.
        size: width and height in pixels, ``None`` if unknown.
    """

    media_type: str
    content: bytes
    size: tuple[int, int] | None = None

    @property
    def data_uri(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


class ItemImages:
    """Images of the items of a recommender, made small.

    The column ``picture`` of the catalog holds paths below the image folder, or ``data:`` URIs. No file outside the
    folder is read, whatever its paths and symbolic links say. Needs Pillow for files.

    Args:
        recommender: its catalog names the images.
        root: folder that the paths are relative to; by default that of the catalog.

    Raises:
        ConfigError: if ``root`` is not a folder.
    """

    def __init__(self, recommender: "Recommender", root: str | Path | None = None) -> None:
        catalog = recommender.dataset.catalog
        if root is not None and not Path(root).is_dir():
            raise ConfigError(f"`image_root` is {shown(str(root))}, which is not a folder.")
        folder = root if root is not None or catalog is None else catalog.image_root
        self._root = None if folder is None else Path(folder).resolve()
        self._recommender = recommender

    @cached_property
    def _entries(self) -> pl.Series | None:
        """Path or URI of each item by position."""
        catalog = self._recommender.dataset.catalog
        if catalog is None or catalog.picture is None:
            return None
        return self._recommender.catalog_rows[catalog.picture].cast(pl.String)

    def get(self, position: int, width: int) -> Image | None:
        """Return the image of an item, scaled down to at most ``width`` pixels; ``None`` if there is none to read."""
        entry = None if self._entries is None else self._entries[position]
        if not entry:
            return None
        if entry.startswith("data:"):
            return _inline(entry)
        file = self._file(entry)
        return None if file is None else _thumbnail(file, width)

    def _file(self, entry: str) -> Path | None:
        if self._root is None:
            return None
        try:
            file = (self._root / entry).resolve()
            return file if file.is_relative_to(self._root) and file.is_file() else None
        except (OSError, ValueError):  # too long, or a null byte
            return None


def _inline(uri: str) -> Image | None:
    head, _, content = uri.removeprefix("data:").partition(",")
    media_type, *options = head.split(";")
    if not _MEDIA_TYPE.fullmatch(media_type):  # it becomes a header
        return None
    try:
        return Image(media_type, base64.b64decode(content) if "base64" in options else unquote_to_bytes(content))
    except ValueError:
        return None


def _thumbnail(file: Path, width: int) -> Image | None:
    try:
        with opened_image(str(file), _FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                return None
            image.draft("RGB", (2 * width, 2 * width))  # JPEG decodes to a smaller size by itself
            small = as_shown(image)
    except DataError:
        return None
    small.thumbnail((width, 3 * width))
    found = BytesIO()
    small.save(found, "JPEG", quality=80, optimize=True)
    return Image("image/jpeg", found.getvalue(), small.size)
