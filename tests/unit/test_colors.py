from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from components.photos.colors import EXAMPLES, MULTICOLOR, TERMS, _lab, dominant_color, term_shares

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def garment(color: str, background: str, margin: int = 14) -> Pixels:
    """A rectangle on a background, 85x64."""
    pixels = np.empty((85, 64, 3), np.uint8)
    pixels[:] = ImageColor.getrgb(background)
    pixels[margin:-margin, margin:-margin] = ImageColor.getrgb(color)
    return pixels


FOCAL = {
    "black": "#141416",
    "white": "#f4f4f4",
    "grey": "#808080",
    "red": "#c8202a",
    "orange": "#f08020",
    "yellow": "#f0d020",
    "green": "#2a8040",
    "blue": "#2848b0",
    "purple": "#743494",
    "pink": "#f4a0bc",
    "brown": "#6c4424",
}


def test_there_is_a_focal_colour_for_every_term() -> None:
    assert set(FOCAL) == set(EXAMPLES) == set(TERMS) - {MULTICOLOR}


@pytest.mark.parametrize("background", ["#ffffff", "#a82050", "#c8a070", "#30a0a0", "#101010"])
@pytest.mark.parametrize("term", FOCAL)
def test_the_garments_colour_is_named_whatever_the_background(term: str, background: str) -> None:
    """But for a garment of the background's own colour, which is told all the same."""
    assert dominant_color(garment(FOCAL[term], background)) == term


@pytest.mark.parametrize("term", FOCAL)
def test_a_garment_that_fills_the_photo_has_its_colour(term: str) -> None:
    assert dominant_color(garment(FOCAL[term], FOCAL[term])) == term


def test_several_colours_without_a_dominant_one_are_multicolor() -> None:
    pixels = garment("#ffffff", "#ffffff")
    for number, term in enumerate(("red", "green", "blue", "yellow", "black", "purple")):
        pixels[14 + number :: 6, 10:54] = ImageColor.getrgb(FOCAL[term])
    assert dominant_color(pixels) == MULTICOLOR


def test_folds_and_prints_do_not_change_the_colour() -> None:
    pixels = garment(FOCAL["red"], "#d8d8d0")
    pixels[20:24, 14:50] = (110, 15, 25)
    pixels[40:50, 28:36] = 255
    assert dominant_color(pixels) == "red"


def test_a_dark_photo_of_white_is_white() -> None:
    pixels = garment("#ffffff", "#8a1020").astype(np.float64) * 0.8
    assert dominant_color(pixels.astype(np.uint8)) == "white"


def test_shares_are_shares() -> None:
    shares = term_shares(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert shares.shape == (11,)
    np.testing.assert_allclose(shares.sum(), 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (200, 3)])
def test_any_shape_has_a_colour(shape: tuple[int, int]) -> None:
    assert dominant_color(np.full((*shape, 3), 255, np.uint8)) == "white"


def test_lab_is_cielab() -> None:
    """L* of sRGB grey by the CIE's formula, L of 0..255; red's a and b as tables have them for D50."""
    levels = np.array([0, 60, 128, 200, 255], dtype=np.uint8)
    linear = np.where(levels <= 10, levels / 255 / 12.92, ((levels / 255 + 0.055) / 1.055) ** 2.4)
    expected = np.where(linear > 0.008856, 116 * np.cbrt(linear) - 16, 903.3 * linear)
    lab = _lab(np.repeat(levels[:, None], 3, axis=1))
    np.testing.assert_allclose(lab[:, 0] / 2.55, expected, atol=0.5)
    assert np.abs(lab[:, 1:]).max() <= 1
    np.testing.assert_allclose(
        _lab(np.array([[255, 0, 0]], dtype=np.uint8))[0] / [2.55, 1, 1], [54.3, 80.8, 69.9], atol=1
    )


LOOKED_AT = {
    "black": "b1da2943 bf583ce5 b9671bc8 4cf8f135 3878a7f2 5fea042c",
    "white": "13cdd036 ca3b6229 a3c97765 ff8ca4c9 269fac77 f0759fd0 ba12206f 8b0136d2",
    "grey": "095d4783 e9842306 ca9209cb 7155bc52 7dbae619 d0a93d9e f7928953 ad7af6f6 36531270 0eebc4eb 51123cc6",
    "red": "fa53d8bd fa9757e7 7405eabb b053fb25 7af726c0",
    "orange": "c395de85 80799dd7",
    "green": "1f56142e bac70656",
    "blue": "cd505f3c 284568fb 6b779a54 8fdc3533 ea4fad11 b69d769b ec2c79a8 dcac755b 7dc9022e "
    "ec4a6e11 4df30736 61bbb3a2 32b99302 55ffc997 2126322b a0f299ab",
    "purple": "70045b01",
    "pink": "e9824f74 091f88df c1fafe22 36b4e957 d827bf33 ac8a9f3c a70c4767",
    "brown": "961ce467 c9da02e3 cff061d0 3a5f03b9",
}
"""Beginnings of names of photos with one colour beyond doubt, told by eye before the function was asked."""


def test_colours_of_real_photos_are_as_a_person_sees_them(clothing: Path) -> None:
    paths = {path.stem[:8]: path for path in clothing.glob("*/*/*.jpg")}
    seen = {name: color for color, names in LOOKED_AT.items() for name in names.split()}
    wrong = {}
    for name, color in seen.items():
        image = Image.open(paths[name]).convert("RGB")
        found = dominant_color(np.asarray(image.reduce(min(image.size) // 64)))
        if found != color:
            wrong[name] = (color, found)
    assert len(seen) == 62
    assert len(wrong) <= 4, wrong
