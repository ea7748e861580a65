"""From the bytes of an image file to 8-bit pixels."""

import io
import re
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats of photos. Others that Pillow knows start programs (EPS) or are hardly tested."""

COLOUR_MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "I;16": "L",
    "I;16B": "L",
    "I;16L": "L",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
"""Pillow's mode of a file to the mode that it is worked on in."""

GREY = ("L", "LA")


class UndecodableError(ValueError):
    """The bytes are no photo; the message is the same on every run."""


@dataclass(frozen=True)
class Decoded:
    """A photo, upright.

    Attributes:
        format: Pillow's name of the file's format.
        mode: Pillow's mode as stored in the file.
        image: its first frame, 8 bits per channel, of mode L, LA, RGB or RGBA.
    """

    format: str
    mode: str
    image: Image.Image


def decode(content: bytes) -> Decoded:
    """Decodes all pixels.

    Raises:
        UndecodableError: not an image of FORMATS, damaged, of a mode that COLOUR_MODES lacks, or
            with more pixels than Pillow's guard against decompression bombs admits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
                return Decoded(str(image.format), image.mode, _eight_bit(upright))
    except MemoryError:
        raise
    # What Pillow raises on damaged bytes has no common class: OSError, SyntaxError, zlib.error, ...
    except Exception as error:
        raise UndecodableError(_stable_text(error)) from None


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode not in COLOUR_MODES:
        raise ValueError(f"mode {image.mode} is none of {', '.join(COLOUR_MODES)}")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    mode = COLOUR_MODES[image.mode]
    if image.has_transparency_data:
        mode = "LA" if mode in GREY else "RGBA"
    return image if image.mode == mode else image.convert(mode)


def _stable_text(error: Exception) -> str:
    """The error without the memory address that Pillow puts in."""
    if isinstance(error, UnidentifiedImageError):
        return f"no image of {', '.join(FORMATS)}, or its header is damaged"
    text = re.sub(r" at 0x[0-9a-f]+", "", str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Grey (1 channel) or RGB (3), what is transparent on white; takes Decoded.image."""
    if image.mode in ("LA", "RGBA"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)
