"""Measures against formulas written independently, in floating point, and the library ImageHash."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import laplace

from components.photos.decoding import Decoded, decode
from components.photos.measures import (
    PLAIN_SHARE,
    SIDE,
    background_of,
    blankness,
    colorfulness,
    mean_and_deviation,
    measure,
    perceptual_hash,
    pixel_sha256,
    product_box,
    sharpness,
)
from components.settings import Settings

Encode = Callable[..., bytes]


def noise(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def decoded(image: Image.Image, width: int | None = None, height: int | None = None) -> Decoded:
    return Decoded("PNG", image.mode, 1, width or image.width, height or image.height, image)


def product(
    box: tuple[int, int, int, int], size: tuple[int, int] = (300, 400), background: str = "#f4f3f1"
) -> Image.Image:
    image = Image.new("RGB", size, background)
    ImageDraw.Draw(image).rectangle(box, fill=(40, 60, 120))
    return image


def test_brightness_and_contrast_are_mean_and_deviation() -> None:
    pixels = noise(31, 17)
    np.testing.assert_allclose(mean_and_deviation(Image.fromarray(pixels)), (pixels.mean(), pixels.std()), rtol=1e-12)


def test_one_colour_has_no_contrast() -> None:
    assert mean_and_deviation(Image.new("L", (7, 11), 131)) == (131.0, 0.0)


def test_sharpness_is_the_variance_of_scipys_laplacian() -> None:
    pixels = noise(24, 30)
    expected = laplace(pixels.astype(np.float64))[1:-1, 1:-1].var()
    np.testing.assert_allclose(sharpness(pixels), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 9), (9, 1)])
def test_an_image_without_inner_pixels_has_no_sharpness(shape: tuple[int, int]) -> None:
    assert sharpness(noise(*shape)) == 0.0


def test_blurring_lowers_the_sharpness() -> None:
    image = Image.fromarray(noise(200, 300, 3)).resize((600, 400), Image.Resampling.BICUBIC)
    values = [
        float(measure(decoded(image.filter(ImageFilter.GaussianBlur(radius))))["sharpness"]) for radius in (0, 1, 3)
    ]
    assert values[0] > 3 * values[1] > 9 * values[2]


@pytest.mark.parametrize("factor", [2, 4])
def test_sharpness_is_the_same_for_a_larger_photo_of_the_same(factor: int) -> None:
    image = Image.fromarray(noise(40, 60, 3)).resize((288, 192), Image.Resampling.BICUBIC)
    large = image.resize((288 * factor, 192 * factor), Image.Resampling.NEAREST)
    assert measure(decoded(large))["sharpness"] == measure(decoded(image))["sharpness"]


def test_sharpness_is_much_the_same_for_a_photo_half_as_large_again() -> None:
    image = Image.fromarray(noise(40, 60, 3)).resize((288, 192), Image.Resampling.BICUBIC)
    larger = image.resize((432, 288), Image.Resampling.BICUBIC)
    expected = sharpness(np.asarray(image.convert("L")))
    assert sharpness(np.asarray(larger.convert("L"))) < 0.5 * expected
    np.testing.assert_allclose(float(measure(decoded(larger))["sharpness"]), expected, rtol=0.25)


def test_colorfulness_is_hasler_and_suesstrunks() -> None:
    pixels = noise(20, 30, 3)
    red, green, blue = (pixels[..., channel].astype(np.float64) for channel in range(3))
    rg, yb = red - green, 0.5 * (red + green) - blue
    expected = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    np.testing.assert_allclose(colorfulness(pixels), expected, rtol=1e-12)


def test_grey_has_no_colorfulness() -> None:
    assert colorfulness(np.repeat(noise(9, 9, 1), 3, axis=-1)) == 0.0


def test_blankness_is_the_share_of_the_most_frequent_colour() -> None:
    pixels = np.full((10, 10, 3), 240, np.uint8)
    assert blankness(pixels) == 1.0
    pixels[:3] = (30, 90, 200)
    pixels[9] = (240, 240, 227)  # one step too far in one channel
    assert blankness(pixels) == 0.6
    pixels[9] = (240, 240, 228)
    assert blankness(pixels) == 0.7


def test_background_uniformity_is_the_share_of_the_frame() -> None:
    pixels = noise(50, 50, 3)
    pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:] = 200, 200, 200, 200
    color, share = background_of(pixels)
    assert (color.tolist(), share) == ([200, 200, 200], 1.0)
    pixels[:2] = 100
    assert background_of(pixels)[1] == (4 * 50 - 16 - 50 * 2 + 4 * 50) / (8 * 50 - 16)


@pytest.mark.parametrize("seed", range(20))
def test_the_hash_is_imagehashs_bit_for_bit(seed: int) -> None:
    image = Image.fromarray(noise(12, 9, seed=seed)).resize((90, 120), Image.Resampling.BICUBIC)
    assert perceptual_hash(image) == str(imagehash.phash(image))


def test_a_blank_photos_hash_is_all_zeros() -> None:
    assert {perceptual_hash(Image.new("L", (64, 80), value)) for value in (0, 77, 255)} == {"8" + "0" * 15, "0" * 16}


def test_re_encoding_changes_few_bits_and_another_photo_many(
    clothing: Path, encoded: Encode, settings: Settings
) -> None:
    first, second = (Image.open(path).convert("RGB") for path in sorted(clothing.glob("test/*/*.jpg"))[::200][:2])
    again = decode(encoded(first, "JPEG", quality=30), settings.decoding).image
    hashes = [int(str(measure(decoded(image))["phash"]), 16) for image in (first, again.resize((300, 400)), second)]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 4
    assert (hashes[0] ^ hashes[2]).bit_count() >= 16


def test_exact_duplicates_have_the_same_pixel_hash_whatever_their_files(encoded: Encode, settings: Settings) -> None:
    pixels = noise(30, 40)
    files = [encoded(pixels), encoded(pixels, compress_level=9), encoded(pixels, "BMP")]
    assert len({pixel_sha256(decode(content, settings.decoding, at_least=SIDE)) for content in files}) == 1


def test_other_shapes_sizes_and_modes_of_the_same_bytes_are_no_duplicates() -> None:
    pixels = np.zeros((3, 4), dtype=np.uint8)
    images = [Image.fromarray(pixels), Image.fromarray(pixels.T.copy()), Image.fromarray(pixels.reshape(2, 2, 3))]
    photos = [*map(decoded, images), decoded(images[0], width=8, height=6)]
    assert len({pixel_sha256(photo) for photo in photos}) == 4


def box_of(image: Image.Image) -> tuple[int, ...]:
    measures = measure(decoded(image))
    return tuple(int(measures[f"box_{side}"]) for side in ("left", "top", "right", "bottom"))


@pytest.mark.parametrize("size", [(300, 400), (200, 210), (900, 1200)])
def test_the_box_holds_the_product_and_little_more(size: tuple[int, int]) -> None:
    inner = (size[0] // 4, size[1] // 3, size[0] // 2, size[1] * 3 // 4)
    found = box_of(product(inner, size))
    assert found[0] <= inner[0]
    assert found[1] <= inner[1]
    assert found[2] >= inner[2] + 1
    assert found[3] >= inner[3] + 1
    assert all(abs(a - b) <= max(size) / SIDE + 1 for a, b in zip(found, inner, strict=True))


def test_a_product_that_leaves_the_photo_is_not_cut() -> None:
    image = product((100, 150, 200, 300))
    ImageDraw.Draw(image).rectangle((148, 0, 151, 150), fill=(40, 60, 120))
    assert background_of(np.asarray(image))[1] >= PLAIN_SHARE
    assert box_of(image)[1] == 0


def test_without_a_plain_background_the_box_is_the_whole_photo() -> None:
    image = Image.fromarray(noise(400, 300, 3))
    ImageDraw.Draw(image).rectangle((100, 100, 200, 200), fill="white")
    assert box_of(image) == (0, 0, 300, 400)


def test_a_blank_photos_box_is_the_whole_photo() -> None:
    assert box_of(Image.new("RGB", (300, 400), "white")) == (0, 0, 300, 400)


def test_of_a_white_shirt_on_white_the_buttons_are_not_taken_for_the_product() -> None:
    """The shirt deviates by less than what counts, but its cloth is less quiet than the background."""
    pixels = np.full((400, 300, 3), 245, np.int16)
    pixels[60:360, 50:250] += np.random.default_rng(0).integers(-4, 1, (300, 200, 1), dtype=np.int16)
    pixels[150:250, 130:170] = 60
    assert box_of(Image.fromarray(pixels.astype(np.uint8))) == (0, 0, 300, 400)


def test_a_faint_shadow_belongs_to_the_product() -> None:
    pixels = np.full((400, 300, 3), 245, np.uint8)
    pixels[100:200, 100:200] = 60
    pixels[200:260, 100:220] = 238
    assert product_box(pixels, np.array([245, 245, 245])) == (100, 100, 220, 260)


def test_what_nobody_sees_is_not_measured() -> None:
    """Black, but wholly transparent: laid on white."""
    measures = measure(decoded(Image.new("RGBA", (500, 400), (0, 0, 0, 0))))
    assert (measures["brightness"], measures["contrast"], measures["blankness"]) == (255.0, 0.0, 1.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (2000, 1), (3, 2)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_odd_sizes_can_be_measured(size: tuple[int, int], mode: str) -> None:
    measures = measure(decoded(Image.new(mode, size, 3)))
    assert (measures["box_left"], measures["box_top"]) == (0, 0)
    assert (measures["box_right"], measures["box_bottom"]) == size
    assert all(np.isfinite(value) for value in measures.values() if isinstance(value, float))


def test_colour_is_told_only_where_asked() -> None:
    photo = decoded(product((60, 60, 240, 340)))
    assert measure(photo)["color"] == "blue"
    assert "color" not in measure(photo, color=False)
