import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from components.variational.laplacian import enlarged, laplacian_loss, laplacian_pyramid

Floats = NDArray[np.float64]


def plain_blur(image: Floats) -> Floats:
    taps = np.array([1, 4, 6, 4, 1]) / 16
    blurred: Floats = convolve1d(convolve1d(image, taps, axis=0, mode="mirror"), taps, axis=1, mode="mirror")
    return blurred


def plain_pyramid(image: Floats) -> list[Floats]:
    """Burt and Adelson's EXPAND and REDUCE, pixel by pixel."""
    levels = []
    while len(image) > 4:
        small = plain_blur(image)[::2, ::2]
        spread = np.zeros_like(image)
        for row in range(len(small)):
            for column in range(len(small)):
                spread[2 * row, 2 * column] = small[row, column]
        levels.append(image - 4 * plain_blur(spread))
        image = small
    return [*levels, image]


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_pyramid_is_that_of_a_plain_one(channels: int, size: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, channels, size, size, dtype=torch.float64)
    levels = laplacian_pyramid(images)
    for number in range(2):
        for channel in range(channels):
            expected = plain_pyramid(images[number, channel].numpy())
            assert [len(level) for level in expected] == [level.shape[-1] for level in levels]
            for level, plain in zip(levels, expected, strict=True):
                torch.testing.assert_close(level[number, channel], torch.from_numpy(plain))


def test_loss_is_the_levels_differences_weighted_by_powers_of_four() -> None:
    torch.manual_seed(0)
    images, others = torch.randn(2, 3, 1, 16, 16, dtype=torch.float64)
    expected = []
    for image, other in zip(images, others, strict=True):
        pairs = zip(plain_pyramid(image[0].numpy()), plain_pyramid(other[0].numpy()), strict=True)
        expected.append(sum(4**number * np.abs(one - two).sum() for number, (one, two) in enumerate(pairs)))
    torch.testing.assert_close(laplacian_loss(images, others), torch.tensor(expected, dtype=torch.float64))


def test_pyramid_gives_the_image_back() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    *levels, whole = laplacian_pyramid(images)
    for level in reversed(levels):
        whole = enlarged(whole) + level
    torch.testing.assert_close(whole, images)


def test_gradients_reach_the_reconstructions() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 8, 8)
    reconstructions = torch.randn(2, 1, 8, 8, requires_grad=True)
    laplacian_loss(images, reconstructions).sum().backward()
    assert reconstructions.grad is not None
    assert (reconstructions.grad != 0).all()
