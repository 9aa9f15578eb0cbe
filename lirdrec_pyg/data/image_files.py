"""Images as people see them, independent of how a file stores them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lirdrec_pyg.errors import DataError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

# Raster formats only: Pillow passes others, such as PostScript, to programs that execute them.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000")

# Effects of :func:`as_shown`, for the provenance.
SHOWN = {"orientation": "as in EXIF", "background": "white"}


@contextmanager
def opened_image(path: str, formats: Sequence[str] = _FORMATS) -> Iterator["Image"]:
    """Open an image of one of some formats; its pixels are read on demand.

    Raises:
        DataError: if the image cannot be read here or inside the context. The message is the reason, without the
            file's path or a period.
    """
    from PIL import Image

    if not Path(path).is_file():
        raise DataError("there is no such file")
    Image.init()
    try:
        with Image.open(path, formats=[name for name in formats if name in Image.OPEN]) as image:
            width, height = image.size
            if width * height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise DataError(f"the image has {width} x {height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
            yield image
    except DataError:
        raise
    except Exception as error:  # damaged files raise nearly any type
        # Without the path: the reason also is that of other files with the same content.
        reason = first_line(error).replace(f": {path!r}", "").replace(f" {path!r}", "").replace(path, "it")
        raise DataError(f"the image cannot be read ({reason})") from error


def as_shown(image: "Image") -> "Image":
    """Convert an image to 8-bit RGB as people see it.

    It is rotated by its EXIF orientation and laid on white where it is transparent; of an animation, the first frame is
    used.

    Raises:
        DataError: if its pixels are floats, whose range is unknown.
    """
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise DataError("the image has floating-point pixels, whose range is unknown")
    if upright.mode.startswith("I"):
        # Pillow clips 16-bit values at 255, which turns nearly all of the image white.
        return upright.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    # The color below transparent pixels is usually black.
    layer = upright.convert("RGBA")
    shown = Image.new("RGB", layer.size, "white")
    shown.paste(layer, mask=layer.getchannel("A"))
    return shown
