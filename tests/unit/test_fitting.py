import numpy as np
import pytest
from PIL import Image

from components.fitting import border_colour, pad, resize, training_image

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (1, 1), (5, 20), (32, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_padding_keeps_pixels_exactly(height: int, width: int, channels: int) -> None:
    pixels = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    square = training_image(image, channels, 32, "pad")
    assert square.shape == (channels, 32, 32)
    assert square.dtype == np.uint8
    top, left = (32 - height) // 2, (32 - width) // 2
    crop = square[:, top : top + height, left : left + width]
    assert np.array_equal(crop, pixels.transpose(2, 0, 1))


def test_padding_takes_the_border_colour() -> None:
    pixels = np.full((10, 20, 3), 7, dtype=np.uint8)
    pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1] = (
        (250, 100, 30),
        (250, 100, 30),
        (251, 90, 30),
        (250, 100, 40),
    )
    square = training_image(Image.fromarray(pixels), 3, 32, "pad")
    assert square[:, 0, 0].tolist() == square[:, -1, -1].tolist() == [250, 100, 30]


@pytest.mark.parametrize(
    ("pixels", "colour"),
    [
        ([[1, 1, 1], [1, 99, 1], [1, 1, 8]], 1),
        ([[3, 1, 2]], 2),
        ([[5], [9], [5]], 5),
        ([[4, 8], [4, 8]], 6),
    ],
)
def test_border_colour_is_the_median_of_the_outermost(pixels: list[list[int]], colour: int) -> None:
    assert border_colour(np.array(pixels, dtype=np.uint8)[:, :, None]).tolist() == [colour]


def test_larger_photos_are_made_smaller_first() -> None:
    """Left half black, right half white, twice as wide as high: bars above and below."""
    pixels = np.zeros((64, 128), dtype=np.uint8)
    pixels[:, 64:] = 255
    square = pad(Image.fromarray(pixels), 32)[:, :, 0]
    assert square.shape == (32, 32)
    assert np.all(square[8:24, :13] == 0)
    assert np.all(square[8:24, 19:] == 255)
    assert len(np.unique(square[:8])) == len(np.unique(square[24:])) == 1


def test_making_smaller_does_not_alias() -> None:
    """A checkerboard finer than the target becomes its mean, not a pattern."""
    checkerboard = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    inner = pad(Image.fromarray(checkerboard), 32)[2:-2, 2:-2]
    assert np.all(np.abs(inner.astype(int) - 127) <= 2)


def test_extreme_aspects_keep_a_pixel() -> None:
    assert pad(Image.new("L", (1000, 1), 200), 32).shape == (32, 32, 1)


def test_resizing_fills_the_square() -> None:
    pixels = np.zeros((64, 128), dtype=np.uint8)
    pixels[:, 64:] = 255
    square = resize(Image.fromarray(pixels), 32)[:, :, 0]
    assert np.all(square[:, :13] == 0)
    assert np.all(square[:, 19:] == 255)


def test_grey_photos_among_colours_become_rgb() -> None:
    square = training_image(Image.new("L", (4, 4), 77), 3, 32, "pad")
    assert square.shape == (3, 32, 32)
    assert np.all(square == 77)
