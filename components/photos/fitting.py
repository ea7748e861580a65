"""From a photo of any size to the square that the models are trained on; this part runs in worker processes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.cleaning.duplicates import crop_hashes, thumbnail
from components.photos.decoding import Decoded, decode, flatten
from components.photos.similarity import SIDE
from components.settings import DecodingSettings

DECODED, REDUCED = 3.0, 2.0
"""A JPEG is decoded at a scale, and any photo averaged to one, at which it has this many times the pixels needed a
side; then comes the filter. Photos come within 44.5 dB (median of the clothing photos) of the filter alone, in a
third of the time; with 2 and 2, within 37 dB.
"""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; right and bottom are outside."""


@dataclass(frozen=True)
class Fitting:
    """What is made of every photo.

    Attributes:
        channels: 1 or 3, of the squares.
        crop_margin: as in params.yaml; null: photos are not cropped.
        compare: thumbnails and hashes are needed too.
    """

    size: int
    fit: Literal["pad", "resize"]
    channels: int
    crop_margin: float | None
    compare: bool


@dataclass(frozen=True)
class Fitted:
    """A group's photos.

    Attributes:
        places_N: which photo of all it is.
        squares_NCHW: the training images, uint8.
        thumbnails_NHWC, hashes_NK: for components/cleaning/duplicates.py; no rows where they are not needed.
    """

    places_N: NDArray[np.int64]
    squares_NCHW: NDArray[np.uint8]
    thumbnails_NHWC: NDArray[np.uint8]
    hashes_NK: NDArray[np.uint64]


def fit_rows(rows: Sequence[Mapping[str, Any]], fitting: Fitting, limits: DecodingSettings) -> Fitted:
    """Makes the square of each photo.

    Args:
        rows: with `image`, the file's bytes; `place`; and `width`, `height`, `box`: what is known of the
            upright photo, in its pixels, from validation.
    """
    squares = np.empty((len(rows), fitting.channels, fitting.size, fitting.size), dtype=np.uint8)
    thumbnails = np.empty((len(rows) if fitting.compare else 0, SIDE, SIDE, 3), dtype=np.uint8)
    for number, row in enumerate(rows):
        region = region_of(row["box"], row["width"], row["height"], fitting)
        photo = decode(row["image"], limits, at_least=_needed(region, row["width"], row["height"], fitting))
        squares[number] = training_image(photo.image, fitting.channels, fitting.size, fitting.fit, _in(photo, region))
        if fitting.compare:
            thumbnails[number] = thumbnail(flatten(photo.image, 3))
    places = np.array([row["place"] for row in rows], dtype=np.int64)
    return Fitted(places, squares, thumbnails, crop_hashes(thumbnails))


def region_of(box: Box, width: int, height: int, fitting: Fitting) -> Box:
    """What of a photo is used: with cropping, the product's box with a margin, else all of it.

    To be padded, it grows to a square as far as there is photo: that is better than any border colour.
    """
    if fitting.crop_margin is None:
        return 0.0, 0.0, float(width), float(height)
    left, top, right, bottom = box
    margin = fitting.crop_margin * max(right - left, bottom - top)
    side = max(right - left, bottom - top) + 2 * margin if fitting.fit == "pad" else 0.0
    left, right = _grown(left - margin, right + margin, side, width)
    top, bottom = _grown(top - margin, bottom + margin, side, height)
    return left, top, right, bottom


def _grown(low: float, high: float, length: float, limit: float) -> tuple[float, float]:
    """The interval made at least `length` long about its middle, cut at 0 and `limit`."""
    more = max(0.0, length - (high - low)) / 2
    return max(0.0, low - more), min(limit, high + more)


def _needed(region: Box, width: int, height: int, fitting: Fitting) -> int:
    """Shorter side at which a photo must be decoded so that nothing is lost; see `decode`."""
    longest = max(region[2] - region[0], region[3] - region[1])
    least = math.ceil(min(width, height) * min(1.0, DECODED * fitting.size / longest))
    return max(least, math.ceil(REDUCED * SIDE)) if fitting.compare else least


def _in(photo: Decoded, region: Box) -> Box:
    """The region in pixels of the image, which may be decoded at a reduced scale."""
    x, y = photo.image.width / photo.width, photo.image.height / photo.height
    return region[0] * x, region[1] * y, region[2] * x, region[3] * y


def training_image(
    photo: Image.Image, channels: int, size: int, fit: Literal["pad", "resize"], region: Box | None = None
) -> NDArray[np.uint8]:
    """The photo (Decoded.image), or a region of it, as uint8 (channels, size, size)."""
    flat = flatten(photo, channels)
    region = region or (0.0, 0.0, float(flat.width), float(flat.height))
    square = pad(flat, size, region) if fit == "pad" else _resized(flat, (size, size), region)
    return np.ascontiguousarray(square.transpose(2, 0, 1))


def pad(image: Image.Image, size: int, region: Box) -> NDArray[np.uint8]:
    """Centred at its own scale, if it fits, else made to fit; filled with its border colour.

    Returns:
        uint8 (size, size, C). Of an odd number of pixels to fill, one more is right or below.
    """
    lengths = region[2] - region[0], region[3] - region[1]
    scale = min(1.0, size / max(lengths))
    width, height = (min(size, max(1, round(length * scale))) for length in lengths)
    pixels = _resized(image, (width, height), region)
    top, left = (size - height) // 2, (size - width) // 2
    square = np.empty((size, size, pixels.shape[2]), dtype=np.uint8)
    square[:] = border_colour(pixels)
    square[top : top + height, left : left + width] = pixels
    return square


def border_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Median of the outermost pixels of (H, W, C), each counted once, per channel, (C,)."""
    edges = [pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]]
    if 1 in pixels.shape[:2]:
        edges = [pixels.reshape(-1, pixels.shape[2])]
    outermost = np.concatenate(edges)
    ordered = np.sort(outermost, axis=0).astype(np.float64)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    rounded: NDArray[np.uint8] = np.round(median).astype(np.uint8)
    return rounded


def _resized(image: Image.Image, size: tuple[int, int], region: Box) -> NDArray[np.uint8]:
    """A region of an image of mode L or RGB at a size, uint8 (H, W, C); the very pixels where none must be made up."""
    whole = (0.0, 0.0, *map(float, image.size))
    if image.size != size or region != whole:
        image = image.resize(size, Image.Resampling.LANCZOS, box=region, reducing_gap=REDUCED)
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
