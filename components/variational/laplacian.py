"""A reconstruction loss on a Laplacian pyramid: edges count at their own scale."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

SMALLEST = 4
"""Height and width, pixels, of the last level: what a coarser one would tell is a mean."""


def blurred(images_NCHW: Tensor) -> Tensor:
    """Convolved with the binomial filter (1, 4, 6, 4, 1) / 16 in both directions, mirrored at the edges.

    Burt and Adelson, 1983, doi:10.1109/TCOM.1983.1095851.
    """
    channels = images_NCHW.shape[1]
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images_NCHW.device, dtype=images_NCHW.dtype) / 16
    padded = pad(images_NCHW, (2, 2, 2, 2), mode="reflect")
    rows = conv2d(padded, taps.view(1, 1, 5, 1).expand(channels, -1, -1, -1), groups=channels)
    return conv2d(rows, taps.view(1, 1, 1, 5).expand(channels, -1, -1, -1), groups=channels)


def laplacian_pyramid(images_NCHW: Tensor) -> list[Tensor]:
    """What each halving of the resolution loses, finest first, and the small image that is left.

    Args:
        images_NCHW: (N, C, S, S), S a power of two of at least 8.

    Returns:
        (N, C, S, S), (N, C, S / 2, S / 2) ... (N, C, 4, 4).
    """
    levels, current = [], images_NCHW
    while current.shape[-1] > SMALLEST:
        smaller = blurred(current)[:, :, ::2, ::2]
        levels.append(current - enlarged(smaller))
        current = smaller
    return [*levels, current]


def enlarged(images_NCHW: Tensor) -> Tensor:
    """Twice the height and width: zeros between the pixels, blurred, brightness kept."""
    count, channels, height, width = images_NCHW.shape
    spread = images_NCHW.new_zeros(count, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = images_NCHW
    return 4 * blurred(spread)


def laplacian_loss(images_NCHW: Tensor, reconstructions_NCHW: Tensor) -> Tensor:
    """Lap1 per image, (N,): absolute differences of the pyramids' levels, level j weighted by 4^j.

    Bojanowski et al., 2017, arXiv:1707.05776, eq. 3, after Denton et al., 2015, arXiv:1506.05751. The
    weights make up for the levels' number of pixels. Here the sum is over channels and pixels.
    """
    # Autocast would blur in bfloat16, which is coarser than the finest level's values.
    with torch.autocast(images_NCHW.device.type, enabled=False):
        levels = laplacian_pyramid(images_NCHW - reconstructions_NCHW)
        sums = [4.0**number * level.abs().sum(dim=(1, 2, 3)) for number, level in enumerate(levels)]
        return torch.stack(sums).sum(dim=0)
