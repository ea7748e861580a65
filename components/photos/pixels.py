"""Pixels of any kind that files hold, as 8 bits per channel; what is transparent laid on white."""

import numpy as np
from PIL import Image

COLOUR_MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "I;16": "L",
    "I;16B": "L",
    "I;16L": "L",
    "I": "L",
    "F": "L",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
"""Pillow's mode of a file to the mode that it is worked on in."""

GREY = ("L", "LA")

TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""The tag that says what a TIFF's numbers mean, and one of its values."""

WHITES = (1.0, 255.0, 65535.0, 4294967295.0)
"""What white may be in pixels of 32 bits, for which files do not say it."""


def eight_bit(image: Image.Image) -> Image.Image:
    """The image in mode L, LA, RGB, RGBA, or CMYK, which is left to its colour profile.

    Raises:
        ValueError: pixels of another kind, or beyond all WHITES.
    """
    if image.mode not in COLOUR_MODES:
        raise ValueError(f"mode {image.mode} is none of {', '.join(COLOUR_MODES)}")
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        return _from_32_bits(image)
    if image.mode == "CMYK":
        return image
    mode = COLOUR_MODES[image.mode]
    if image.has_transparency_data:
        mode = "LA" if mode in GREY else "RGBA"
    return image if image.mode == mode else image.convert(mode)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey, or grey with alpha where one value stands for transparent (PNG's tRNS)."""
    pixels = np.asarray(image)
    grey = (pixels >> 8).astype(np.uint8)
    # Pillow inverts such TIFFs of 8 bits, but not of 16.
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return Image.fromarray(grey)
    alpha = np.where(pixels == transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _from_32_bits(image: Image.Image) -> Image.Image:
    """White is the least of WHITES that no pixel exceeds, but for whole numbers never 1."""
    pixels = np.asarray(image, dtype=np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    whites = [white for white in WHITES if high <= white and (image.mode == "F" or white > 1)]
    if not whites or low < 0:
        raise ValueError(f"pixels from {low:g} to {high:g}; of mode {image.mode}, white may be {WHITES}")
    return Image.fromarray((pixels * (255 / whites[0]) + 0.5).astype(np.uint8))


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Grey (1 channel) or RGB (3), what is transparent on white; takes Decoded.image."""
    mode = "L" if channels == 1 else "RGB"
    opaque = image if image.mode == mode else image.convert(mode)
    if image.mode not in ("LA", "RGBA"):
        return opaque
    white = Image.new(mode, image.size, "white")
    white.paste(opaque, mask=image)
    return white
