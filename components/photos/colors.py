"""The colour of a garment: one of the eleven basic colour terms, or `multicolor`.

The terms are those of Berlin and Kay, 1969. A pixel has the term of the nearest of EXAMPLES in
CIELAB; Pillow's LittleCMS does the conversion. What the garment is, is told from the frame of the
photo, which shows background, and from its middle, which shows garment: a colour counts as far as
it is more frequent in the middle than in the frame.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

EXAMPLES = {
    "black": "000000 0c0c0e 1b1b1d 202024 27272a 2a2626 1e1a1a",
    "white": "ffffff f2f2f2 e4e4e6 d4d4d6 e8e4d8 d8d2c6 c9c9cb dcdfe6",
    "grey": "b4b4b4 a0a0a0 8c8c8c 787878 646464 505052 404042 9c9894 7c7874 5c5854 909296 70747a b4b0a8",
    "red": "ff0000 e0101c c01824 a01820 801a22 d83030 c83c3c 601820 e84848 b02a3a 48141a",
    "orange": "ff8000 ff6a00 f8a840 f09030 e07020 ffa54a d86018 f47848 c85a20",
    "yellow": "ffff00 f8d820 e8c020 fff08a d8b030 f0e060 c8a828 e0d080",
    "green": "00ff00 008000 208040 406030 556b2f 808040 90b060 205030 303c28 98c898 6b7a4a 0c3c28 28a890 7c8458 a0c040",
    "blue": "0000ff 0080ff 2040a0 203060 182040 6080b0 88a8d0 40c0e0 00ffff 4c6484 70889c 304058 20283c b0c8e0 2090a0 "
    "9cb0c4 1a2030 586c88 8c98a8 a4b2c4 6a788a 4a5666 2e3644 7c8ca0",
    "purple": "800080 6a2c8c 9060b0 b090d0 502050 7c4c80 c0a0d0 604070 3c2040 8c6c94",
    "pink": "ff80c0 ffb0c0 e8a0a8 e06090 ff40a0 f0c8cc d8889c d0207c f08c8c d8a8a8 c04880 b07880",
    "brown": "603010 804820 a06a40 4a3024 c09870 6c5038 382418 907458 b08c6c 54443a 7c6450 a88c74 342820 c8a880",
}
"""Colours as people call them, sRGB; photos of garments are duller than the names' pure colours."""

MULTICOLOR = "multicolor"
TERMS = (*EXAMPLES, MULTICOLOR)

SHADES: dict[str, tuple[str, ...]] = {
    "black": ("grey", "blue"),
    "white": ("grey",),
    "grey": ("black", "white"),
    "red": ("pink", "brown"),
    "orange": ("red", "brown", "yellow"),
    "yellow": ("orange",),
    "green": ("grey",),
    "blue": ("black", "purple"),
    "purple": ("pink", "blue"),
    "pink": ("red", "purple"),
    "brown": ("orange", "black"),
}
"""Terms that a garment of one colour also has in its folds and highlights."""

ENOUGH = 0.55
"""Share of the garment that its colour, shades included, must have; else it is multicolor."""

MOST_GAIN = 307
"""1.2 in 256ths: a dark photo is made brighter by no more."""

STEPS = 32
"""Steps per channel in which colours are looked up."""

LIGHTNESS = 0.3
"""What a step of L, of 255, counts for in the distance between two colours; a and b count 1."""

CELL = np.array([24, 12, 12])
"""Size of a cell of Lab in which colours count as alike; L is in 0..255, a and b as they are."""

CELLS = (13, 23, 23)
"""Number of cells, with a margin of one on every side, that colours can spread into."""


def dominant_color(rgb_HWC: NDArray[np.uint8]) -> str:
    """One of TERMS for a small photo (some 64 pixels wide) of one garment."""
    shares = term_shares(rgb_HWC)
    names = list(EXAMPLES)
    first = names[int(shares.argmax())]
    together = shares[names.index(first)] + sum(shares[names.index(other)] for other in SHADES[first])
    return first if together >= ENOUGH else MULTICOLOR


