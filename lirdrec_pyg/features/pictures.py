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
