"""What can be measured of a photo's pixels: exposure, focus, colour, background, product, hash.

Everything is taken from a photo whose shorter side is between SIDE and twice that (smaller photos
as they are), so that a measure means the same for a phone's 12 megapixels and for a shop's 400, and
so that it costs about a millisecond. Sums are of whole numbers, for sums of floats differ from
processor to processor in their last digit, and with them the hash of the facts.
"""

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.photos.colors import dominant_color
from components.photos.decoding import GREY, Decoded, flatten

SIDE = 192
"""Shorter side at which photos are measured, at least, pixels; what `decode` is asked for."""

SMALL_SIDE = 64
"""Shorter side, at least, for what looks at colours and areas only."""

RING = 0.04
"""Width of the frame that is taken for background, share of each side."""

PLAIN = 12
"""Deviation of a channel, 0..255, within which two pixels are of one colour."""

PLAIN_SHARE = 0.97
"""Background uniformity from which a background is plain, and the product's box is looked for."""

HASH_SIDE, HASH_BITS_SIDE = 32, 8

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are outside."""

Pixels = NDArray[np.uint8]


def measure(photo: Decoded, *, color: bool = True) -> dict[str, float | int | str]:
    """Brightness to `box_bottom` of the facts (components/validation/facts.py), from a photo decoded at SIDE.

    Args:
        color: tell the product's `color` too.
    """
    # Flattened first: pixels that nobody sees must not be averaged in.
    opaque = _shrunk(flatten(photo.image, 1 if photo.image.mode in GREY else 3), SIDE)
    grey = opaque.convert("L")
    rgb = opaque if opaque.mode == "RGB" else opaque.convert("RGB")
    overview = _shrunk(rgb, SMALL_SIDE)
    small = np.asarray(overview)
    brightness, contrast = mean_and_deviation(grey)
    background, uniformity = background_of(small)
    box = (0, 0, photo.width, photo.height)
    if uniformity >= PLAIN_SHARE:
        box = _scaled(product_box(np.asarray(rgb), background), rgb.size, (photo.width, photo.height))
    measures: dict[str, float | int | str] = {
        "brightness": brightness,
        "contrast": contrast,
        "sharpness": sharpness(np.asarray(_to_side(grey, SIDE))),
        "blankness": blankness(small),
        "colorfulness": colorfulness(small),
        "background_uniformity": uniformity,
        "phash": perceptual_hash(overview.convert("L")),
        "pixel_sha256": pixel_sha256(photo),
        "box_left": box[0],
        "box_top": box[1],
        "box_right": box[2],
        "box_bottom": box[3],
    }
    return measures | {"color": dominant_color(small)} if color else measures


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image made smaller by a whole number, so that its shorter side is still `side`."""
    factor = min(image.size) // side
    return image.reduce(factor) if factor > 1 else image


def _to_side(grey: Image.Image, side: int) -> Image.Image:
    """A grey image whose shorter side is `side`, if it was longer; each pixel is an average."""
    shorter = min(grey.size)
    if shorter <= side:
        return grey
    width, height = (max(side, round(length * side / shorter)) for length in grey.size)
    return grey.resize((width, height), Image.Resampling.BOX)


def pixel_sha256(photo: Decoded) -> str:
    """Hash of the full size and the pixels as decoded: the same for exact duplicates in different files.

    Of a JPEG decoded at a reduced scale these are the reduced pixels.
    """
    image = photo.image
    header = f"{image.mode} {photo.width} {photo.height} {image.width} {image.height}\n".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def mean_and_deviation(grey: Image.Image) -> tuple[float, float]:
    """Mean and standard deviation, 0..255, of an image of mode L."""
    counts = np.array(grey.histogram(), dtype=np.int64)
    levels = np.arange(256)
    return _mean_and_deviation(int(counts.sum()), int(counts @ levels), int(counts @ levels**2))


def _mean_and_deviation(n: int, total: int, squares: int) -> tuple[float, float]:
    return total / n, math.sqrt(n * squares - total * total) / n


def _moments(values: NDArray[np.int32]) -> tuple[int, int, int]:
    """Count, sum, sum of squares; exact while a value's square times their count is below 2**63."""
    return values.size, int(values.sum(dtype=np.int64)), int(np.square(values).sum(dtype=np.int64))


def sharpness(grey_HW: Pixels) -> float:
    """Variance of the Laplacian (4 neighbours): low for a photo out of focus.

    Pech-Pacheco et al., 2000, doi:10.1109/ICPR.2000.903548. 0 for an image without inner pixels.
    """
    if min(grey_HW.shape) < 3:
        return 0.0
    grey = grey_HW.astype(np.int16)
    centre = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
    n, total, squares = _moments(laplacian.astype(np.int32))
    return (n * squares - total * total) / (n * n)


