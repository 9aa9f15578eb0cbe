"""Pictures as people see them, whatever a file makes of that."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# What is opened: pixels only. Pillow would hand others, such as PostScript, to programs that run them.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000")

# What :func:`as_shown` sees to, for the provenance.
SHOWN = {"orientation": "as in EXIF", "background": "white"}


@contextmanager
def opened_picture(path: str) -> Iterator["Image"]:
    """Opens a picture, whose pixels are read when they are asked for.

    Raises:
        DataError: if it can't be read, here or in what is done with it; the message is why, without a full stop
            or the name of the file.
    """
    from PIL import Image

    if not Path(path).is_file():
        raise DataError("there is no such file")
    Image.init()
    try:
        with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as picture:
            width, height = picture.size
            if width * height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise DataError(f"the picture has {width} x {height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
            yield picture
    except DataError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise DataError(f"the picture can't be read ({first_line(error).replace(path, Path(path).name)})") from error


def as_shown(picture: "Image") -> "Image":
    """A picture as people see it: upright as the camera says, on white where it is transparent, in RGB of 8 bits.

    Of an animation it is the first frame.

    Raises:
        DataError: if nobody can say how bright its pixels are.
    """
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "F":
        raise DataError("the picture has pixels of floating-point numbers, whose range is not known")
    if upright.mode.startswith("I"):
        # Pillow would cut 16 bits off at 255, which makes nearly all of it white.
        return upright.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    # What lies under transparent pixels is never seen, and black more often than not.
    layer = upright.convert("RGBA")
    shown = Image.new("RGB", layer.size, "white")
    shown.paste(layer, mask=layer.getchannel("A"))
    return shown
