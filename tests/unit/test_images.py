import numpy as np
import torch

from components.images import grid, picture, to_float, to_rgb, to_uint8


def test_uint8_survives_the_way_to_floats_and_back() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = to_float(images)
    assert floats.min() == -1
    assert floats.max() == 1
    torch.testing.assert_close(to_uint8(floats), images, rtol=0, atol=0)


def test_floats_are_rounded_to_nearest_and_clipped() -> None:
    floats = torch.tensor([-3.0, -1.0, 10.4 / 127.5 - 1, 10.6 / 127.5 - 1, 1.0, 9.0])
    assert to_uint8(floats).tolist() == [0, 0, 10, 11, 255, 255]


def test_bfloat16_is_rounded_as_float32() -> None:
    floats = torch.linspace(-1, 1, 101).to(torch.bfloat16)
    torch.testing.assert_close(to_uint8(floats), to_uint8(floats.float()), rtol=0, atol=0)


def test_grey_becomes_rgb_with_equal_channels() -> None:
    rgb = to_rgb(torch.arange(8).view(2, 1, 2, 2))
    assert rgb.shape == (2, 3, 2, 2)
    torch.testing.assert_close(rgb[:, 0], rgb[:, 2])


def test_grid_puts_images_row_by_row_with_gaps() -> None:
    images = torch.stack([torch.full((3, 4, 5), value, dtype=torch.uint8) for value in (10, 20, 30)])
    sheet = np.asarray(grid(images, columns=2, gap=1, scale=2))
    assert sheet.shape == (2 * (2 * 5 + 1), 2 * (2 * 6 + 1), 3)
    assert sheet[0, 0, 0] == 255
    assert [sheet[4, 4, 0], sheet[4, 16, 0], sheet[14, 4, 0], sheet[14, 16, 0]] == [10, 20, 30, 255]


def test_picture_keeps_colour_order() -> None:
    image = torch.tensor([255, 0, 7], dtype=torch.uint8).view(3, 1, 1)
    assert picture(image).getpixel((0, 0)) == (255, 0, 7)
    assert picture(image[:1]).mode == "L"