def colorfulness(rgb_HWC: Pixels) -> float:
    """Hasler and Suesstrunk, 2003, doi:10.1117/12.477378: 0 for grey, about 100 for very colourful."""
    red, green, blue = (rgb_HWC[..., channel].astype(np.int32) for channel in range(3))
    mean_rg, deviation_rg = _mean_and_deviation(*_moments(red - green))
    mean_yb, deviation_yb = (value / 2 for value in _mean_and_deviation(*_moments(red + green - 2 * blue)))
    return math.hypot(deviation_rg, deviation_yb) + 0.3 * math.hypot(mean_rg, mean_yb)


def blankness(rgb_HWC: Pixels) -> float:
    """Share of pixels that are within PLAIN of the photo's most frequent colour, 0..1.

    Colours are counted in 16 steps per channel; the most frequent one is the mean of the fullest step.
    """
    flat = rgb_HWC.reshape(-1, 3)
    step = (flat >> 4).astype(np.int32)
    steps = step[:, 0] << 8 | step[:, 1] << 4 | step[:, 2]
    fullest = flat[steps == np.bincount(steps).argmax()]
    color = fullest.sum(axis=0, dtype=np.int64) // len(fullest)
    return float((_deviation(flat, color) <= PLAIN).mean())


def background_of(rgb_HWC: Pixels) -> tuple[NDArray[np.int64], float]:
    """Median colour of the frame, (3,), and the share of its pixels within PLAIN of that, 0..1."""
    ring = rgb_HWC[_ring(*rgb_HWC.shape[:2])]
    middle = len(ring) // 2
    color = np.partition(ring, middle, axis=0)[middle].astype(np.int64)
    return color, float((_deviation(ring, color) <= PLAIN).mean())


@lru_cache(maxsize=256)
def _ring(height: int, width: int) -> NDArray[np.bool_]:
    """Which pixels are the frame, (H, W)."""
    rows, columns = max(1, round(height * RING)), max(1, round(width * RING))
    ring = np.ones((height, width), dtype=np.bool_)
    ring[rows:-rows, columns:-columns] = False
    return ring


def _deviation(pixels: Pixels, color: NDArray[np.int64]) -> NDArray[np.int16]:
    """Largest deviation of a channel from the colour; (..., 3) to (...)."""
    each = np.abs(pixels.astype(np.int16) - color.astype(np.int16))
    # Ten times as fast as max(axis=-1).
    deviation: NDArray[np.int16] = np.maximum(np.maximum(each[..., 0], each[..., 1]), each[..., 2])
    return deviation


def product_box(rgb_HWC: Pixels, background: NDArray[np.int64]) -> Box:
    """Box of all that is not background, for a photo whose background is plain; in doubt the whole photo.

    A pixel belongs to the product as soon as it deviates more than the frame's own noise, so that
    shadows are part of it and nothing of it is lost. In doubt is a product of the background's
    colour, of which only the buttons would be found: what is left outside must be as
    quiet as the frame.
    """
    height, width = rgb_HWC.shape[:2]
    whole = (0, 0, width, height)
    deviation = _deviation(rgb_HWC, background)
    ring = _ring(height, width)
    noise = int(np.partition(deviation[ring], -(ring.sum() // 50) - 1)[-(ring.sum() // 50) - 1])
    product = deviation > max(4, noise + 2)
    rows, columns = np.flatnonzero(product.any(axis=1)), np.flatnonzero(product.any(axis=0))
    if len(rows) == 0:
        return whole
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    if (right - left) * (bottom - top) < 0.02 * width * height:
        return whole
    outside = np.ones((height, width), dtype=np.bool_)
    outside[top:bottom, left:right] = False
    inner = outside & ~ring
    if inner.any() and deviation[inner].mean() > deviation[ring & outside].mean() * 1.5 + 0.5:
        return whole
    return left, top, right, bottom


def _scaled(box: Box, size: tuple[int, int], full: tuple[int, int]) -> Box:
    """A box in an image of `size` as a box in the full photo, rounded outwards."""
    left, top, right, bottom = box
    (width, height), (full_width, full_height) = size, full
    return (
        left * full_width // width,
        top * full_height // height,
        -(-right * full_width // width),
        -(-bottom * full_height // height),
    )


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """The first rows of the discrete cosine transform (type II) of HASH_SIDE values."""
    frequency, position = np.arange(HASH_BITS_SIDE)[:, None], np.arange(HASH_SIDE)[None]
    cosines: NDArray[np.float64] = 2 * np.cos(np.pi * frequency * (2 * position + 1) / (2 * HASH_SIDE))
    return cosines


def perceptual_hash(grey: Image.Image) -> str:
    """64 bits as 16 hex digits: which of 8x8 low frequencies are above their median.

    The `phash` of the library ImageHash, bit for bit, in a third of its time and without its imports;
    coefficients are rounded, so that those of a blank photo do not depend on the processor.
    """
    pixels = np.asarray(grey.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    low = (_cosines() @ pixels @ _cosines().T).round(6)
    return np.packbits(low > np.median(low)).tobytes().hex()
