import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from components.photos.decoding import decode
from components.photos.fitting import Fitting, border_colour, fit_rows, region_of, training_image
from tests.photos import draw_photo
from tests.preparing import LIMITS

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
    square = training_image(Image.fromarray(pixels), 1, 32, "pad")[0]
    assert square.shape == (32, 32)
    assert np.all(square[8:24, :13] == 0)
    assert np.all(square[8:24, 19:] == 255)
    assert len(np.unique(square[:8])) == len(np.unique(square[24:])) == 1


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("side", [64, 96, 250, 256, 1000])
def test_making_smaller_does_not_alias(fit: Literal["pad", "resize"], side: int) -> None:
    """A checkerboard finer than the target becomes its mean, not a pattern."""
    checkerboard = (np.indices((side, side)).sum(axis=0) % 2 * 255).astype(np.uint8)
    inner = training_image(Image.fromarray(checkerboard), 1, 32, fit)[0, 2:-2, 2:-2]
    assert np.all(np.abs(inner.astype(int) - 127) <= 3)


def test_making_smaller_keeps_what_a_mean_keeps() -> None:
    """Against means over boxes: near on every pixel of a smooth picture, and of the same mean."""
    rows, columns = np.mgrid[:320, :320] / 320
    smooth = np.round(128 + 60 * np.sin(9 * rows + 2) + 60 * np.cos(11 * columns * rows)).astype(np.uint8)
    means = smooth.reshape(32, 10, 32, 10).mean(axis=(1, 3))
    square = training_image(Image.fromarray(smooth), 1, 32, "pad")[0]
    assert np.abs(square - means).max() < 2
    assert square.mean() == pytest.approx(means.mean(), abs=0.2)


def test_extreme_aspects_keep_a_pixel() -> None:
    square = training_image(Image.new("L", (1000, 1), 200), 1, 32, "pad")
    assert np.all(square == 200)


def test_resizing_fills_the_square() -> None:
    pixels = np.zeros((64, 128), dtype=np.uint8)
    pixels[:, 64:] = 255
    square = training_image(Image.fromarray(pixels), 1, 32, "resize")[0]
    assert np.all(square[:, :13] == 0)
    assert np.all(square[:, 19:] == 255)


def test_grey_photos_among_colours_become_rgb() -> None:
    square = training_image(Image.new("L", (4, 4), 77), 3, 32, "pad")
    assert square.shape == (3, 32, 32)
    assert np.all(square == 77)


CROPPING = Fitting(size=32, fit="pad", channels=3, crop_margin=0.1, compare=False)


def row_of(photo: Image.Image, box: tuple[int, int, int, int] | None = None, **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    photo.save(buffer, **{"format": "PNG", **options})
    whole = (0, 0, photo.width, photo.height)
    return {
        "image": buffer.getvalue(),
        "place": 3,
        "width": photo.width,
        "height": photo.height,
        "box": whole if box is None else box,
    }


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / error))


@given(
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.floats(0, 1),
    st.sampled_from(["pad", "resize"]),
)
def test_a_region_holds_the_product_and_its_margin(
    size: tuple[int, int], ends: list[float], margin: float, fit: Literal["pad", "resize"]
) -> None:
    width, height = size
    left, right = sorted(round(end * (width - 1)) for end in ends[:2])
    top, bottom = sorted(round(end * (height - 1)) for end in ends[2:])
    box = (left, top, right + 1, bottom + 1)
    fitting = Fitting(32, fit, 3, margin, compare=False)
    found = region_of(box, width, height, fitting)
    wanted = margin * max(box[2] - box[0], box[3] - box[1])
    for low, high, limit, start, end in ((box[0], box[2], width, *found[::2]), (box[1], box[3], height, *found[1::2])):
        assert start == pytest.approx(max(0, low - wanted)) or start < low - wanted
        assert end == pytest.approx(min(limit, high + wanted)) or end > high + wanted
        assert 0 <= start < end <= limit
    if fit == "pad" and min(found[:2]) > 0 and found[2] < width and found[3] < height:
        assert found[2] - found[0] == pytest.approx(found[3] - found[1]), "a square, where there is room"


def test_cropping_cuts_the_background_only() -> None:
    photo = Image.new("RGB", (400, 300), (240, 240, 240))
    photo.paste((200, 0, 0), (150, 100, 250, 150))
    square = fit_rows([row_of(photo, (150, 100, 250, 150))], CROPPING, LIMITS).squares_NCHW[0]
    red = square[0].astype(int) - square[1] > 150
    rows, columns = np.nonzero(red)
    # 100 of 120 pixels wide, margins included, are 26.7 of 32.
    assert columns.max() - columns.min() + 1 in (26, 27, 28)
    assert rows.max() - rows.min() + 1 in (12, 13, 14)
    assert np.all(square[:, 0] == 240)


def test_without_cropping_the_box_does_not_matter() -> None:
    photo = draw_photo("dress", "red", np.random.default_rng(0))
    fitting = Fitting(32, "pad", 3, None, compare=False)
    one, other = (fit_rows([row_of(photo, box)], fitting, LIMITS).squares_NCHW for box in (None, (10, 10, 20, 20)))
    assert np.array_equal(one, other)


def test_a_small_product_keeps_its_own_scale() -> None:
    """It is not made larger than it is, even if the photo is decoded at a reduced scale."""
    photo = draw_photo("hat", "blue", np.random.default_rng(0)).resize((800, 800))
    square = fit_rows([row_of(photo, (390, 390, 410, 410), format="JPEG")], CROPPING, LIMITS).squares_NCHW[0]
    full = np.asarray(decode(row_of(photo, format="JPEG")["image"], LIMITS).image).transpose(2, 0, 1)
    assert np.array_equal(square[:, 4:28, 4:28], full[:, 388:412, 388:412])


@pytest.mark.parametrize("compare", [False, True])
def test_thumbnails_and_hashes_come_where_they_are_needed(compare: bool) -> None:
    rows = [row_of(draw_photo("bag", "red", np.random.default_rng(seed))) for seed in range(2)]
    fitted = fit_rows(rows, Fitting(64, "pad", 1, None, compare), LIMITS)
    assert fitted.places_N.tolist() == [3, 3]
    assert fitted.squares_NCHW.shape == (2, 1, 64, 64)
    assert len(fitted.thumbnails_NHWC) == len(fitted.hashes_NK) == (2 if compare else 0)
    assert len(fit_rows([], Fitting(64, "pad", 1, None, compare), LIMITS).squares_NCHW) == 0


def test_decoding_at_a_reduced_scale_costs_no_quality(clothing: Path) -> None:
    """Against Lanczos from all pixels, without a step in between."""
    found = []
    for path in sorted(clothing.glob("*/*/*.jpg"))[::150]:
        with Image.open(path) as photo:
            full = decode(path.read_bytes(), LIMITS).image.convert("RGB")
            row = {**row_of(photo), "image": path.read_bytes(), "width": full.width, "height": full.height}
        row["box"] = (0, 0, full.width, full.height)
        quick = fit_rows([row], Fitting(64, "resize", 3, None, compare=False), LIMITS).squares_NCHW[0]
        slow = np.asarray(full.resize((64, 64), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        found.append(psnr(quick, slow))
    assert np.median(found) > 42
    assert min(found) > 30