def term_shares(rgb_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of the garment that each of EXAMPLES' terms has, (11,)."""
    terms, cells = _tables()
    reduced = _exposed(rgb_HWC) >> 3
    index = ((reduced[..., 0] * STEPS + reduced[..., 1]) * STEPS + reduced[..., 2]).ravel()
    middle, frame = _priors(*rgb_HWC.shape[:2])
    cell = cells[index]
    in_middle, in_frame = _frequency(cell, middle), _frequency(cell, frame)
    garment = in_middle / (in_middle + 2 * in_frame + 1e-9)
    weight = middle * garment[cell] ** 2
    shares = np.bincount(terms[index], weight, minlength=len(EXAMPLES))
    normalized: NDArray[np.float64] = shares / max(shares.sum(), 1e-12)
    return normalized


def _exposed(rgb_HWC: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The photo made as bright as if its brightest parts were nearly white, within limits."""
    counts = np.bincount(rgb_HWC[..., 1].ravel(), minlength=256)
    bright = int(np.searchsorted(counts.cumsum(), 0.98 * counts.sum()))
    gain = min(max(256, 240 * 256 // max(bright, 1)), MOST_GAIN)
    exposed: NDArray[np.int32] = np.minimum(rgb_HWC.astype(np.int32) * gain >> 8, 255)
    return exposed


def _frequency(cell: NDArray[np.int32], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the weight in each cell and, in part, its neighbours, (prod(CELLS),)."""
    counted = np.bincount(cell, weight, minlength=int(np.prod(CELLS)))
    grid: NDArray[np.float64] = counted.astype(np.float64).reshape(CELLS)
    for _ in range(3):
        # Half of each cell to its neighbours on the last axis: another one each time, and at the end the old order.
        grid = np.moveaxis(grid, 0, 2)
        half = 0.5 * grid
        grid[..., 1:] += half[..., :-1]
        grid[..., :-1] += half[..., 1:]
    frequency: NDArray[np.float64] = grid.ravel() / max(8 * weight.sum(), 1e-12)
    return frequency


@lru_cache(maxsize=256)
def _priors(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the pixels as garment and as background, (H * W,) each."""
    y = ((np.arange(height) + 0.5) / height - 0.5)[:, None]
    x = ((np.arange(width) + 0.5) / width - 0.5)[None]
    middle = np.exp(-0.5 * ((x / 0.2) ** 2 + (y / 0.22) ** 2))
    frame = ((np.abs(x) > 0.43) | (np.abs(y) > 0.44)).astype(np.float64)
    return middle.ravel(), frame.ravel()


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Term and cell of every colour in STEPS per channel, (STEPS**3,) each."""
    levels = (np.arange(STEPS, dtype=np.uint8) << 3) + 4
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(colors)
    examples = [bytes.fromhex(code) for codes in EXAMPLES.values() for code in codes.split()]
    term_of_example = np.repeat(np.arange(len(EXAMPLES)), [len(codes.split()) for codes in EXAMPLES.values()])
    known = _lab(np.array([list(code) for code in examples], dtype=np.uint8))
    # Lightness counts little: shading changes it within one garment. (x - k)^2 without x^2, which all have.
    scale = np.array([LIGHTNESS, 1, 1], dtype=np.float32)
    x, k = lab * scale, known * scale
    terms = term_of_example[((k**2).sum(axis=1) - 2 * x @ k.T).argmin(axis=1)].astype(np.int32)
    place = (lab + np.array([0, 128, 128])) // CELL + 1
    cells = ((place[:, 0] * CELLS[1] + place[:, 1]) * CELLS[2] + place[:, 2]).astype(np.int32)
    assert (place >= 1).all()
    assert (place < np.array(CELLS)).all()
    return terms, cells


def _lab(rgb_N3: NDArray[np.uint8]) -> NDArray[np.int32]:
    """CIELAB of colours, (n, 3): L in 0..255, a and b in -128..127."""
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    converted = ImageCms.applyTransform(Image.fromarray(rgb_N3[None]), transform)
    assert converted is not None
    lab = np.asarray(converted)[0]
    return np.stack([lab[:, 0].astype(np.int32), *lab[:, 1:].view(np.int8).astype(np.int32).T], axis=-1)
