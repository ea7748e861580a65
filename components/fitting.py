"""From a photo of any size to the square that the models are trained on."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.decoding import flatten


def training_image(photo: Image.Image, channels: int, size: int, fit: Literal["pad", "resize"]) -> NDArray[np.uint8]:
    """The photo (Decoded.image) as uint8 (channels, size, size)."""
    flat = flatten(photo, channels)
    square = pad(flat, size) if fit == "pad" else resize(flat, size)
    return np.ascontiguousarray(square.transpose(2, 0, 1))


def resize(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Fills the square, whatever the aspect; uint8 (size, size, C)."""
    return _pixels(image.resize((size, size), Image.Resampling.LANCZOS))


def pad(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Centred at its own scale, if it fits, else made to fit; filled with its border colour.

    Returns:
        uint8 (size, size, C). Of an odd number of pixels to fill, one more is right or below.
    """
    longest = max(image.size)
    if longest > size:
        width, height = (max(1, round(side * size / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = _pixels(image)
    height, width, channels = pixels.shape
    top, left = (size - height) // 2, (size - width) // 2
    square = np.empty((size, size, channels), dtype=np.uint8)
    square[:] = border_colour(pixels)
    square[top : top + height, left : left + width] = pixels
    return square


def border_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Median of the outermost pixels of (H, W, C), each counted once, per channel, (C,)."""
    outermost = np.ones(pixels.shape[:2], dtype=bool)
    outermost[1:-1, 1:-1] = False
    medians: NDArray[np.float64] = np.asarray(np.median(pixels[outermost], axis=0))
    return np.round(medians).astype(np.uint8)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 (H, W, C) of an image of mode L or RGB."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
